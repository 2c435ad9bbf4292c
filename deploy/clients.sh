#!/usr/bin/env bash
# Builds the client stubs from proto/ and checks that they, the clients and their examples compile:
#   clients/go/gen/            messages and gRPC stubs, import path invochain/client/gen/...
#   clients/typescript/gen/    messages for protobuf-es; dist/ is the compiled client
# Needs what `make setup` installs, and Node 20 or newer for TypeScript; a machine without Node gets the rest and is told.
# Usage: deploy/clients.sh [go|typescript]...      (nothing named: both)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
python=.venv/bin/python
next=.cache/clients
[[ -x $python ]] || { echo "clients: no Python environment; run: make setup" >&2; exit 1; }
[[ -d third_party/googleapis ]] || { echo "clients: no third_party/googleapis; run: make proto" >&2; exit 1; }

mapfile -t protos < <(cd proto && find invochain -name '*.proto' | LC_ALL=C sort)

protoc() {
  "$python" -m grpc_tools.protoc --proto_path=proto --proto_path=third_party/googleapis "$@"
}

# place NEW OLD: puts what was generated where it belongs, whole.
place() {
  rm -rf "$2"
  mkdir -p "$(dirname "$2")"
  mv "$1" "$2"
}

go_client() {
  echo "clients: Go into clients/go/gen"
  mkdir -p .cache/go-tools
  (cd services/gateway && go build -o ../../.cache/go-tools/ tool)
  rm -rf "$next/go" && mkdir -p "$next/go"
  local options=() file
  # The protos name the gateway's packages; the client's are its own.
  for file in "${protos[@]}"; do
    local room=${file#invochain/api/}
    room=${room%%/*}
    options+=("--go_opt=M$file=invochain/client/gen/invochain/api/$room/v1;${room}v1")
    options+=("--go-grpc_opt=M$file=invochain/client/gen/invochain/api/$room/v1;${room}v1")
  done
  protoc --plugin=.cache/go-tools/protoc-gen-go --go_out="$next/go" --go_opt=module=invochain/client \
    --plugin=.cache/go-tools/protoc-gen-go-grpc --go-grpc_out="$next/go" --go-grpc_opt=module=invochain/client \
    "${options[@]}" "${protos[@]}"
  place "$next/go/gen" clients/go/gen
  (cd clients/go && go vet ./... && go test ./...)
}

typescript_client() {
  if ! command -v npm >/dev/null || ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)'; then
    echo "clients: no Node 20 or newer here, so no TypeScript; mend it with: apt-get install nodejs npm, or your distribution's Node 20" >&2
    return 1
  fi
  echo "clients: TypeScript into clients/typescript/gen"
  (cd clients/typescript && npm ci --no-audit --no-fund --loglevel=error)
  rm -rf "$next/typescript" && mkdir -p "$next/typescript"
  protoc --plugin=protoc-gen-es=clients/typescript/node_modules/.bin/protoc-gen-es \
    --es_out="$next/typescript" --es_opt=target=ts,import_extension=js \
    "${protos[@]}" google/api/annotations.proto google/api/http.proto google/api/field_behavior.proto \
    google/rpc/status.proto google/rpc/error_details.proto google/type/date.proto
  place "$next/typescript" clients/typescript/gen
  rm -rf clients/typescript/dist
  (cd clients/typescript && npm run --silent build && npm test --silent)
}

for step in "${@:-all}"; do
  case $step in
    go) go_client ;;
    typescript) typescript_client ;;
    all)
      go_client
      typescript_client
      ;;
    *) echo "clients: no step called $step; wanted: go, typescript" >&2; exit 2 ;;
  esac
done
rm -rf "$next"
