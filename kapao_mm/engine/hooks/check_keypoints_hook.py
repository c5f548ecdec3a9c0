# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that checks, before the first iteration, that the parts of a config fit each other."""

from mmengine.dataset import BaseDataset
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.datasets.metainfo import check_keypoint_counts
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric
from kapao_mm.utils.config_names import check_names


@HOOKS.register_module()
class CheckKeypointsHook(Hook):
    """Checks the config of a run before it starts.

    - ``model.head.num_keypoints`` equals the number of keypoints in the metainfo of each dataset
      in use, for each category.
    - Variables at the top level of the config have an effect, see :func:`check_names`.
    - The metrics that other hooks use (``save_best``, ``monitor``) exist. This is checked only if
      all metrics are :class:`KAPAOMetric`.

    Raises:
        InputError: If a check fails.
    """

    def before_run(self, runner: Runner) -> None:
        """Checks the variables at the top level of the config."""
        check_names(runner.cfg)

    def before_train(self, runner: Runner) -> None:
        """Checks the training dataset and, if the run validates, its dataset and metrics."""
        self._check(runner, runner.train_dataloader.dataset, 'train_dataloader')
        if runner.val_loop is not None:
            self._check(runner, runner.val_dataloader.dataset, 'val_dataloader')
            self._check_metrics(runner)

    def before_val(self, runner: Runner) -> None:
        """Checks the validation dataset."""
        self._check(runner, runner.val_dataloader.dataset, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Checks the test dataset."""
        self._check(runner, runner.test_dataloader.dataset, 'test_dataloader')

    @staticmethod
    def _check_metrics(runner: Runner) -> None:
        metrics = [m for m in runner.val_evaluator.metrics if not isinstance(m, DumpResults)]
        if not all(isinstance(metric, KAPAOMetric) for metric in metrics):
            return
        known = [name for metric in metrics for name in metric.metric_names]
        for hook in runner.hooks:
            for key in ('save_best', 'monitor'):
                wanted = getattr(hook, key, None) or []
                for name in [wanted] if isinstance(wanted, str) else wanted:
                    if name not in (*known, 'auto'):
                        raise InputError(
                            f'{key}={name!r} of {type(hook).__name__}: the validation has no '
                            f'such metric; it has {", ".join(known)}'
                        )

    @staticmethod
    def _check(runner: Runner, dataset: BaseDataset, loader: str) -> None:
        model = runner.model
        while hasattr(model, 'module'):  # unwraps DistributedDataParallel and KAPAOTTA
            model = model.module
        check_keypoint_counts(model.head.keypoint_counts, dataset.metainfo, loader)
