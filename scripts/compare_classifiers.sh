#!/usr/bin/env bash
# The comparison of classifiers: 14 methods, a small CNN and ResNet-18 on digits, one table in Markdown, LaTeX and CSV
# and a plot, under results/classifiers.
#
#   bash scripts/compare_classifiers.sh [options]
#
#   --out DIR              where everything goes (results/classifiers)
#   --models MODEL ...     only these: cnn, resnet18
#   --scenarios WHAT ...   only these: random (a tenth of the images), class
#   --methods METHOD ...   only these rows, by their names of train.py's --mode; rl is salun without a mask
#   --n_seeds N            only the first N seeds of each model and scenario
#   --constants FILE       what --tune chose (scripts/classifier_constants.json)
#   --tune                 the trials on validation seeds, in place of the comparison (scripts/tune_classifiers.sh)
#
# About twenty minutes on two cores with two processes of one thread, --models cnn and --models resnet18; then once more
# for the table of both. Stop it and start it again as you like.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_classifiers.py "$@"
