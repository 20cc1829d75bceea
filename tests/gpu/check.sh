#!/usr/bin/env bash
# Everything that needs a GPU, in one table: under 8 minutes on one H100, --quick under 3.
#
#   tests/gpu/check.sh --output table.md
#   tests/gpu/check.sh --device cpu --small      # every line of it with tiny shapes, where there is no GPU
#
# PYTHON chooses the interpreter; .venv's, if it is left out and there is one.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-.venv/bin/python}"
[ -x "$(command -v "$python")" ] || python=python3
exec "$python" tests/gpu/check.py "$@"
