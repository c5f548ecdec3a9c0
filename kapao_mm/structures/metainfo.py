# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the names, skeleton and colors of the poses that a model predicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metainfo:
    """Names, skeleton and colors of the poses that a model predicts.

    These are plain numbers and strings, so that they can be stored in the file of an exported
    model.

    Attributes:
        categories: A dict for each of the C categories with ``name`` and ``keypoint_ids``.
        keypoint_names: Names of the K keypoint types.
        flip_pairs: Pairs of keypoint types that a flip from left to right swaps.
        sigmas: Sigmas of OKS, K numbers.
        skeleton_links: Pairs of keypoint types that are joined by a line.
        keypoint_colors: RGB colors of the K keypoint types.
        link_colors: RGB colors of the links.
    """

    categories: list[dict[str, Any]]
    keypoint_names: list[str]
    flip_pairs: list[list[int]]
    sigmas: list[float]
    skeleton_links: list[list[int]]
    keypoint_colors: list[list[int]]
    link_colors: list[list[int]]

    @property
    def keypoint_counts(self) -> list[int]:
        """Returns the number of keypoint types of each category, C numbers."""
        return [len(category['keypoint_ids']) for category in self.categories]

    @property
    def category_names(self) -> list[str]:
        """Returns the names of the C categories."""
        return [category['name'] for category in self.categories]

    def names_by_category(self) -> list[str] | dict[str, list[str]]:
        """Returns the names of the keypoint types; for several categories those of each by name."""
        if len(self.categories) == 1:
            return list(self.keypoint_names)
        return {
            category['name']: [self.keypoint_names[i] for i in category['keypoint_ids']]
            for category in self.categories
        }

    @classmethod
    def from_dataset_meta(cls, info: Mapping[str, Any]) -> 'Metainfo':
        """Converts the metainfo of a dataset or checkpoint, see :func:`read_metainfo`."""
        return cls(
            categories=[dict(category) for category in info['categories']],
            keypoint_names=list(info['keypoint_id2name'].values()),
            flip_pairs=[[a, b] for a, b in info['flip_pairs'] if a < b],  # info has both orders
            sigmas=info['sigmas'].tolist(),
            skeleton_links=[list(link) for link in info['skeleton_links']],
            keypoint_colors=info['keypoint_colors'].tolist(),
            link_colors=info['skeleton_link_colors'].tolist(),
        )
