# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reduces COCO-format annotations to some of their images."""

from collections import Counter, defaultdict

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

    Each part has at least one image with annotations, and training has an image of each category.
    If this is not possible, both parts are the whole content.

    Args:
        content: Content of the file.
        fraction: Share of the images for validation.

    Returns:
        The content for training, and the content for validation.

    Raises:
        InputError: If the share is not between 0 and 1.
    """
    images = content['images']
    if not 0 < fraction < 1:
        raise InputError(f'--val-fraction is {fraction:g}: it must be between 0 and 1')
    drawn = set(_draw(content, max(1, round(fraction * len(images)))))
    if not drawn:
        return content, content
    train = [image for i, image in enumerate(images) if i not in drawn]
    val = [image for i, image in enumerate(images) if i in drawn]
    return keep_images(content, train), keep_images(content, val)


def _draw(content: dict, count: int) -> list[int]:
    """Draws indices of images for validation; none if no image with annotations can be spared."""
    names = {c['id']: tuple(c.get('keypoints') or ()) for c in content['categories']}
    found = defaultdict(set)  # image id -> categories in the image, those with equal names as one
    for annotation in content['annotations']:
        category = annotation['category_id']
        found[annotation['image_id']].add(names.get(category) or category)
    images = content['images']
    categories = [found.get(image['id'], set()) for image in images]
    left = Counter(category for some in categories for category in some)
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    drawn = []
    for index in order:
        if len(drawn) < count and all(left[category] > 1 for category in categories[index]):
            drawn.append(index)
            left.subtract(categories[index])
    if any(categories[index] for index in drawn):
        return drawn
    spare = (i for i in order if categories[i] and all(left[c] > 1 for c in categories[i]))
    annotated = next(spare, None)
    return [] if annotated is None else [*drawn[1:], annotated]
