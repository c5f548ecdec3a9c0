# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Early stopping whose state survives resuming."""

from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import Runner
from mmpose.registry import HOOKS


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """EarlyStoppingHook of MMEngine that saves its best score and wait count in checkpoints.

    A run that has stopped early trains no further when it is resumed, unless ``patience`` was
    raised.
    """

    priority = 'LOW'  # runs before the checkpoint after the validation is written

    def before_train(self, runner: Runner) -> None:
        """Restores the state of a resumed run, and stops it if it had stopped early."""
        self.best_score, self.wait_count = runner.message_hub.get_info(
            'early_stopping', (self.best_score, self.wait_count)
        )
        if self._has_stopped():
            runner.train_loop.stop_training = True
            runner.logger.info(
                f'Early stopping: {self.monitor} did not improve on {self.best_score:.4f} in '
                f'{self.wait_count} validations; raise patience to continue'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Decides whether to stop, and stores the state in the message hub."""
        super().after_val_epoch(runner, metrics)
        state = (float(self.best_score), self.wait_count)
        runner.message_hub.update_info('early_stopping', state)

    def _has_stopped(self) -> bool:
        threshold = self.stopping_threshold
        reached = threshold is not None and self.rule_map[self.rule](self.best_score, threshold)
        return reached or self.wait_count >= self.patience
