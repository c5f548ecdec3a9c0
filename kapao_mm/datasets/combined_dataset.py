# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Combines several keypoint datasets, which may have different keypoints."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from mmpose.datasets import CombinedDataset
from mmpose.datasets.transforms import KeypointConverter
from mmpose.registry import DATASETS

from kapao_mm.errors import InputError

from .keypoint_dataset import KeypointDataset
from .metainfo import read_metainfo

# Placeholder for MMPose's constructor, which does not support metainfo of several categories.
NO_METAINFO = dict(dataset_name='', keypoint_info={}, skeleton_info={}, joint_weights=[], sigmas=[])


@DATASETS.register_module()
class CombinedKeypointDataset(CombinedDataset):
    """CombinedDataset of MMPose for training KAPAO.

    The pipeline of a dataset with different keypoints must consist of a ``KeypointConverter``, the
    other pipelines must be empty. MMPose's converter returns visibilities (n, K, 2) and float64;
    here all samples are converted to the format of :class:`KeypointDataset`, so that Mosaic can mix
    them. Training treats keypoint types and categories that a dataset does not label as absent in
    its images.

    Args:
        metainfo: Metainfo of the combined samples, see :func:`read_metainfo`.
        datasets: Configs of :class:`KeypointDataset`.
        pipeline: Transforms applied to the samples of all datasets.
        sample_ratio_factor: For each dataset, the number of samples in an epoch relative to its
            size; 1 by default.
        image_cache: Default for the ``image_cache`` of each dataset.

    Raises:
        InputError: If a dataset does not have the keypoints of ``metainfo`` after conversion, is
            for testing, or is not a KeypointDataset. Also if ``sample_ratio_factor`` is invalid.
    """

    def __init__(
        self,
        *,
        metainfo: dict,
        datasets: Sequence[dict],
        pipeline: Sequence[dict] = (),
        sample_ratio_factor: Sequence[float] | None = None,
        image_cache: str | None = None,
    ) -> None:
        parsed = read_metainfo(metainfo)
        for number, config in enumerate(datasets):
            if config['type'] != 'KeypointDataset' or config.get('test_mode'):
                raise InputError(
                    f'datasets[{number}] is a {config["type"]}: only KeypointDatasets can be '
                    'combined, and not those with test_mode'
                )
        factors = [1] * len(datasets) if sample_ratio_factor is None else sample_ratio_factor
        if len(factors) != len(datasets) or min(factors) < 0:
            raise InputError(
                f'sample_ratio_factor is {list(factors)}: give one number of at least 0 for each '
                f'of the {len(datasets)} datasets'
            )
        super().__init__(
            metainfo=NO_METAINFO,
            datasets=[{'image_cache': image_cache, **config} for config in datasets],
            pipeline=pipeline,
            sample_ratio_factor=sample_ratio_factor,
        )
        self._metainfo = parsed
        for number, dataset in enumerate(self.datasets):
            _check_dataset(dataset, parsed, f'datasets[{number}] ({dataset.ann_file})')

    def get_data_info(self, idx: int) -> dict:
        """Returns a sample with the keypoints and the metainfo of the combined dataset."""
        number, index = self._get_subset_index(idx)
        dataset = self.datasets[number]
        info = dataset.get_data_info(index)
        info['flip_indices'] = None  # else KeypointConverter fails if it adds keypoint types
        info = dataset.pipeline(info)
        if info['keypoints_visible'].ndim == 3:
            info['keypoints_visible'] = info['keypoints_visible'][..., 0]
        for key in ('keypoints', 'keypoints_visible'):
            info[key] = info[key].astype(np.float32)
        for key in info.keys() & self._metainfo.keys():
            info[key] = deepcopy(self._metainfo[key])
        return info


def _check_dataset(dataset: KeypointDataset, combined: dict, name: str) -> None:
    """Raises InputError if a dataset does not give the keypoints of the combined metainfo."""
    match dataset.pipeline.transforms:
        case []:
            _check_names(dataset.metainfo, combined, name)
        case [KeypointConverter() as converter]:
            _check_converter(converter, dataset.metainfo, combined, f'{name}: KeypointConverter')
        case _:
            raise InputError(
                f'{name}: its pipeline may contain one KeypointConverter; other transforms belong '
                'in the pipeline of the combined dataset'
            )


def _check_names(metainfo: dict, combined: dict, name: str) -> None:
    if metainfo['keypoint_name2id'] != combined['keypoint_name2id']:
        raise InputError(
            f'{name} has the {metainfo["num_keypoints"]} keypoints of {metainfo["dataset_name"]}, '
            f'not those of {combined["dataset_name"]}: give it '
            "pipeline=[dict(type='KeypointConverter', "
            f'num_keypoints={combined["num_keypoints"]}, mapping=[(its index, new index), ...])]'
        )


def _check_converter(
    converter: KeypointConverter, metainfo: dict, combined: dict, name: str
) -> None:
    if len(combined['categories']) > 1 or len(metainfo['categories']) > 1:
        raise InputError(
            f'{name} works with a single category only; give the dataset the metainfo of all'
        )
    if converter.num_keypoints != combined['num_keypoints']:
        raise InputError(
            f'{name} makes {converter.num_keypoints} keypoints, {combined["dataset_name"]} has '
            f'{combined["num_keypoints"]}: set its num_keypoints to that'
        )
    targets = set()
    for source, target in converter.mapping:
        sources = source if isinstance(source, Sequence) else (source,)
        for index, info in (*((i, metainfo) for i in sources), (target, combined)):
            if not 0 <= index < info['num_keypoints']:
                raise InputError(
                    f'{name}, mapping {(source, target)}: {info["dataset_name"]} has no keypoint '
                    f'{index}, only 0 to {info["num_keypoints"] - 1}'
                )
        if target in targets:
            raise InputError(
                f'{name}, mapping {(source, target)}: keypoint {target} is mapped twice'
            )
        targets.add(target)
