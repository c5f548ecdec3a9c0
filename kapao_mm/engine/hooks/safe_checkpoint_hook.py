# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checkpoint hook for runs that may be killed at any time and resumed."""

import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import PARTIAL

from ..checkpoint import read_checkpoint, write_hashed
from ..file_backend import AtomicBackend
from ..resume import require_no_checkpoints


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """CheckpointHook of MMEngine for runs that may be killed at any time and resumed.

    - Checkpoints and ``last_checkpoint`` are written completely or not at all.
    - An old checkpoint is removed after the new one is written; MMEngine removes it before.
    - The checkpoint of an epoch is written before its validation and again after it, when the best
      metric is known. A run resumed from the first of the two validates before it trains on.
    - Only files in the run's checkpoint folder that have names of this hook are removed, whatever
      paths a checkpoint contains.
    - A run does not overwrite the checkpoints of another run, unless ``overwrite`` is set.

    Args:
        save_best: Name of one metric, 'auto' or None.
        backend_args: Arguments of the file backend; :class:`AtomicBackend` by default.
        overwrite: Whether the run may overwrite the checkpoints of another run.
        kwargs: Further arguments of :class:`CheckpointHook`.

    Raises:
        InputError: If ``save_best`` is a list. Also when training starts, if the folder holds
            checkpoints of another run and ``overwrite`` is not set.
    """

    def __init__(
        self,
        save_best: str | None = None,
        backend_args: dict | None = None,
        overwrite: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(save_best, list):
            raise InputError(f'SafeCheckpointHook.save_best is {save_best}; set a single metric')
        backend_args = backend_args or dict(backend='atomic')
        super().__init__(save_best=save_best, backend_args=backend_args, **kwargs)
        self.overwrite = overwrite
        self._saved_at: int | None = None  # epochs or iterations done at the last checkpoint
        step = re.sub(r'\\{[^}]*\}', r'\\d+', re.escape(self.filename_tmpl))
        self._names = f'(best_.+_)?{step}'  # regular expression of this hook's file names

    def before_train(self, runner: Runner) -> None:
        """Removes partial files of a killed run, and runs the validation that it missed."""
        # Popped so that MMEngine does not remove checkpoints of a folder that is not checked yet.
        steps = runner.message_hub.runtime_info.pop('keep_ckpt_ids', [])
        super().before_train(runner)
        if not (self.overwrite or self._resumes_here(runner)):
            require_no_checkpoints(self.out_dir, self._names)
        self._restore_lists(runner, steps)
        if is_main_process():
            for folder in {runner.work_dir, self.out_dir}:
                self._remove_partial_files(Path(folder))
        if self.by_epoch and _validation_missing(runner):
            runner.logger.info(f'The validation of epoch {runner.epoch} is missing; running it now')
            self._saved_at = runner.epoch
            runner.val_loop.run()

    def _remove_partial_files(self, folder: Path) -> None:
        """Removes the incomplete files of a killed run, which :func:`atomic_path` leaves."""
        names = rf'{self._names}|last_checkpoint|non_finite_iter_\d+\.pth'
        for file in folder.glob(f'.*{PARTIAL}/*'):
            if re.fullmatch(names, file.name) and not file.is_dir():
                file.unlink()
                with suppress(OSError):  # it also has files of others
                    file.parent.rmdir()

    def _resumes_here(self, runner: Runner) -> bool:
        """Returns whether the run was resumed from a checkpoint in the folder that it writes to."""
        source = runner._load_from
        here = source is None or Path(source).parent.resolve() == Path(self.out_dir).resolve()
        return here and runner.iter > 0

    def _restore_lists(self, runner: Runner, steps: Any) -> None:
        """Restores the lists of kept and best checkpoints when a run is resumed.

        Only the names of the files are used, because the folder may have been copied or moved.

        Args:
            runner: The resumed runner.
            steps: Steps of the kept checkpoints, as read from the resumed checkpoint.
        """
        steps = [step for step in steps if type(step) is int] if isinstance(steps, list) else []
        if steps and self.max_keep_ckpts > 0:
            for old in steps[: -self.max_keep_ckpts]:
                self._remove(self.filename_tmpl.format(old))
            self.keep_ckpt_ids.extend(steps)
            runner.message_hub.update_info('keep_ckpt_ids', [*self.keep_ckpt_ids])
        best = runner.message_hub.get_info('best_ckpt')
        if best is not None:
            name = os.path.basename(str(best))
            best = self.file_backend.join_path(self.out_dir, name)
            runner.message_hub.update_info('best_ckpt', best)
            self.best_ckpt_path = best if self.file_backend.exists(best) else None
            if self.best_ckpt_path is None:
                runner.logger.warning(f'the best checkpoint so far, {name}, is not in this folder')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Writes the best checkpoint, and writes the checkpoint of this epoch again."""
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
        if metrics.get(watched) == -1:  # COCO's AP if the data have no annotated instances
            return
        # Both None: MMEngine would remove the previous best checkpoint before it writes the new
        # one, and would write the last checkpoint again.
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
            self._remove(self.filename_tmpl.format(old))

    def _keep(self, step: int, runner: Runner) -> list[int]:
        """Adds a checkpoint to the kept ones, and returns the steps of those to remove."""
        if self.max_keep_ckpts <= 0:
            return []
        steps = [*(old for old in self.keep_ckpt_ids if old != step), step]
        # Includes the outdated ones: if this run is killed before it removes them, a resumed one
        # does.
        runner.message_hub.update_info('keep_ckpt_ids', steps)
        self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
        return steps[: -self.max_keep_ckpts]

    def _remove(self, name: str) -> None:
        """Removes a checkpoint of this hook; files with other names are kept."""
        name = os.path.basename(name)
        if not (is_main_process() and re.fullmatch(self._names, name)):
            return
        path = self.file_backend.join_path(self.out_dir, name)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path) and not os.path.islink(path):  # such as DeepSpeed's
            self.file_backend.rmtree(path)

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Writes a copy of a checkpoint with ``published_keys`` only.

        The name contains the hash of the written file; MMEngine's contains that of another file.
        """
        if is_main_process():
            checkpoint = read_checkpoint(ckpt_path)
            kept = {key: checkpoint[key] for key in self.published_keys if key in checkpoint}
            path = write_hashed(kept, Path(ckpt_path))
            runner.logger.info(f'{ckpt_path} is published as {path}')


def _validation_missing(runner: Runner) -> bool:
    """Returns whether a run was killed between an epoch and the end of its validation."""
    epoch = runner.epoch
    return (
        runner.val_loop is not None
        and epoch >= max(runner.val_begin, 1)
        and (epoch % runner.val_interval == 0 or epoch == runner.max_epochs)
        and runner.message_hub.get_info('last_validation') != epoch
    )
