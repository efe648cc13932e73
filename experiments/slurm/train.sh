#!/bin/bash
# Train on a cluster: sbatch experiments/slurm/train.sh --config FILE [more options of probcl fit]
#
# A job that reaches its time limit saves a checkpoint and puts itself back into the queue; the next
# one goes on from the newest whole checkpoint. Set nodes, GPUs, partition and environment for yours.
#SBATCH --job-name=probcl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.out

set -uo pipefail
source "${VENV:-.venv}/bin/activate"

# One folder for all parts of the job, whatever the number of times it is queued.
run_dir="runs/slurm-${SLURM_JOB_ID}"

srun --kill-on-bad-exit=0 probcl fit "$@" \
    --trainer.num_nodes "$SLURM_NNODES" \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.sync_batchnorm true \
    --trainer.plugins lightning.pytorch.plugins.environments.SLURMEnvironment \
    --trainer.plugins.auto_requeue false \
    --run_dir "$run_dir" --ckpt_path last
status=$?

# 143: told to stop before it was done.
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
