#!/bin/bash
# Eight engines, each with an eighth of the table, the limits and the budget; no Ray. Submit: sbatch examples/slurm-shards.sh
#SBATCH --job-name=reviews
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=12:00:00
set -euo pipefail

batcher run reviews.csv --prompt-file prompt.txt --rpm 4000 --budget 80 --max-concurrency 2048 \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --output-dir output --no-progress

# When all are done, on any machine that sees the output directory: batcher merge reviews
