#!/usr/bin/env bash
# Forget every class in turn, one run each, from one pretrained model: Fisher, mask and SFR-on.
#
#   bash scripts/sweep_forget_classes.sh RUN [dataset [gamma [classes...]]] [-- train.py arguments]
#   CUDA_VISIBLE_DEVICES=1 bash scripts/sweep_forget_classes.sh results/cifar10/pretrain/2026_11_21_120000 cifar10
#   bash scripts/sweep_forget_classes.sh RUN digits 2.0 0 3 8 -- --set training.n_iters=100
#
# RUN is a run folder of `--mode pretrain`. Defaults: digits, gamma 1.0, all ten classes; what follows -- goes to the
# SFR-on command. Devices are those of CUDA_VISIBLE_DEVICES. A class whose run is finished is skipped, an unfinished one
# is resumed: stop the sweep and start it again as you like. RUN/sweep_<dataset>_<gamma>/ holds the runs and, at the
# end, runs.tsv: a line per class. On digits a class takes about three minutes on two cores.
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
set -euo pipefail
home="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
fail() { echo "sweep: $*" >&2; exit 2; }

run="${1:?usage: sweep_forget_classes.sh RUN [dataset [gamma [classes...]]] [-- train.py arguments]}"; shift
dataset=digits; gamma=1.0; classes=()
if [ $# -gt 0 ] && [ "$1" != -- ]; then dataset="$1"; shift; fi
if [ $# -gt 0 ] && [ "$1" != -- ]; then gamma="$1"; shift; fi
while [ $# -gt 0 ] && [ "$1" != -- ]; do classes+=("$1"); shift; done
if [ $# -gt 0 ]; then shift; fi
if [ ${#classes[@]} -eq 0 ]; then classes=(0 1 2 3 4 5 6 7 8 9); fi
[ -d "$run" ] || fail "$run: no such run folder (train.py --mode pretrain makes it)"
python="${PYTHON:-$home/.venv/bin/python}"
# the number as the masks are named by: 2 and 2.0 are one threshold
gamma="$("$python" -c 'import sys; print(float(sys.argv[1]))' "$gamma" 2>/dev/null)" || fail "gamma is a number, such as 2.0"
results="$run/sweep_${dataset}_$gamma"
mkdir -p "$results"
printf '%s\n' "$*" > "$results/.arguments.$$"
if [ -f "$results/arguments" ] && ! cmp -s "$results/arguments" "$results/.arguments.$$"; then
  rm "$results/.arguments.$$"; fail "$results: began with the arguments '$(cat "$results/arguments")', now they are '$*'; move it away"
fi
mv "$results/.arguments.$$" "$results/arguments"

for class in "${classes[@]}"; do
  done_file="$results/$class.done"
  if [ -f "$done_file" ]; then echo "class $class: done, $(cat "$done_file")"; continue; fi
  mask="$run/mask_$class/fisher_$gamma.safetensors"
  if [ ! -f "$mask" ]; then
    if [ ! -f "$run/mask_$class/remain_fisher.safetensors" ]; then
      "$python" "$home/train.py" --config "${dataset}_fisher.yml" --mode generate_fisher --ckpt_folder "$run" --label_to_forget "$class"
    fi
    "$python" "$home/generate_fisher_mask.py" --ckpt_folder "$run/mask_$class" --threshold "$gamma"
  fi
  resume=()
  for left in "$results/$dataset/forget_$class/sfron"/*/; do
    if [ -f "${left}logs/origin.json" ]; then resume=(--resume "${left%/}"); fi
  done
  "$python" "$home/train.py" --config "${dataset}_sfron.yml" --mode sfron --ckpt_folder "$run" --label_to_forget "$class" \
    --mask_path "$mask" --set "results=$results" "$@" ${resume[@]+"${resume[@]}"}
  out="$(ls -d "$results/$dataset/forget_$class/sfron"/*/ | tail -n 1)"
  echo "${out%/}" > "$done_file.$$.partial"
  mv "$done_file.$$.partial" "$done_file"
done
for class in "${classes[@]}"; do printf '%s\t%s\n' "$class" "$(cat "$results/$class.done")"; done | tee "$results/runs.tsv"
