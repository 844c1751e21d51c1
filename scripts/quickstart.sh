#!/usr/bin/env bash
# The main job on real data, from nothing: pretrain a diffusion model on handwritten digits, make it forget one class,
# and show what was forgotten and what was kept. bash scripts/quickstart.sh [--label_to_forget 3] [--help]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/quickstart.py "$@"
