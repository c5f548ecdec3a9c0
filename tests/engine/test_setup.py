# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys

import pytest

# Prints whether MMEngine's loaders are those of KAPAO, whether the warning is hidden, and whether
# thresholds of MMPose's inferencers act.
PROGRAM = """
import warnings
import mmdet, mmpose  # change the filters, too
from mmengine.config import Config
from mmengine.runner import CheckpointLoader


def state():
    loader = CheckpointLoader._schemes['https://'].__module__
    preprocess = BaseMMPoseInferencer.preprocess
    return (
        loader.startswith('kapao_mm'),
        any('autocast' in str(f) for f in warnings.filters),
        hasattr(preprocess, '__wrapped__'),
    )


from kapao_mm.apis import KAPAOInferencer
from kapao_mm.engine import KAPAOOptimWrapper, load_weights
from kapao_mm.models import KAPAO
from mmpose.apis.inferencers.base_mmpose_inferencer import BaseMMPoseInferencer
print(*state())
Config.fromfile('configs/kapao/kapao_n_coco.py')
print(*state())
"""


@pytest.mark.slow
def test_importing_a_class_has_no_effect_but_reading_a_config_has(repo):
    command = [sys.executable, '-W', 'ignore', '-c', PROGRAM]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ['False False False', 'True True True']
