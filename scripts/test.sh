#!/usr/bin/env bash
# Sets up .venv and runs the whole test suite: bash scripts/test.sh [pytest arguments]
# Two processes share it, a file to one of them, as its tests share what they have made. -n 0 is one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
