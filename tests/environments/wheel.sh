#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# Installs the wheel into an empty environment and walks through it outside any checkout: configs by name, a config of
# one's own, a short training on toy people, test, prediction, export, and the exported file.
#   tests/environments/wheel.sh [FOLDER]      FOLDER keeps everything (default: a temporary one)
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly folder=$(realpath "${1:-$(mktemp -d)}")
[[ -n ${1:-} ]] || trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"

"${PYTHON:-python3.11}" -m venv "$folder/venv"
export PATH=$folder/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
pip wheel --quiet --no-deps -w "$folder" .
pip install --quiet "$(compgen -G "$folder/kapao_mm-*.whl")[train,export,onnxruntime,opencv]"
pip install --quiet --no-deps 'mmpose>=1.3.2,<1.4'

cd "$folder" # outside the checkout
kapao --version
kapao check-environment
python -m kapao_mm.datasets.toy toys --train 8 --val 2
kapao config kapao_n_toy >mine.py
cat >>mine.py <<'CONFIG'
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
CONFIG
options=(--cfg-options "data_root=toys" input_size=128 max_epochs=1)
kapao train mine.py --work-dir run "${options[@]}" >train.log
kapao test mine.py run/epoch_1.pth --work-dir run "${options[@]}" >test.log
kapao predict toys/val2017/*.jpg --model run/epoch_1.pth --out-dir pictures
kapao export mine.py run/epoch_1.pth --format onnx --out model.onnx --cfg-options input_size=128
kapao predict toys/val2017/*.jpg --model model.onnx --out-dir runtime
kapao train kapao_n_toy --work-dir named "${options[@]}" train_dataloader.batch_size=4 >named.log
ls run named pictures runtime
