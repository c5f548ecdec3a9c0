# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Prepares a config to measure its training, with its own images or with drawn ones."""

from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config

NUM_IMAGES = 32  # minimum number of drawn images


def load_training_config(
    config: str, cfg_options: dict[str, Any], input_size: int | None
) -> Config:
    """Loads a config whose training dataset is a single one, without a RepeatDataset around it.

    Args:
        config: Config file.
        cfg_options: Values of ``--cfg-options``.
        input_size: Longer side of the network input, px; None for that of the config.

    Raises:
        InputError: If the config combines datasets.
    """
    sizes = dict(input_size=input_size) if input_size else {}
    cfg = load_config(config, cfg_options | sizes)
    data = cfg.train_dataloader.dataset
    data = cfg.train_dataloader.dataset = data.get('dataset', data)
    if 'datasets' in data:
        raise InputError('the config combines datasets; measure the config of one of them')
    return cfg


def use_drawn_images(data: ConfigDict, folder: Path, num_images: int = NUM_IMAGES) -> None:
    """Draws a toy dataset into a folder, and makes the config of a dataset read it."""
    make_toy_dataset(folder, 'crowd', num_train=num_images, num_val=1)
    data.update(
        metainfo=dict(from_file='configs/_base_/datasets/coco.py'),
        data_root=str(folder),
        ann_file='annotations/person_keypoints_train.json',
        data_prefix=dict(img='train2017'),
    )
