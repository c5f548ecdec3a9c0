# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that checks, before the first iteration, that the parts of a config fit each other."""

from itertools import product

from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.datasets.metainfo import check_keypoint_counts
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric
from kapao_mm.utils.config_variables import check_variables


@HOOKS.register_module()
class CheckKeypointsHook(Hook):
    """Checks the config of a run before it starts.

    - ``model.head.num_keypoints`` equals the number of keypoints in the metainfo of each dataset
      in use, for each category.
    - Variables at the top level of the config have an effect, see :func:`check_variables`.
    - The metrics that other hooks use (``save_best``, ``monitor``) exist. This is checked only if
      all metrics are :class:`KAPAOMetric`.

    Raises:
        InputError: If a check fails.
    """

    def before_run(self, runner: Runner) -> None:
        """Checks the variables at the top level of the config."""
        check_variables(runner.cfg)

    def before_train(self, runner: Runner) -> None:
        """Checks the training dataset and, if the run validates, its dataset and metrics."""
        _check_keypoints(runner, 'train_dataloader')
        if runner.val_loop is not None:
            _check_keypoints(runner, 'val_dataloader')
            _check_metric_names(runner)

    def before_val(self, runner: Runner) -> None:
        """Checks the validation dataset."""
        _check_keypoints(runner, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Checks the test dataset."""
        _check_keypoints(runner, 'test_dataloader')


def _check_keypoints(runner: Runner, loader: str) -> None:
    model = runner.model
    while hasattr(model, 'module'):  # unwraps DistributedDataParallel and KAPAOTTA
        model = model.module
    metainfo = getattr(runner, loader).dataset.metainfo
    check_keypoint_counts(model.head.keypoint_counts, metainfo, loader)


def _check_metric_names(runner: Runner) -> None:
    metrics = [m for m in runner.val_evaluator.metrics if not isinstance(m, DumpResults)]
    if not all(isinstance(metric, KAPAOMetric) for metric in metrics):
        return
    known = [name for metric in metrics for name in metric.metric_names]
    for hook, key in product(runner.hooks, ('save_best', 'monitor')):
        watched = getattr(hook, key, None) or []
        for name in [watched] if isinstance(watched, str) else watched:
            if name not in (*known, 'auto'):
                raise InputError(
                    f'{key}={name!r} of {type(hook).__name__}: the validation has no such metric; '
                    f'it has {", ".join(known)}'
                )
