#!/usr/bin/env bash
# The classifiers' comparison of the README: 14 methods, a small CNN and ResNet-18 on digits. Stop it and start it again
# as you like; --models, --scenarios, --methods and --n_seeds run it in pieces.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_classifiers.py "$@"
