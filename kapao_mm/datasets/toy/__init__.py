# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Generates a synthetic dataset of drawn people in COCO format, for the demo and for tests.

Figures are posed in three dimensions (:mod:`.figure`), drawn part by part from far to near with
NumPy and OpenCV (:mod:`.render`), arranged in scenes (:mod:`.scene`) and written with their
annotations (:mod:`.dataset`). In videos they walk, and their identities are known (:mod:`.video`).
The left side of the body has warm colors (red, orange, yellow) and the right side cool colors
(green, blue) on every limb, shoe, ear and eye.

    python -m kapao_mm.datasets.toy data/toy --level easy
"""

from .dataset import make_toy_dataset
from .figure import KEYPOINTS
from .scene import draw_scene

__all__ = ['KEYPOINTS', 'draw_scene', 'make_toy_dataset']
