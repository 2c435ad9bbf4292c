#!/usr/bin/env bash
# Generates all that is built from proto/:
#   services/invochain/api/      Python messages, stubs and their types, importable as invochain.api.<room>.v1
#   services/gateway/gen/        Go messages, stubs and the REST gateway
#   services/gateway/openapi/    invochain.swagger.json (OpenAPI 2, field names as in proto)
# Works off line once the tools are there: protoc comes inside grpcio-tools, google/api and its like inside
# googleapis-common-protos (copied to third_party/), the Go plug-ins are `tool` lines of services/gateway/go.mod.
# A file that did not change keeps its time stamp, so nothing is rebuilt for nothing.
# Usage: deploy/proto.sh [third-party|python|go]...      (nothing named: all)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
[[ -x $python ]] || { echo "proto: no Python environment; run: make setup" >&2; exit 1; }
# One at a time: two of these would delete each other's files.
exec 9>.cache/proto.lock
flock 9
half=$(mktemp -d .cache/proto.XXXXXX)
trap 'rm -rf "$half"' EXIT

mapfile -t protos < <(find proto -name '*.proto' | LC_ALL=C sort)
((${#protos[@]})) || { echo "proto: no .proto files below proto/" >&2; exit 1; }

# settle NEW PLACE: makes PLACE what NEW is, touching only the files that differ.
settle() {
  local new=$1 place=$2 file
  mkdir -p "$place"
  : >"$half/kept"
  while IFS= read -r -d '' file; do
    if ! cmp -s "$new/$file" "$place/$file"; then
      mkdir -p "$place/$(dirname "$file")"
      mv "$new/$file" "$place/$file.new" && mv "$place/$file.new" "$place/$file"
    fi
    printf '%s\n' "$file" >>"$half/kept"
  done < <(cd "$new" && find . -type f -print0)
  while IFS= read -r -d '' file; do
    grep -qxF "$file" "$half/kept" || rm "$place/$file"
  done < <(cd "$place" && find . -type f -not -name '*.pyc' -print0)
}

protoc() {
  "$python" -m grpc_tools.protoc --proto_path=proto --proto_path=third_party/googleapis "$@"
}

third_party() {
  echo "proto: google/api, google/rpc and google/type from googleapis-common-protos"
  local source part
  source=$("$python" -c 'import google.rpc, pathlib; print(pathlib.Path(list(google.rpc.__path__)[0]).parent)')
  for part in api rpc type; do
    mkdir -p "$half/googleapis/google/$part"
    (cd "$source/$part" && find . -maxdepth 1 -name '*.proto' -exec cp {} "$OLDPWD/$half/googleapis/google/$part/" \;)
  done
  settle "$half/googleapis" third_party/googleapis
}

python_code() {
  echo "proto: Python into services/invochain/api"
  mkdir -p "$half/python"
  protoc --python_out="$half/python" --pyi_out="$half/python" --grpc_python_out="$half/python" \
    --plugin=protoc-gen-mypy_grpc=.venv/bin/protoc-gen-mypy_grpc --mypy_grpc_out="quiet:$half/python" "${protos[@]}"
  # The import linter and the wheel see packages only; each level says what it is.
  local folder
  while IFS= read -r -d '' folder; do
    printf '"""Generated from proto/ by `make proto`; never edited."""\n' >"$folder/__init__.py"
  done < <(find "$half/python/invochain/api" -type d -print0)
  touch "$half/python/invochain/api/py.typed"
  settle "$half/python/invochain/api" services/invochain/api
}

go_code() {
  echo "proto: Go and OpenAPI into services/gateway (the first build of the plug-ins takes minutes)"
  mkdir -p .cache/go-tools "$half/go" "$half/openapi"
  (cd services/gateway && go build -o ../../.cache/go-tools/ tool)
  local tools=.cache/go-tools module=module=invochain/gateway/gen services=()
  mapfile -t services < <(printf '%s\n' "${protos[@]}" | grep '_service\.proto$')
  protoc \
    --plugin="protoc-gen-go=$tools/protoc-gen-go" --go_out="$half/go" --go_opt="$module" \
    --plugin="protoc-gen-go-grpc=$tools/protoc-gen-go-grpc" --go-grpc_out="$half/go" --go-grpc_opt="$module" \
    "${protos[@]}"
  # strict_deep_wildcard: /v1/stock lists, /v1/stock/{sku} reads one; the empty SKU is not one.
  protoc \
    --plugin="protoc-gen-grpc-gateway=$tools/protoc-gen-grpc-gateway" \
    --grpc-gateway_out="$half/go" --grpc-gateway_opt="$module,strict_deep_wildcard=true" \
    --plugin="protoc-gen-openapiv2=$tools/protoc-gen-openapiv2" --openapiv2_out="$half/openapi" \
    --openapiv2_opt=allow_merge=true,merge_file_name=invochain,json_names_for_fields=false \
    --openapiv2_opt=disable_default_errors=true,preserve_rpc_order=true,openapi_naming_strategy=simple \
    --openapiv2_opt=allow_patch_feature=true \
    "${services[@]}"
  settle "$half/go" services/gateway/gen
  mkdir -p services/gateway/openapi
  mv "$half/openapi/invochain.swagger.json" services/gateway/openapi/invochain.swagger.json
}

for step in "${@:-all}"; do
  case $step in
    third-party) third_party ;;
    python) third_party && python_code ;;
    go) third_party && go_code ;;
    all) third_party && python_code && go_code ;;
    *) echo "proto: no step called $step; wanted: third-party, python, go" >&2; exit 2 ;;
  esac
done
