# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Early stopping that a kill does not reset."""

from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import Runner
from mmpose.registry import HOOKS


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """MMEngine's EarlyStoppingHook, whose best score and wait count are in the checkpoints.

    A run that had stopped trains no further when it is resumed, unless ``patience`` was raised.
    """

    priority = 'LOW'  # before the checkpoint of after the validation

    def before_train(self, runner: Runner) -> None:
        """Restores the state of a resumed run."""
        self.best_score, self.wait_count = runner.message_hub.get_info(
            'early_stopping', (self.best_score, self.wait_count)
        )
        if self._has_stopped():
            runner.train_loop.stop_training = True
            runner.logger.info(
                f'Early stopping: {self.monitor} did not improve on {self.best_score:.4f} in '
                f'{self.wait_count} validations; raise patience to train on'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Decides, and puts the state where checkpoints take it from."""
        super().after_val_epoch(runner, metrics)
        state = (float(self.best_score), self.wait_count)
        runner.message_hub.update_info('early_stopping', state)

    def _has_stopped(self) -> bool:
        threshold = self.stopping_threshold
        reached = threshold is not None and self.rule_map[self.rule](self.best_score, threshold)
        return reached or self.wait_count >= self.patience
