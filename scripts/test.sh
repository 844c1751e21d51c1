#!/usr/bin/env bash
# Sets up .venv and runs the whole test suite.
#
#   bash scripts/test.sh [pytest arguments]
#   bash scripts/test.sh tests/sampling -k sheet     only these
#   bash scripts/test.sh -m gpu                      those that need a CUDA device
#   bash scripts/test.sh -n 0                        one process; by default two share it, a file to one of them, as its
#                                                    tests share what they have made
#
# Seven to ten minutes on two cores.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
