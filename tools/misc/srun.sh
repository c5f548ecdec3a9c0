#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# srun.sh PARTITION JOB_NAME COMMAND...: runs a command on GPUs of a Slurm cluster, one process each;
# for tools/slurm_train.sh and slurm_test.sh. Environment:
#   GPUS            in all (8)
#   GPUS_PER_NODE   on each machine (8, or GPUS if that is less)
#   CPUS_PER_TASK   cores of each process, for its dataloader (5)
#   SRUN_ARGS       more flags of srun, separated by blanks
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
