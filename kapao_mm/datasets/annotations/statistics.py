# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Computes statistics of a dataset: sizes of boxes, instances per image, label rates."""

from typing import Any

import numpy as np

from .instances import Instances, box_sides

PERCENTILES = (5, 50, 95)


def compute_statistics(
    metainfo: dict, instances: Instances, num_images: int, input_size: int
) -> dict[str, Any]:
    """Computes statistics of the annotations without crowd regions.

    Args:
        metainfo: Metainfo of the dataset.
        instances: The annotations.
        num_images: Number of images of the dataset.
        input_size: Longer side of the network input, px; box sizes are in px of the network input.
    """
    shown = ~instances.crowd
    counts = (instances.visible > 0)[shown].sum(1)  # (n,)
    categories = instances.categories[shown]
    sides = box_sides(instances, input_size)
    per_image = instances_per_image(instances, num_images)
    return dict(
        images=num_images,
        annotations=len(instances.ids),
        crowd_regions=int(instances.crowd.sum()),
        without_keypoints=int(((counts == 0) & ~instances.only_box[shown]).sum()),
        only_boxes=int(instances.only_box[shown].sum()),
        of_category={
            category['name']: int((categories == index).sum())
            for index, category in enumerate(metainfo['categories'])
        },
        input_size=input_size,
        percentiles=PERCENTILES,
        box_width=_percentiles(sides[:, 0]),
        box_height=_percentiles(sides[:, 1]),
        instances_per_image=[float(per_image.mean()), int(per_image.max(initial=0))],
        keypoints_per_instance=float(counts[counts > 0].mean()) if counts.any() else 0.0,
        label_rates=label_rates(metainfo, instances),
    )


def instances_per_image(instances: Instances, num_images: int) -> np.ndarray:
    """Returns the number of instances of each image without crowd regions, (num_images,)."""
    return np.bincount(instances.images[~instances.crowd], minlength=num_images)


def label_rates(metainfo: dict, instances: Instances) -> dict[str, float]:
    """Returns how often each keypoint type is labeled, by its name.

    The rate is relative to the instances of its category with labeled keypoints, without crowd
    regions.
    """
    labeled = (instances.visible > 0) & ~instances.crowd[:, None]  # (N, K)
    rates = {}
    for index, category in enumerate(metainfo['categories']):
        members = labeled[(instances.categories == index) & labeled.any(1)]  # (n, K)
        for number in category['keypoint_ids']:
            name = metainfo['keypoint_id2name'][number]
            rates[name] = float(members[:, number].mean()) if len(members) else 0.0
    return rates


def _percentiles(values: np.ndarray) -> list[float]:
    return np.percentile(values, PERCENTILES).tolist() if len(values) else [0.0] * len(PERCENTILES)
