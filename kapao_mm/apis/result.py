# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the result of a prediction: an image with its poses, ready to draw, save and convert."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.functional.drawing import draw_prediction
from kapao_mm.functional.drawing_style import Style
from kapao_mm.structures import Metainfo, Prediction
from kapao_mm.utils.image_files import make_folder, write_picture

if TYPE_CHECKING:
    import pandas
    import supervision

JSON_VERSION = 1  # of the layout of the JSON, see docs/prediction.md


@dataclass(frozen=True)
class Result:
    """An image and the poses that were found in it, in px of the original image.

    ``len(result)`` is the number of poses. An index, a list of indices, a slice or a mask selects
    poses, and a loop goes through them; both give results with fewer poses.

    Attributes:
        prediction: Poses and keypoint objects.
        image: Original image, BGR (h, w, 3) uint8.
        name: Path or URL of the image or video, or a made-up name such as ``000000.jpg``.
        metainfo: Names, skeleton and colors.
        frame: Number of the frame in a video, from 0. None for an image.
        time: Time of the frame in the video, s. None for an image.

    Examples:
        >>> for result in inferencer.predict('photos/'):
        ...     print(result.name, len(result), result.scores)
        ...     result.save('outputs/')
        >>> best = result[0]
        >>> x, y = best.keypoints[0, best.metainfo.keypoint_names.index('nose')]
    """

    prediction: Prediction
    image: np.ndarray
    name: str
    metainfo: Metainfo
    frame: int | None = None
    time: float | None = None

    @property
    def boxes(self) -> np.ndarray:
        """Returns the boxes of the poses, (P, 4) xyxy."""
        return self.prediction.bboxes

    @property
    def scores(self) -> np.ndarray:
        """Returns the scores of the poses, (P,)."""
        return self.prediction.bbox_scores

    @property
    def labels(self) -> np.ndarray:
        """Returns the categories 0..C-1 of the poses, (P,)."""
        return self.prediction.labels

    @property
    def keypoints(self) -> np.ndarray:
        """Returns the keypoints after fusion, (P, K, 2)."""
        return self.prediction.keypoints

    @property
    def keypoint_scores(self) -> np.ndarray:
        """Returns the scores of the fused keypoint objects, (P, K), 0 without fusion."""
        return self.prediction.keypoint_scores

    @property
    def track_ids(self) -> np.ndarray | None:
        """Returns the numbers of the tracked people, (P,); None if they are not tracked."""
        return self.prediction.track_ids

    def __len__(self) -> int:
        return len(self.prediction)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> 'Result':
        return replace(self, prediction=self.prediction[index])

    def __iter__(self) -> Iterator['Result']:
        return (self[i] for i in range(len(self)))
