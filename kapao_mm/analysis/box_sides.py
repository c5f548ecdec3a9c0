# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads the widths and heights of the objects that a config trains on.

`sides` are the widths and heights of boxes, (n, 2), in px of the network input.
"""

import mmengine
import numpy as np
from mmengine.config import Config
from mmpose.registry import DATASETS

from kapao_mm.datasets.transforms.affine import MAX_ASPECT, MIN_SIDE
from kapao_mm.errors import InputError
from kapao_mm.utils.config import inner_datasets

NUM_SCALES = 19  # steps of 0.1 for the published scale range of 0.1 to 1.9
POSES, TRAINING, KEYPOINTS = 'pose objects', 'pose objects in training', 'keypoint objects'


def read_sides(cfg: Config) -> tuple[dict[str, np.ndarray], int]:
    """Reads the sides of the objects in the training data of a config.

    Each image counts once, even if a wrapper repeats it.

    Returns:
        Sides (w, h) by kind of object, each (n, 2) px of the network input, and the number of
        images.

    Raises:
        InputError: If the config is not for training KAPAO, or there are no pose objects.
    """
    try:
        training_data, sizes = cfg.train_dataloader.dataset, cfg.model.head.keypoint_size
        input_size = cfg.input_size
    except AttributeError as error:
        raise InputError(
            f'{cfg.filename} cannot train KAPAO ({error}); it needs train_dataloader.dataset, '
            'model.head and input_size'
        ) from error
    poses, training, images = [], [], 0
    for dataset, transforms in inner_datasets(training_data):
        sides, count = pose_sides(dataset, input_size)
        poses.append(sides)
        training.append(scale_sides(sides, transforms, input_size))
        images += count
    sizes = np.unique(sizes) * input_size
    kinds = {
        POSES: np.concatenate(poses),
        TRAINING: np.concatenate(training),
        KEYPOINTS: np.stack((sizes, sizes), 1),
    }
    if not len(kinds[TRAINING]):
        raise InputError(f'the {images} training images have no box to fit anchors to')
    return kinds, images


def pose_sides(cfg: dict, input_size: int) -> tuple[np.ndarray, int]:
    """Returns the sides of a dataset's pose objects and its number of images.

    Args:
        cfg: Config of the dataset.
        input_size: Longer side of the network input, px.

    Returns:
        Sides (w, h), (n, 2) px of the network input, and the number of images.
    """
    dataset = DATASETS.build({k: v for k, v in cfg.items() if k not in ('pipeline', 'image_cache')})
    images = mmengine.load(dataset.ann_file)['images']
    long_sides = {image['id']: max(image['width'], image['height']) for image in images}
    sides = [np.zeros((0, 2))]
    for i in range(len(dataset)):
        sample = dataset.get_data_info(i)
        scale = input_size / long_sides[sample['img_id']]
        sides.append((sample['bbox'][:, 2:] - sample['bbox'][:, :2]) * scale)
    return np.concatenate(sides), len(dataset)


def scale_sides(sides: np.ndarray, transforms: list[dict], input_size: int) -> np.ndarray:
    """Scales sides as the augmentation does, at evenly spaced scales of its range.

    Args:
        sides: Sides (w, h) without augmentation, (n, 2) px of the network input.
        transforms: Configs of the training transforms.
        input_size: Longer side of the network input, px.

    Returns:
        Scaled sides clipped to the input, (m, 2) px, without objects that training removes. If
        training does not scale, the given sides.
    """
    for transform in transforms:
        if 'scale_range' in transform:
            scales = np.linspace(*transform['scale_range'], NUM_SCALES)
            scaled = (sides * scales[:, None, None]).clip(max=input_size).reshape(-1, 2)
            short, long = scaled.min(1), scaled.max(1)
            return scaled[(short > MIN_SIDE) & (long < MAX_ASPECT * short)]
    return sides
