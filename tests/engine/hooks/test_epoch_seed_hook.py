# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Dataset

from kapao_mm.engine import EpochSeedHook
from kapao_mm.engine.hooks import epoch_seed_hook
from kapao_mm.errors import InputError


class RandomNumbers(Dataset):
    """Returns a random number of each of the three generators for an image."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, random.random(), np.random.uniform(), torch.rand(()).item()


def epoch_of(epoch, seed=3, workers=2, **loader):
    """Returns the images of an epoch of a run that starts with it, after other random draws."""
    loader = (
        dict(
            batch_size=2,
            num_workers=workers,
            dataset=RandomNumbers(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            worker_init_fn=dict(type='keep_torch_seed'),
        )
        | loader
    )
    dataloader = Runner.build_dataloader(loader, seed=12)  # the seed before MMEngine resumes
    runner = SimpleNamespace(seed=seed, epoch=epoch, train_dataloader=dataloader)
    hook = EpochSeedHook()
    hook.before_train(runner)
    random.seed(), np.random.seed(), torch.seed()
    hook.before_train_epoch(runner)
    # Each batch is a list of fields.
    return [image for batch in dataloader for image in zip(*batch, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_epoch_depends_only_on_seed_and_number(workers):
    first = epoch_of(1, workers=workers)
    assert epoch_of(1, workers=workers) == first
    for other in (epoch_of(2, workers=workers), epoch_of(1, seed=4, workers=workers)):
        for values in zip(first, other, strict=True):
            assert all(a != b for a, b in zip(*(value[1:] for value in values), strict=True))


def test_workers_have_different_random_numbers():
    draws = [value for image in epoch_of(0) for value in image[1:]]
    assert len({*draws}) == 18


def test_processes_have_different_random_numbers(monkeypatch):
    first = epoch_of(1)
    monkeypatch.setattr(epoch_seed_hook, 'get_rank', lambda: 1)
    second = epoch_of(1)
    assert [image[0] for image in first] == [image[0] for image in second]  # from the sampler
    assert not {image[1:] for image in first} & {image[1:] for image in second}


def test_order_follows_the_resumed_seed():
    order = list(DefaultSampler(RandomNumbers(), seed=3))
    assert order != list(DefaultSampler(RandomNumbers(), seed=12))
    assert [image[0] for image in epoch_of(0)] == order
    sampler = DefaultSampler(RandomNumbers(), seed=12)
    wrapped = BatchSampler(sampler, 2, drop_last=False)
    EpochSeedHook().before_train(
        SimpleNamespace(
            seed=3,
            train_dataloader=SimpleNamespace(num_workers=0, sampler=None, batch_sampler=wrapped),
        )
    )
    assert sampler.seed == 3


@pytest.mark.parametrize(
    'loader', [dict(persistent_workers=True), dict(worker_init_fn=dict(type=print))]
)
def test_workers_that_would_repeat_random_numbers_are_refused(loader):
    with pytest.raises(InputError, match='persistent_workers=False and .*keep_torch_seed'):
        epoch_of(0, **loader)
