# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Stops before the first iteration when the head and a dataset disagree about the keypoints."""

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.errors import InputError


@HOOKS.register_module()
class CheckKeypointsHook(Hook):
    """Compares ``model.head.num_keypoints`` with the metainfo of each dataset in use, by category.

    Raises:
        InputError: the counts differ.
    """

    def before_train(self, runner: Runner) -> None:
        """Checks the training dataset and, if there is one, the validation dataset."""
        self._check(runner, runner.train_dataloader.dataset, 'train_dataloader')
        if runner.val_loop is not None:
            self._check(runner, runner.val_dataloader.dataset, 'val_dataloader')

    def before_val(self, runner: Runner) -> None:
        """Checks the validation dataset."""
        self._check(runner, runner.val_dataloader.dataset, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Checks the test dataset."""
        self._check(runner, runner.test_dataloader.dataset, 'test_dataloader')

    @staticmethod
    def _check(runner: Runner, dataset: BaseDataset, loader: str) -> None:
        model = runner.model
        while hasattr(model, 'module'):  # of a distributed run, of KAPAOTTA
            model = model.module
        metainfo = dataset.metainfo
        ours = list(model.head.keypoint_counts)
        theirs = [metainfo['num_keypoints']]
        if 'categories' in metainfo:  # not in that of MMPose's own datasets
            theirs = [len(category['keypoint_ids']) for category in metainfo['categories']]
        if ours != theirs:
            ours, theirs = (counts[0] if len(counts) == 1 else counts for counts in (ours, theirs))
            raise InputError(
                f'model.head.num_keypoints is {ours}, but the dataset of {loader} '
                f'({metainfo["dataset_name"]}) has {theirs} keypoints; '
                f'set model.head.num_keypoints={theirs}, or use its own config'
            )
