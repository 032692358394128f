#!/bin/sh
# Train on four machines of eight GPUs each:
#   sbatch examples/slurm.sh d1+llada-8b+gsm8k+8gpu /shared/runs/gsm8k rollout.prompts_per_step=32
# Five minutes before its time limit, or when it is preempted, the job writes a checkpoint and is queued again.
#SBATCH --job-name=diffpo
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -u

recipe=$1 out=$2
shift 2

# One store for each start of the processes: without it a restart may hang (pytorch#135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS=8

requeue() {
  kill -TERM "$step"
  wait "$step"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap requeue TERM

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8 \
  --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" --max-restarts 3 \
  -m diffpo rl "$recipe" --out "$out" --resume auto "$@" &
step=$!
wait "$step"
