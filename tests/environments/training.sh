#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# Makes an environment of its own, installs kapao_mm into it from a wheel, and runs the fast tests there.
#   tests/environments/training.sh classic|current [FOLDER]      FOLDER keeps the environment (default: a temporary one)
#   MMCV=full                                                    compiles MMCV's operators (16 minutes divided by the cores)
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly name=$1 folder=${2:-$(mktemp -d)}
[[ -n ${2:-} ]] || trap 'rm -rf "$folder"' EXIT
readonly python=$folder/bin/python requirements=tests/environments/$name.txt

"${PYTHON:-python3.11}" -m venv "$folder"
"$python" -m pip install --quiet --disable-pip-version-check -r "$requirements" wheel
"$python" -m pip install --quiet --disable-pip-version-check --no-deps 'mmpose==1.3.2'
if [[ ${MMCV:-light} == full ]]; then
    "$python" -m pip uninstall --quiet --yes mmcv-lite
    CUDA_VISIBLE_DEVICES='' FORCE_CUDA=0 MMCV_WITH_OPS=1 "$python" -m pip install --no-build-isolation --no-deps --no-binary mmcv mmcv==2.1.0
fi
before=$("$python" -m pip freeze --all)
"$python" -m pip install --quiet --disable-pip-version-check . # must leave everything else as it is
after=$("$python" -m pip freeze --all | grep -v '^kapao')
[[ $before == "$after" ]] || { echo "installing kapao-mm changed other packages:"; diff <(echo "$before") <(echo "$after"); exit 1; }
"$python" tools/misc/check_environment.py
"$python" -m pytest -q -n 2 --dist loadfile -m 'not slow'
