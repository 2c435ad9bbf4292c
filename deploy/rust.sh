#!/usr/bin/env bash
# Checks the Rust workspace: format, clippy without a warning, unit tests.
# A Rust from Debian or from maturin's bootstrap may come without rustfmt or clippy; then that check is skipped and said so.
# Usage: deploy/rust.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if cargo fmt --version >/dev/null 2>&1; then
  cargo fmt --all --check
  cargo fmt --manifest-path tests/model/stateright/Cargo.toml --check
else
  echo "rust: no rustfmt here, format not checked (rustup component add rustfmt, or apt-get install rustfmt-web)"
fi
if cargo clippy --version >/dev/null 2>&1; then
  cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
else
  echo "rust: no clippy here, lints not checked (rustup component add clippy)"
fi
# The binding is a Python module and has no tests of its own; pytest runs it.
cargo test --quiet --locked --package invochain-core --package invochain-transport
