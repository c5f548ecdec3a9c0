# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Training loop that can be resumed in the middle of an epoch."""

from typing import Any

from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpose.registry import LOOPS

from kapao_mm.utils.config_variables import check_variables

# Key in the message hub: the number of batches of the epoch before the checkpoint was saved.
BATCHES_DONE = 'batches_done'


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """EpochBasedTrainLoop of MMEngine that can resume in the middle of an epoch.

    Checkpoints of :class:`FiniteLossHook` are saved there. MMEngine would start the epoch again.
    Here the batches that were already trained on are loaded but skipped, so that the order and
    augmentation of the other batches stay the same.
    """

    def __init__(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        check_variables(runner.cfg)  # before the datasets are built from a wrong config
        super().__init__(runner, *args, **kwargs)

    def run_epoch(self) -> None:
        """Trains for an epoch, or for the rest of it if the run was resumed in its middle."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self.runner.message_hub.get_info(BATCHES_DONE, 0)
        for index, batch in enumerate(self.dataloader):
            if index >= done:
                self.run_iter(index, batch)
        self.runner.message_hub.update_info(BATCHES_DONE, 0)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
