#!/usr/bin/env bash
# A small DiT learns ten upright shapes in the latents of a small autoencoder and forgets the stars, by SFR-on, SalUn, ESD,
# EraseDiff, SA, gradient ascent and fine-tuning, beside a model retrained without them: one table in Markdown, CSV and
# JSON and a picture, under results/dit_shapes.
#
#   bash scripts/dit_shapes.sh [options]
#
#   --out DIR             where everything goes (results/dit_shapes)
#   --methods METHOD ...  only these rows: pretrain, retrain, finetune, ga, esd, erasediff, sa, salun, sfron
#   --per_class N         samples of each class that are judged (50)
#   --prepare             only the autoencoder, the two trainings of the DiT, and the judge
#   --tune                the trials that chose the constants, in place of the comparison
#
# Under an hour on two cores, of which what comes after --prepare is under 40 minutes. Stop it and start it again as you
# like: what is done is skipped.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/dit_shapes.py "$@"
