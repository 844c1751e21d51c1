#!/usr/bin/env bash
# The trials by which the constants of the comparison were chosen: six for each method, at most 350 steps each, on a
# validation seed that the comparison does not use. About three quarters of an hour on two cores; resumable like the comparison.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_digits.py --tune "$@"
