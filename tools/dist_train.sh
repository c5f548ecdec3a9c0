#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# Trains with one process per GPU on this machine; without GPUs, the processes use the CPU.
# On several machines: run it on each, with the same GPUS and MASTER_ADDR, and another NODE_RANK.
set -euo pipefail

if (($# < 2)); then
    echo "usage: $0 CONFIG GPUS [flags of tools/train.py]" >&2
    echo "several machines: NNODES=2 NODE_RANK=0|1 MASTER_ADDR=ADDRESS_OF_0 [PORT=29500] $0 ..." >&2
    [[ ${1:-} == -h || ${1:-} == --help ]] && exit
    exit 2
fi
config=$1 gpus=$2
tools=$(dirname "${BASH_SOURCE[0]}")
exec python "$tools/misc/launch.py" "$gpus" "$tools/train.py" "$config" --launcher pytorch "${@:3}"
