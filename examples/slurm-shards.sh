#!/bin/bash
# Eight engines, each with an eighth of the table, the limits and the budget; no Ray. Submit: sbatch examples/slurm-shards.sh
# If one of them did not come to its end, submit it alone, and it goes on: sbatch --array=3 examples/slurm-shards.sh
#SBATCH --job-name=reviews
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

# Not SLURM_ARRAY_TASK_COUNT: that is 1 if one shard is submitted again. `exec`, so that Slurm's signal, two minutes before
# the end of the time, reaches batcher: what is in flight still arrives.
exec batcher run reviews.csv --prompt-file prompt.txt --rpm 4000 --budget 80 --max-concurrency 2048 \
  --shard "$SLURM_ARRAY_TASK_ID/8" --output-dir output --no-progress

# When all are done, on any machine that sees the output directory: batcher merge reviews
