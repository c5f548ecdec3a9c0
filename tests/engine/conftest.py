# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checkpoint files, and a short training run in memory with the published recipe."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import default_collate


@pytest.fixture
def model() -> nn.Linear:
    """A model with two weights, ``weight`` and ``bias``."""
    return nn.Linear(30, 20)


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """Makes a function that saves a model and further entries as a checkpoint."""

    def save(model: nn.Module, name: str = 'a.pth', zipped: bool = True, **entries: object) -> Path:
        content = dict(meta={}, state_dict=model.state_dict()) | entries
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
        return tmp_path / name

    return save


@pytest.fixture
def add_hash() -> Callable[..., Path]:
    """Makes a function that renames a file as publish_model.py does, or with a given hash."""

    def rename(path: Path, digest: str | None = None) -> Path:
        digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        return path.rename(path.with_stem(f'{path.stem}-{digest}'))

    return rename


@pytest.fixture
def malicious(tmp_path) -> Iterator[object]:
    """An object whose pickle would create a folder; the test fails if the folder exists."""

    class Malicious:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / 'ran'),)

    yield Malicious()
    assert not (tmp_path / 'ran').exists()


class TinyModel(BaseModel):
    """Convolution, batch normalization, and a convolution with a bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Conv2d(2, 1, 1)

    def init_weights(self):
        for parameter in (self.conv.weight, self.head.weight, self.head.bias):
            nn.init.normal_(parameter)

    def forward(self, inputs, mode='tensor'):
        outputs = self.head(self.norm(self.conv(inputs)).sigmoid())
        return dict(loss=((outputs - inputs.mean()) ** 2).mean() * len(inputs))


@pytest.fixture
def recipe_cfg(repo) -> Config:
    """The published recipe."""
    return Config.fromfile(repo / 'configs/_base_/schedules/kapao_500e.py')


@pytest.fixture
def tiny_runner(recipe_cfg) -> Callable[..., Runner]:
    """Makes a function that builds a run of 5 iterations of 8 images per epoch, no validation."""

    def make(
        work_dir: Path,
        max_epochs: int,
        warmup_iterations: int = 0,
        hooks: list[Hook] | None = None,
        resume: bool = False,
    ) -> Runner:
        recipe, ema, *_ = recipe_cfg.custom_hooks
        images = torch.rand(40, 1, 5, 5, generator=torch.Generator().manual_seed(0))
        return Runner(
            model=TinyModel(),
            work_dir=str(work_dir),
            train_dataloader=dict(
                batch_size=8,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=[dict(inputs=image) for image in images],
                collate_fn=default_collate,
            ),
            train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
            optim_wrapper=recipe_cfg.optim_wrapper,
            param_scheduler=recipe_cfg.param_scheduler,
            custom_hooks=[dict(recipe, warmup_iterations=warmup_iterations), ema, *(hooks or [])],
            default_scope='mmpose',
            resume=resume,
            log_level='ERROR',
            randomness=dict(seed=0),
            experiment_name=uuid4().hex,  # MMEngine keeps a logger for each name
        )

    return make
