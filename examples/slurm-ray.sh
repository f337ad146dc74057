#!/bin/bash
# One engine on the first node, and workers on all of them. Submit it with: sbatch examples/slurm-ray.sh
#SBATCH --job-name=reviews
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 15
srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
  ray start --address="$address:6379" --num-cpus="$SLURM_CPUS_PER_TASK" --block &

# The key is read on this node from .env, and goes to the workers in memory. Slurm's signal comes two minutes before the
# end of the time: what is in flight still arrives, and the same script goes on from there.
batcher run reviews.csv --prompt-file prompt.txt --ray "$address:6379" --output-dir output --no-progress &
run=$!
trap 'kill -TERM $run' TERM
wait $run || wait $run
