# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tests that training passes curves and pictures to visual backends by one line of a config."""

import io
import sys
from unittest.mock import MagicMock

import pytest
from PIL import Image

CONFIG = """
_base_ = {base!r}
from kapao_mm.utils.config import set_everywhere

set_everywhere(_base_, data_root={toy!r}, input_size=64, max_epochs=2, batch_size=2)
train_cfg = dict(val_interval=1)
train_dataloader = dict(num_workers=0)
val_dataloader = dict(num_workers=0, persistent_workers=False)
default_hooks = dict(checkpoint=dict(interval=1))

visualizer = dict(vis_backends=[{backends}])
"""


@pytest.fixture
def train(repo, toy, run_tool, tmp_path):
    """Makes a function that trains for two epochs with some visual backends."""

    def run(*types: str) -> None:
        config = tmp_path / 'mine.py'
        backends = ', '.join(f'dict(type={name!r})' for name in types)
        base = str(repo / 'configs/kapao/kapao_n_toy.py')
        config.write_text(CONFIG.format(base=base, toy=str(toy), backends=backends))
        assert run_tool('train.py', config, '--work-dir', tmp_path / 'work') is None

    return run


@pytest.mark.slow
def test_tensorboard_shows_curves_and_pictures_of_each_epoch(train, tmp_path):
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator', reason='needs tensorboard'
    )
    train('LocalVisBackend', 'TensorboardVisBackend')
    (events,) = (tmp_path / 'work').rglob('events.out.tfevents.*')
    found = accumulator.EventAccumulator(str(events))
    found.Reload()
    assert {'loss', 'lr', 'coco/AP'} <= set(found.Tags()['scalars'])
    assert [point.step for point in found.Scalars('coco/AP')] == [1, 2]
    (name,) = found.Tags()['images']
    pictures = found.Images(name)
    assert name.startswith('val_') and [picture.step for picture in pictures] == [1, 2]
    size = Image.open(io.BytesIO(pictures[0].encoded_image_string)).size
    assert size[0] == 2 * 320 and size[1] > 240  # ground truth and prediction
    assert len(list((tmp_path / 'work').rglob('vis_image/*.png'))) == 2  # and the local backend


@pytest.mark.slow
def test_wandb_and_mlflow_get_curves_and_pictures(train, monkeypatch):
    wandb, mlflow = MagicMock(), MagicMock()
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.setitem(sys.modules, 'mlflow', mlflow)
    train('WandbVisBackend', 'KAPAOMLflowVisBackend')
    logged = [call.args[0] for call in wandb.log.call_args_list]
    assert sum('coco/AP' in values for values in logged) == 2
    assert sum(any(name.startswith('val_') for name in values) for values in logged) == 2
    names = [call.args[1] for call in mlflow.log_image.call_args_list]
    assert [name[-6:] for name in names] == ['_1.png', '_2.png']
    metrics = {name for call in mlflow.log_metrics.call_args_list for name in call.args[0]}
    assert 'coco/AP' in metrics and 'coco/AP M' in metrics
    assert not any(letter in name for name in metrics for letter in '()')
