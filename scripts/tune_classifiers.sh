#!/usr/bin/env bash
# The trials by which the constants of the classifiers' comparison were chosen: nine for each method, on validation
# seeds and validation images that the comparison does not use. results/classifiers/constants.json.
#
#   bash scripts/tune_classifiers.sh [options]      those of scripts/compare_classifiers.sh: --out, --models, ...
#
# Longer than the comparison (nine trials for each method; never timed). Stop it and start it again as you like, and in
# pieces.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_classifiers.py --tune "$@"
