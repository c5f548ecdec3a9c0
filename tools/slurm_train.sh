#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# Trains on a Slurm cluster; tools/misc/srun.sh lists the environment variables.
set -euo pipefail

if (($# < 4)); then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...]" \
        "$0 PARTITION JOB_NAME CONFIG WORK_DIR [flags of tools/train.py]" >&2
    [[ ${1:-} == -h || ${1:-} == --help ]] && exit
    exit 2
fi
tools=$(dirname "${BASH_SOURCE[0]}")
exec "$tools/misc/srun.sh" "$1" "$2" python -u "$tools/train.py" "$3" --work-dir "$4" \
    --launcher slurm "${@:5}"
