#!/usr/bin/env bash
# Every program on the digits with the default budget, three seeds; the numbers of each run into
# this folder. `python experiments/digits/table.py` makes the table of the README from them.
set -euo pipefail
cd "$(dirname "$0")/../.."

programs=(VSimCLR VSupCon VarCon SimCLR SupCon CrossEntropy MoCo BYOL SwAV VICReg BarlowTwins MCInfoNCE)
for seed in 0 1 2; do
  for program in "${@:-${programs[@]}}"; do
    options=()
    [ "$program" = CrossEntropy ] && options+=(--model.program.num_classes 10)
    name="$(tr '[:upper:]' '[:lower:]' <<<"$program")-seed$seed"
    probcl fit --model.program "$program" "${options[@]}" --seed_everything "$seed" \
      --run_dir "runs/digits/$name" --trainer.enable_progress_bar false
    cp "runs/digits/$name/metrics.json" "experiments/digits/$name.json"
  done
done
