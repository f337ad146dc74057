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
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since Slurm 22.05 srun does not take it from sbatch
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

# What Ray starts inherits the environment of `ray start`, so no key may be in that.
start_ray() {
  local count=$1 which=$2
  shift 2
  env -u API_KEY srun --nodes="$count" --ntasks="$count" "$which" ray start "$@" --block &
}

# The engine has one CPU of the first node.
start_ray 1 --nodelist="$head" --head --node-ip-address="$address" --port=6379 --num-cpus=$((SLURM_CPUS_PER_TASK - 1))
for _ in {1..60}; do
  if ray status --address="$address:6379" &> /dev/null; then break; fi
  sleep 2
done
if ((SLURM_NNODES > 1)); then
  start_ray $((SLURM_NNODES - 1)) --exclude="$head" --address="$address:6379" --num-cpus="$SLURM_CPUS_PER_TASK"
fi
workers=$((SLURM_NNODES * SLURM_CPUS_PER_TASK - 1))

# The key is read on this node from .env, and goes to the workers in memory. Slurm's signal comes two minutes before the
# end of the time: what is in flight still arrives, and the same script goes on from there.
trap 'kill -TERM $!' TERM
batcher run reviews.csv --prompt-file prompt.txt --ray "$address:6379" --ray-workers "$workers" \
  --output-dir output --no-progress &
run=$!
wait $run || wait $run
