#!/usr/bin/env bash
# The trials by which the constants of the comparison on digits were chosen: six for each method, at most 350 steps
# each, on a validation seed that the comparison does not use. results/comparison/tuning.md and .tex, .csv, .json.
#
#   bash scripts/tune_digits.sh [options]      those of scripts/compare_digits.sh: --out, --methods, --per_class
#
# About three quarters of an hour on two cores. Stop it and start it again as you like.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_digits.py --tune "$@"
