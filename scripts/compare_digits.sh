#!/usr/bin/env bash
# Retraining, fine-tuning, gradient ascent, SA, SalUn and SFR-on on real digits, side by side: one table in Markdown,
# LaTeX and CSV under results/comparison. Under two hours on two cores; stop it and start it again as you like.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/compare_digits.py "$@"
