#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# Tests on a Slurm cluster; tools/misc/srun.sh lists the environment variables.
set -euo pipefail

if (($# < 4)); then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...]" \
        "$0 PARTITION JOB_NAME CONFIG CHECKPOINT [flags of tools/test.py]" >&2
    [[ ${1:-} == -h || ${1:-} == --help ]] && exit
    exit 2
fi
tools=$(dirname "${BASH_SOURCE[0]}")
exec "$tools/misc/srun.sh" "$1" "$2" python -u "$tools/test.py" "$3" "$4" \
    --launcher slurm "${@:5}"
