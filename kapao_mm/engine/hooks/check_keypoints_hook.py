# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that checks, before the first iteration, that the parts of a config fit each other."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS
from torch.utils.data import Dataset

from kapao_mm.datasets.annotations.object_sizes import describe_small_sides
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
    - Training objects are large enough for ``input_size``; otherwise a warning names the size that
      would do.

    Raises:
        InputError: If a check fails.
    """

    def before_run(self, runner: Runner) -> None:
        """Checks the variables at the top level of the config."""
        check_variables(runner.cfg)

    def before_train(self, runner: Runner) -> None:
        """Checks the training dataset and, if the run validates, its dataset and metrics."""
        _check_keypoints(runner, 'train_dataloader')
        _warn_of_small_objects(runner)
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


def _warn_of_small_objects(runner: Runner) -> None:
    dataset = runner.train_dataloader.dataset
    sides = [s.relative_sides for s in _inner_datasets(dataset) if hasattr(s, 'relative_sides')]
    if not sides:
        return
    input_size, head = runner.cfg.get('input_size'), runner.cfg.model.get('head', {})
    if not input_size or not {'strides', 'anchors', 'assigner'} <= head.keys():
        return
    if warning := describe_small_sides(np.concatenate(sides), input_size, head):
        runner.logger.warning(warning)


def _inner_datasets(dataset: Dataset) -> Iterator[Dataset]:
    """Yields a dataset, or the datasets that a wrapper contains."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
    else:
        for each in inner:
            yield from _inner_datasets(each)


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
