#!/usr/bin/env bash
# The tests of the compiled modules against a debug build (LLMGW_DEBUG in setup.py), made in a copy of
# the tree so that the real build stays as it is.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$root"/{llmgw,tests,config,docs,setup.py,pyproject.toml,README.md,LICENSE} "$copy"
find "$copy/llmgw" \( -name '*.so' -o -name '*.c' \) -delete
cd "$copy"
LLMGW_DEBUG=1 "$root/.venv/bin/python" setup.py -q build_ext --inplace
PYTHONPATH="$copy" "$root/.venv/bin/pytest" -p no:cacheprovider tests/core tests/wire
