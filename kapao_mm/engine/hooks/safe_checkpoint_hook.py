# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checkpoints that a kill at any moment leaves complete, and that hold all a run needs."""

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.errors import InputError

from ..file_backend import PARTIAL, AtomicBackend


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook for runs that are killed and resumed.

    - Files are complete or absent, ``last_checkpoint`` too.
    - An old checkpoint goes after the new one was written; MMEngine removes it before.
    - An epoch's checkpoint is written before its validation and again after it, when the best AP
      is known. A run resumed from the first of the two validates before it trains on.

    Args:
        save_best: one metric, 'auto' or None.
        backend_args: of another file backend than :class:`AtomicBackend`.
        kwargs: as in :class:`CheckpointHook`.

    Raises:
        InputError: ``save_best`` is a list.
    """

    def __init__(
        self, save_best: str | None = None, backend_args: dict | None = None, **kwargs: Any
    ) -> None:
        if isinstance(save_best, list):
            raise InputError(f'SafeCheckpointHook keeps the best of one metric, not of {save_best}')
        backend_args = backend_args or dict(backend='atomic')
        super().__init__(save_best=save_best, backend_args=backend_args, **kwargs)
        self._saved_at: int | None = None  # epochs (iterations) done at the latest checkpoint

    def before_train(self, runner: Runner) -> None:
        """Tidies up after a killed run and makes up for the validation that it missed."""
        super().before_train(runner)
        if is_main_process():
            for partial in Path(runner.work_dir).glob(f'*{PARTIAL}'):
                partial.unlink()
        if self.by_epoch and _validation_missing(runner):
            runner.logger.info(f'The validation of epoch {runner.epoch} is missing; making it')
            self._saved_at = runner.epoch
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Writes the best checkpoint, and this epoch's once more."""
        done = runner.epoch if self.by_epoch else runner.iter
        runner.message_hub.update_info('last_validation', done)
        super().after_val_epoch(runner, metrics)
        if self._saved_at == done:
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, done, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        (watched,) = self.key_indicators
        watched = next(iter(metrics), None) if watched == 'auto' else watched
        if metrics.get(watched) == -1:  # COCO's AP of data without anything to find
            return
        # MMEngine would remove the one before it writes the next, and write the other again.
        previous, last = self.best_ckpt_path, self.last_ckpt
        self.best_ckpt_path = self.last_ckpt = None
        super()._save_best_checkpoint(runner, metrics)
        self.last_ckpt = last
        if self.best_ckpt_path is None:
            self.best_ckpt_path = previous
        elif previous not in (None, self.best_ckpt_path):
            self._remove(previous)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, int]) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        outdated = self._keep(step, runner)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._saved_at = step
        if is_main_process():
            AtomicBackend().put_text(self.last_ckpt, Path(runner.work_dir) / 'last_checkpoint')
        for old in outdated:
            self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _keep(self, step: int, runner: Runner) -> list[int]:
        """Adds a checkpoint to those kept and returns the steps of those to remove after it."""
        if self.max_keep_ckpts <= 0:
            return []
        steps = [*(old for old in self.keep_ckpt_ids if old != step), step]
        # With the outdated ones: a resumed run removes them if a kill came before we could.
        runner.message_hub.update_info('keep_ckpt_ids', steps)
        self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
        return steps[: -self.max_keep_ckpts]

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed writes folders
            self.file_backend.rmtree(path)


def _validation_missing(runner: Runner) -> bool:
    """Whether a resumed run was killed between an epoch and the end of its validation."""
    epoch = runner.epoch
    return (
        runner.val_loop is not None
        and epoch >= max(runner.val_begin, 1)
        and (epoch % runner.val_interval == 0 or epoch == runner.max_epochs)
        and runner.message_hub.get_info('last_validation') != epoch
    )
