#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# srun.sh PARTITION JOB_NAME COMMAND...: runs a command with one process per GPU on a Slurm cluster;
# called by tools/slurm_train.sh and slurm_test.sh. Environment variables:
#   GPUS            total number of GPUs (8)
#   GPUS_PER_NODE   number of GPUs on each machine (8, or GPUS if that is less)
#   CPUS_PER_TASK   number of cores for each process and its dataloader (5)
#   SRUN_ARGS       more flags of srun, separated by spaces
set -euo pipefail

if (($# < 3)); then
    sed -n '3,/^set/s/^# \{0,1\}//p' "$0" >&2
    [[ ${1:-} == -h || ${1:-} == --help ]] && exit
    exit 2
fi
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -ra srun_args <<<"${SRUN_ARGS:-}"
exec srun --partition="$1" --job-name="$2" --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" \
    --gres="gpu:$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} "${@:3}"
