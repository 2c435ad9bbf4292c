# Every command there is. `make help` lists them; a step that is up to date costs nothing.
# All paths are relative to this folder, which may be anywhere and may have spaces in its name.
MAKEFLAGS += --no-builtin-rules
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.cache/bin:$(PATH)
# The environment is ours; a user's own settings for other Python projects must not reach into it.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX
export UV_PROJECT_ENVIRONMENT := .venv

STAMP := .cache/stamp
# A stamp counts only while what it stands for is there: deleting .venv sets the work up again.
gone = $(foreach path,$(1),$(if $(wildcard $(path)),,missing))

PROTOS := $(shell find proto -name '*.proto' 2>/dev/null)
RUST := $(shell find core-rs -name '*.rs' -o -name '*.toml' -o -name '*.csv' 2>/dev/null) Cargo.toml Cargo.lock
GO := $(shell find services/gateway -name '*.go' -not -path '*/gen/*' 2>/dev/null) \
      $(wildcard services/gateway/go.mod services/gateway/go.sum)
GATEWAY := services/gateway/bin/invochain-gateway
DESCRIPTOR := proto/released/v1.binpb

# Seconds since the command was typed, in front of each long step. (No commas in the text: make would cut it there.)
STARTED := $(shell date +%s)
say = printf '\033[1m[%3d s] %s\033[0m\n' $$(($$(date +%s) - $(STARTED))) $(1)
# need PATH: ends a command whose room is not built yet in words, not in a stack of errors.
need = test -e $(1) || { echo 'make $@: there is no $(1) in this release'; exit 1; }

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s%s\n", $$1, $$2 }' Makefile

# ---------------------------------------------------------------- set-up and build
.PHONY: setup proto build missing
missing:

setup: $(STAMP)/setup ## install what is needed into .venv and .cache (uv, Python packages, Go, Rust)
$(STAMP)/setup: uv.lock deploy/setup.sh $(call gone,.venv/bin/python)
	@$(call say,'set-up: tools and packages')
	@deploy/setup.sh
	@mkdir -p $(STAMP) && touch $@

proto: $(STAMP)/proto-python $(STAMP)/proto-go ## generate Python, Go and OpenAPI from proto/
$(STAMP)/proto-python: $(STAMP)/setup $(PROTOS) deploy/proto.sh $(call gone,services/invochain/api/__init__.py)
	@$(call say,'contract: Python')
	@deploy/proto.sh python
	@touch $@
$(STAMP)/proto-go: $(STAMP)/setup $(PROTOS) deploy/proto.sh services/gateway/go.mod $(call gone,services/gateway/gen)
	@$(call say,'contract: Go and OpenAPI')
	@deploy/proto.sh go
	@touch $@

build: $(STAMP)/core $(GATEWAY) ## build the Rust core and the Go gateway (with proto)
# Editable: the package is this folder, with _core.abi3.so beside its Python files, and the command `invochain`.
$(STAMP)/core: $(STAMP)/proto-python $(RUST) pyproject.toml $(call gone,services/invochain/_core.abi3.so .venv/bin/invochain)
	@$(call say,'Rust core (the first build takes a minute or two)')
	@maturin develop --release --locked --uv --quiet $(if $(filter pyproject.toml missing $(STAMP)/setup,$?),,--skip-install) \
	   >.cache/core.log 2>&1 || { cat .cache/core.log; exit 1; }
	@touch $@
$(GATEWAY): $(STAMP)/proto-go $(GO)
	@$(call say,'Go gateway (the first build takes a minute or two)')
	@cd services/gateway && go build -trimpath -o bin/invochain-gateway .
	@touch $@

# ---------------------------------------------------------------- run
.PHONY: run demo
run: build ## start everything, walk the main job, stay up until Ctrl-C (ARGS='--ephemeral')
	@invochain up --demo $(ARGS)

demo: build ## the same on a throw-away data folder, then stop; 0 only if every step gave what it should
	@invochain up --demo --ephemeral --exit $(ARGS)

# ---------------------------------------------------------------- checks and tests
.PHONY: check test lint types doors rust go contract fast-tests
check: lint types doors rust go contract fast-tests ## format, lint, types, doors, house and unit tests: the loop while writing

lint: build
	@$(call say,'ruff: format and lint')
	@ruff format --check --quiet . && ruff check --quiet .
types: build
	@$(call say,'mypy')
	@mypy
doors: build
	@$(call say,'import-linter: the doors between the rooms')
	@lint-imports --no-logo
rust: $(STAMP)/setup
	@$(call say,'Rust: format; clippy; tests')
	@deploy/rust.sh
go: $(STAMP)/proto-go
	@$(call say,'Go: format; vet; tests')
	@cd services/gateway && files=$$(gofmt -l .) && { [[ -z $$files ]] || { echo "not formatted (gofmt -w):" $$files; exit 1; }; }
	@cd services/gateway && go vet ./... && go test ./...
contract: $(STAMP)/proto-python
	@$(call say,'buf: lint; breaking changes')
	@buf lint --config proto/buf.yaml
	@buf build --config proto/buf.yaml --path proto/invochain -o - | \
	   buf breaking - --config proto/buf.yaml --against $(DESCRIPTOR)
fast-tests: build
	@$(call say,'house and unit tests')
	@pytest $(wildcard tests/house tests/unit)

test: check ## install, build and run all checks and tests
	@$(call say,'all other tests: contract; guards; integration; model; oracle; simulation')
	@pytest --ignore=tests/house --ignore=tests/unit --ignore=tests/chaos
	@$(call say,'chaos in short form')
	@pytest tests/chaos
	@$(call say,'one result for one key; kill -9 around the decision: over grpcio too')
	@INVOCHAIN_TRANSPORT=grpcio pytest tests/chaos/test_same_answer.py tests/chaos/test_kill_points.py -k 'commit or done or misuse'

.PHONY: release-contract
release-contract: $(STAMP)/proto-python ## freeze the contract: later changes must not break it
	@buf build --config proto/buf.yaml --exclude-source-info --path proto/invochain -o $(DESCRIPTOR)
	@ls -l $(DESCRIPTOR)

# ---------------------------------------------------------------- clients, and what wants a quiet machine
.PHONY: clients bench bench-size soak chaos fuzz mutants
clients: $(STAMP)/proto-go ## build the Go and TypeScript client stubs
	@deploy/clients.sh
bench: build ## measure on this machine (benchmarks/)
	@$(call need,benchmarks/run.py)
	@python benchmarks/run.py $(ARGS)
bench-size: build ## reads and writes beside ten million invoices (30 GB free; ARGS='--invoices 1_000_000' is quicker)
	@python benchmarks/size.py $(ARGS)
soak: build ## 100 invoices a second for an hour: latencies and memory of every process (ARGS='--seconds 300' is quicker)
	@python benchmarks/soak.py $(ARGS)
chaos: build ## one file per failure, and the long forms of the proofs; wants a quiet machine
	@$(call need,tests/chaos)
	@$(call say,'the short forms over grpcio')
	@INVOCHAIN_TRANSPORT=grpcio pytest tests/chaos $(ARGS)
	@$(call say,'everything over the default door')
	@pytest -m 'long or not long' tests/chaos $(ARGS)
	@$(call say,'the long forms of the proofs')
	@pytest -m long tests/model tests/simulation tests/stateful tests/integration
	@cat tests/chaos/results/summary.txt
fuzz: build ## fuzz the Rust core (FUZZ_S seconds a target; nightly Rust, cargo-fuzz), then 10 million documents against the oracle
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { echo 'a nightly Rust or cargo-fuzz is missing; install them:' \
	   'rustup toolchain install nightly && cargo install cargo-fuzz'; exit 1; }
	@for target in $$(cargo +nightly fuzz list --fuzz-dir core-rs/fuzz); do \
	   cargo +nightly fuzz run --fuzz-dir core-rs/fuzz "$$target" -- -max_total_time=$(or $(FUZZ_S),60); done
	@$(call say,'the engine against the oracle: ten million documents (about 45 minutes of a core)')
	@python -m tests.oracle.differential $(or $(FUZZ_DOCUMENTS),10_000_000)
mutants: $(STAMP)/setup ## change the Rust core and see whether a test notices (needs cargo-mutants)
	@cargo mutants --version >/dev/null 2>&1 || { echo 'cargo-mutants is missing; install it: cargo install cargo-mutants'; exit 1; }
	@cargo mutants --config core-rs/core/mutants.toml --jobs 2 $(ARGS)

# ---------------------------------------------------------------- cleaning
.PHONY: clean distclean
clean: ## remove what was built; keeps .venv and toolchains
	@rm -rf target dist $(STAMP) services/invochain/api services/invochain/*.so services/gateway/bin services/gateway/gen \
	   services/gateway/openapi/*.json third_party clients/go/gen clients/typescript/gen \
	   .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@echo 'removed what was built; the data folder of `make run` is left as it is'
distclean: clean ## also remove .venv and .cache
	@rm -rf .venv .cache
