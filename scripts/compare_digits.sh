#!/usr/bin/env bash
# Retraining, fine-tuning, gradient ascent, SA, SalUn and SFR-on on real digits, side by side: one table in Markdown,
# LaTeX, CSV and JSON and a plot, under results/comparison.
#
#   bash scripts/compare_digits.sh [options]
#
#   --out DIR             where everything goes (results/comparison)
#   --methods METHOD ...  only these rows: pretrain, retrain, finetune, ga, sa, salun, sfron
#   --only_cases N        the first N of the five (class, seed) cases: (0, 0) (0, 1) (0, 2) (3, 0) (8, 0)
#   --per_class N         samples of each class that are judged (100)
#   --tune                the trials that chose the constants, in place of the comparison (scripts/tune_digits.sh)
#
# Under two hours on two cores. Stop it and start it again as you like: what is done is skipped.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_digits.py "$@"
