# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Epochs that can be resumed in their middle."""

from typing import Any

from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpose.registry import LOOPS

from kapao_mm.utils.config_names import check_names

BATCHES_DONE = 'batches_done'  # of the epoch, in the message hub of checkpoints from its middle


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop, for checkpoints like those of :class:`FiniteLossHook`.

    MMEngine begins the epoch again. Here the batches that it had trained on are read, so that order
    and augmentation of the others are as they would have been, and left out.
    """

    def __init__(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        check_names(runner.cfg)  # before a dataset is looked for in the wrong place
        super().__init__(runner, *args, **kwargs)

    def run_epoch(self) -> None:
        """Trains on the rest of an epoch, which is all of it unless resumed in its middle."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self.runner.message_hub.get_info(BATCHES_DONE, 0)
        for index, batch in enumerate(self.dataloader):
            if index >= done:
                self.run_iter(index, batch)
        self.runner.message_hub.update_info(BATCHES_DONE, 0)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
