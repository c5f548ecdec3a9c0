# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that seeds each epoch, so that a resumed run sees the same data order and augmentation."""

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
    """Seeds Python, numpy and torch before each training epoch from (seed, epoch, rank).

    The random numbers of an epoch then do not depend on what ran before it, such as a validation
    or the epochs before the run was killed. The workers of the training dataloader must start anew
    in each epoch (``persistent_workers=False``) and keep the seeds that torch gives them
    (``worker_init_fn=dict(type='keep_torch_seed')``): torch draws these from the generator that is
    seeded here. The augmentation depends on the number of workers and processes.

    Raises:
        InputError: If the training dataloader keeps its workers between epochs, or seeds them in
            another way.
    """

    priority = 'LOWEST'  # runs last, just before the dataloader starts its workers

    def before_train(self, runner: Runner) -> None:
        """Shares the seed of the first process with all processes and the sampler.

        When MMEngine resumes a run, it restores the seed only after it built the sampler with
        another one.
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
        """Seeds this process and thereby the workers that it starts for the epoch."""
        sequence = np.random.SeedSequence((self.seed, runner.epoch, get_rank()))
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@FUNCTIONS.register_module()
def keep_torch_seed(worker_id: int) -> None:
    """Does nothing, so that dataloader workers keep the seeds that torch gave them.

    Used as ``worker_init_fn``. MMEngine's default seeds a worker identically in every epoch.
    """


def _check_workers(loader: DataLoader) -> None:
    if not loader.num_workers:
        return
    init = getattr(loader.worker_init_fn, 'func', None)  # MMEngine wraps the function in a partial
    if loader.persistent_workers or init is not keep_torch_seed:
        raise InputError(
            'EpochSeedHook needs train_dataloader.persistent_workers=False and '
            "train_dataloader.worker_init_fn=dict(type='keep_torch_seed')"
        )
