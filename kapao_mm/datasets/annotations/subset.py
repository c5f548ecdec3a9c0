# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reduces COCO-format annotations to some of their images."""

import numpy as np

from kapao_mm.errors import InputError


def keep_images(content: dict, images: list[dict]) -> dict:
    """Returns the content with some of its images and their annotations."""
    ids = {image['id'] for image in images}
    annotations = [a for a in content['annotations'] if a['image_id'] in ids]
    return content | dict(images=images, annotations=annotations)


def take_images(content: dict, count: int) -> dict:
    """Returns the content with its first ``count`` images.

    Raises:
        InputError: If there are fewer images.
    """
    images = content['images'][:count]
    if len(images) < count:
        raise InputError(f'{count} images were asked for, the file has {len(images)}')
    return keep_images(content, images)


def split_images(content: dict, fraction: float) -> tuple[dict, dict]:
    """Splits the content at random, the same way in each run.

    Args:
        content: Content of the file.
        fraction: Share of the images for validation.

    Returns:
        The content for training, and the content for validation.

    Raises:
        InputError: If one of the two would have no images.
    """
    images = content['images']
    count = round(fraction * len(images)) if 0 < fraction < 1 else 0
    if not 0 < count < len(images):
        raise InputError(
            f'--val-fraction {fraction:g} of {len(images)} images leaves none for training or for '
            'validation: change it, or give --val'
        )
    drawn = set(np.random.default_rng(0).permutation(len(images))[:count].tolist())
    train = [image for i, image in enumerate(images) if i not in drawn]
    val = [image for i, image in enumerate(images) if i in drawn]
    return keep_images(content, train), keep_images(content, val)
