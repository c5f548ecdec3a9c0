# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that stops training, or skips the batch, when the loss is not finite."""

from functools import partial
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.dist import all_gather_object, all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpose.registry import HOOKS
from torch import Tensor, nn

from kapao_mm.errors import InputError

from ..optim_wrapper import KAPAOOptimWrapper
from ..train_loop import BATCHES_DONE

COUNT = 'skipped_batches'  # key in the message hub, which is saved in checkpoints


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops training at a non-finite loss, or skips its batch, before the backward pass.

    A skipped batch adds no gradient, causes no optimizer step or EMA update, is not logged, and
    leaves the buffers (batch norm statistics) unchanged. It is only counted. All processes stop or
    skip together. If weights are not finite themselves, the run stops in any case, since every
    further batch would be skipped. The check makes each iteration wait for the end of its forward
    pass, also on a GPU.

    Before it stops, the hook saves the state before the batch as ``non_finite_iter_I.pth`` in the
    work directory, where I is the iteration. ``--resume`` with that file starts at the same batch.

    Args:
        on_non_finite: 'stop' or 'skip'; 'skip' needs :class:`KAPAOOptimWrapper`.

    Raises:
        InputError: If ``on_non_finite`` is unknown or does not fit the optimizer wrapper. Also if
            the loss is not finite and training stops; the message names the iteration, epoch, loss
            terms, images and the saved file.
    """

    priority = 'HIGHEST'  # clears the losses of a skipped batch before other hooks log them

    def __init__(self, on_non_finite: str = 'stop') -> None:
        if on_non_finite not in ('stop', 'skip'):
            raise InputError(
                f"FiniteLossHook.on_non_finite is {on_non_finite!r}; set 'stop' or 'skip'"
            )
        self.on_non_finite = on_non_finite

    def before_train(self, runner: Runner) -> None:
        """Registers the check as a forward hook of the model."""
        if self.on_non_finite == 'skip' and not isinstance(runner.optim_wrapper, KAPAOOptimWrapper):
            raise InputError(
                "FiniteLossHook.on_non_finite='skip' needs optim_wrapper.type='KAPAOOptimWrapper', "
                f"not {type(runner.optim_wrapper).__name__}; use it, or set on_non_finite='stop'"
            )
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # Grouped by dtype, because one kernel can copy many tensors of the same dtype.
        buffers = list(model.buffers())
        groups = [[b for b in buffers if b.dtype == dtype] for dtype in {b.dtype for b in buffers}]
        self._buffers = [(group, [b.clone() for b in group]) for group in groups]
        self._handle = model.register_forward_hook(partial(self._check, runner), with_kwargs=True)

    def after_train(self, runner: Runner) -> None:
        """Removes the forward hook."""
        self._handle.remove()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Saves a copy of the buffers, which the forward pass will change."""
        self._batch_idx, self._skipped = batch_idx, False
        for current, kept in self._buffers:
            torch._foreach_copy_(kept, current)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Removes the loss terms of a skipped batch, so that they are not logged."""
        if self._skipped:
            outputs.clear()

    def after_train_epoch(self, runner: Runner) -> None:
        """Logs how many batches were skipped since the start of training."""
        count = runner.message_hub.get_info(COUNT, 0)
        if count:
            runner.logger.warning(f'skipped batches so far: {count}')

    def _check(
        self, runner: Runner, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> dict[str, Tensor] | None:
        """Checks the losses after a forward pass; returns zeros without gradient to skip a batch.

        Returns None if the losses are finite, which leaves the output of the model unchanged.
        """
        if kwargs.get('mode') != 'loss':
            return None
        values = torch.stack([value.detach().float() for value in output.values()])
        bad = (~values.isfinite()).any().float()
        all_reduce(bad, 'max')
        if not bad:
            return None
        for current, kept in self._buffers:
            torch._foreach_copy_(current, kept)
        found = _describe(runner, dict(zip(output, values.tolist(), strict=True)), kwargs)
        healthy = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
        healthy = all(all_gather_object(healthy))  # FSDP shards the weights over processes
        if self.on_non_finite == 'stop' or not healthy:
            _save_and_stop(runner, self._batch_idx, found, healthy)
        count = runner.message_hub.get_info(COUNT, 0) + 1
        runner.message_hub.update_info(COUNT, count)
        runner.logger.warning(f'skipped: {found}')
        self._skipped = True
        return {name: torch.zeros_like(bad) for name in output}


def _describe(runner: Runner, losses: dict[str, float], inputs: dict[str, Any]) -> str:
    """Returns a line with iteration, epoch, and the bad loss terms and images of each process."""
    terms = ', '.join(f'{name} {value}' for name, value in losses.items() if not isfinite(value))
    samples = inputs['data_samples']
    paths = chain.from_iterable(s.get('mosaic_paths', [s.img_path]) for s in samples)
    images = ', '.join(map(str, paths))
    processes = all_gather_object(f'{terms}, images {images}' if terms else '')
    if len(processes) > 1:
        processes = [text and f'process {rank}: {text}' for rank, text in enumerate(processes)]
    return (
        f'the loss is not finite at iteration {runner.iter + 1} (epoch {runner.epoch + 1}): '
        + '; '.join(filter(None, processes))
    )


def _save_and_stop(runner: Runner, batches_done: int, found: str, healthy: bool) -> NoReturn:
    """Saves the state, which the current batch has not changed yet, and raises InputError."""
    name = f'non_finite_iter_{runner.iter + 1}.pth'
    runner.message_hub.update_info(BATCHES_DONE, batches_done)
    runner.save_checkpoint(
        runner.work_dir,
        name,
        meta=dict(epoch=runner.epoch, iter=runner.iter),
        by_epoch=False,
        backend_args=dict(backend='atomic'),
    )
    barrier()  # the launcher kills all processes as soon as one has failed
    path = Path(runner.work_dir) / name
    advice = (
        f'next: --resume {path} with a lower lr, or with '
        '--cfg-options default_hooks.finite_loss.on_non_finite=skip'
        if healthy
        else f'the weights themselves are not finite; {path} is for inspection, '
        'next: --resume an older checkpoint with a lower lr'
    )
    raise InputError(f'{found}; state before it: {path}; {advice}')
