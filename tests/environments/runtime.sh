#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# Runs an exported model without torch in several environments, which must all find the same poses.
#   tests/environments/runtime.sh MODEL.onnx IMAGE...
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly combinations=( # Python, numpy, OpenCV
    '3.10 numpy==1.26.* opencv-python-headless==4.*'
    '3.11 numpy==2.4.* opencv-python==5.*'
    '3.12 numpy==2.0.* opencv-python==4.*'
    '3.13 numpy==2.* opencv-python-headless==5.*'
)
folder=$(mktemp -d)
readonly folder
trap 'rm -rf "$folder"' EXIT
python3 -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$folder" .

for combination in "${combinations[@]}"; do
    read -r version numpy opencv <<<"$combination"
    environment=$folder/$version python=$folder/$version/bin/python
    "python$version" -m venv "$environment"
    "$python" -m pip install --quiet --disable-pip-version-check onnxruntime "$numpy" "$opencv" "$folder"/kapao_mm-*.whl
    (cd "$folder" && "$environment/bin/kapao" predict "${@:2}" --model "$1" --out-dir "$folder/out-$version" >"$folder/log") ||
        { cat "$folder/log"; exit 1; }
    "$python" - "$folder"/out-3.10 "$folder/out-$version" <<'PYTHON'
import json, sys
from pathlib import Path

import numpy as np


def numbers(value):
    """All numbers of a JSON value, in order."""
    if isinstance(value, (dict, list)):
        values = value.values() if isinstance(value, dict) else value
        return [number for part in values for number in numbers(part)]
    return [] if isinstance(value, str) or value is None else [float(value)]


first, other = map(Path, sys.argv[1:])
files = sorted(first.glob('*.json'))
for file in files:
    pair = [numbers(json.loads((folder / file.name).read_text())) for folder in (first, other)]
    np.testing.assert_allclose(*pair, rtol=1e-4, atol=0.1, err_msg=file.name)
poses = sum(len(json.loads(file.read_text())['poses']) for file in files)
assert poses, 'choose images with people: no pose was found'
print(f'the same {poses} poses in {len(files)} images')
PYTHON
    echo "  Python $version, $("$python" -m pip freeze | grep -iE '^(numpy|opencv|onnxruntime)' | tr '\n' ' ')"
done
