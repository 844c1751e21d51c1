#!/usr/bin/env bash
# The trials by which the constants of the classifiers' comparison were chosen: nine for each method, on validation
# seeds and validation images that the comparison does not use. Resumable, and in pieces like the comparison.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_classifiers.py --tune "$@"
