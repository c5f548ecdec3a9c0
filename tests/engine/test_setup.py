# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys

import pytest

# Prints whether MMEngine's loaders are those of KAPAO, and whether the warning is hidden.
PROGRAM = """
import warnings
import mmdet, mmpose  # change the filters, too
from mmengine.config import Config
from mmengine.runner import CheckpointLoader


def state():
    loader = CheckpointLoader._schemes['https://'].__module__
    return loader.startswith('kapao_mm'), any('autocast' in str(f) for f in warnings.filters)


from kapao_mm.engine import KAPAOOptimWrapper, load_weights
from kapao_mm.models import KAPAO
print(*state())
Config.fromfile('configs/kapao/kapao_n_coco.py')
print(*state())
"""


@pytest.mark.slow
def test_importing_a_class_has_no_effect_but_reading_a_config_has(repo):
    command = [sys.executable, '-W', 'ignore', '-c', PROGRAM]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ['False False', 'True True']
