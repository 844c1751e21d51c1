#!/usr/bin/env bash
# The main job on real data, from nothing: pretrain a diffusion model on handwritten digits, make it forget one class,
# and show what was forgotten and what was kept.
#
#   bash scripts/quickstart.sh [options]
#
#   --label_to_forget C   the digit to forget (0)
#   --seed S              of everything random (0)
#   --out DIR             where everything goes (results/quickstart)
#   --per_class N         samples of each class that are judged (150)
#   --pretrain_steps N, --unlearn_steps N, --judge_epochs N
#                         shorter or longer training
#
# Stopped and started again it goes on where it was; another digit starts from the model that is there. The exit code is
# 1 where the digit was not forgotten or the others suffered, unless you chose the sizes.
#
# Minutes on two cores, it says how many at its start; the first time also one to four minutes and about 8 GB for .venv.
# It writes DIR/before_after.png and DIR/metrics.json and prints a table.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/quickstart.py "$@"
