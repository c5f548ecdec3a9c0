# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""A tiny KAPAO and the golden data of the network's outputs."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmpose.registry import MODELS


@pytest.fixture
def model_cfg(repo) -> Callable[..., Config]:
    """Makes the config of a model as narrow and shallow as the golden data's (width 0.125)."""

    def make(num_keypoints: int = 17) -> Config:
        cfg = Config.fromfile(repo / 'configs/_base_/models/kapao_n.py')
        widths = [32, 64, 96, 128]
        cfg.merge_from_dict(
            dict(
                model=dict(
                    backbone=dict(widen_factor=0.125),
                    neck=dict(in_channels=widths),
                    head=dict(in_channels=widths, num_keypoints=num_keypoints),
                )
            )
        )
        return cfg

    return make


@pytest.fixture
def head(model_cfg):
    """The head of that model, K = 17."""
    return MODELS.build(model_cfg().model.head)


@pytest.fixture(scope='session')
def golden(shared_dir) -> Callable[[str], dict[str, np.ndarray]]:
    """Loads a file of the golden data by its stem."""

    def load(name: str) -> dict[str, np.ndarray]:
        return dict(np.load(shared_dir / 'golden' / f'{name}.npz'))

    return load


@pytest.fixture(scope='session')
def golden_checkpoint(repo, shared_dir, tmp_path_factory) -> Path:
    """The weights of the golden data's network, as the converter writes them."""
    path = tmp_path_factory.mktemp('golden') / 'tiny.pth'
    source = shared_dir / 'golden/official_tiny.pt'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['', str(source), str(path)])
        tool = repo / 'tools/model_converters/official_to_mm.py'
        runpy.run_path(str(tool), run_name='__main__')
    return path
