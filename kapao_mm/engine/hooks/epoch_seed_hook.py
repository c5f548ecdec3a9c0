# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Data order and augmentation from seed, epoch and process alone, so that a run can be resumed."""

import random

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from mmpose.registry import HOOKS
from torch.utils.data import DataLoader

from kapao_mm.errors import InputError


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch before each epoch from (seed, epoch, rank).

    What ran before, a validation or the epochs before a kill, then has no influence. Workers are
    started anew each epoch: torch draws their seeds from the generator seeded here, and the
    training dataloader needs ``worker_init_fn=dict(type='keep_torch_seed')``. Another number of
    workers or processes gives another augmentation.

    Raises:
        InputError: the training dataloader keeps its workers, or seeds them otherwise.
    """

    priority = 'LOWEST'  # last before the dataloader starts its workers

    def before_train(self, runner: Runner) -> None:
        """Takes the seed of the first process, and gives it to the sampler.

        MMEngine restores a seed that it had drawn itself when it resumes, but only after the
        sampler was built with another.
        """
        loader = runner.train_dataloader
        _check_workers(loader)
        seed = torch.tensor(runner.seed)
        broadcast(seed)
        self.seed = seed.item()
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
            if hasattr(sampler, 'seed'):
                sampler.seed = self.seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Seeds this process, and through it the workers that it starts next."""
        sequence = np.random.SeedSequence((self.seed, runner.epoch, get_rank()))
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@FUNCTIONS.register_module()
def keep_torch_seed(worker_id: int) -> None:
    """As ``worker_init_fn``: leaves Python, numpy and torch as torch's worker has seeded them.

    MMEngine's own gives a worker the same seed in every epoch.
    """


def _check_workers(loader: DataLoader) -> None:
    if not loader.num_workers:
        return
    init = getattr(loader.worker_init_fn, 'func', None)  # MMEngine wraps it in a partial
    if loader.persistent_workers or init is not keep_torch_seed:
        raise InputError(
            'EpochSeedHook needs train_dataloader.persistent_workers=False and '
            "train_dataloader.worker_init_fn=dict(type='keep_torch_seed')"
        )
