# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the poses and keypoint objects of an image, in px of the original image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kapao_mm.errors import InputError

from .detections import KeypointObjects
from .metainfo import Metainfo

if TYPE_CHECKING:
    import supervision

DECIMALS = 4  # of px and scores in JSON
JSON_VERSION = 1  # of the layout of the JSON, see docs/prediction.md


@dataclass(frozen=True)
class Prediction:
    """Poses of an image and the keypoint objects behind them, in px of the original image.

    The names are MMPose's. ``len(prediction)`` is the number of poses, and an index, a list of
    indices, a slice or a mask selects poses.

    Attributes:
        bboxes: Boxes of the poses, clipped to the image, (P, 4) xyxy.
        bbox_scores: Scores of the poses, (P,).
        labels: Categories 0..C-1 of the poses, (P,) int64.
        keypoints: Keypoints after fusion, (P, K, 2). They are 0 for keypoint types of other
            categories.
        keypoint_scores: Scores of the fused keypoint objects, (P, K). They are 0 without fusion.
        keypoints_visible: Whether a keypoint type belongs to the category of the pose, (P, K) bool.
        pose_keypoints: Keypoints as regressed by the pose objects, (P, K, 2).
        keypoint_objects: Keypoint objects, with boxes clipped to the image. None if they are
            unknown.
        track_ids: Numbers of the people in a video, 1 and up, (P,) int64; 0 for a pose without a
            track. None if poses are not tracked.

    Examples:
        >>> confident = prediction[prediction.bbox_scores > 0.5]
        >>> nose = prediction[0].keypoints[0, 0]
    """

    bboxes: np.ndarray
    bbox_scores: np.ndarray
    labels: np.ndarray
    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    keypoints_visible: np.ndarray
    pose_keypoints: np.ndarray
    keypoint_objects: KeypointObjects | None = None
    track_ids: np.ndarray | None = None

    @property
    def keypoints_fused(self) -> np.ndarray:
        """Returns whether a keypoint object was fused into each keypoint, (P, K) bool."""
        return self.keypoint_scores > 0

    def __len__(self) -> int:
        return len(self.bboxes)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> 'Prediction':
        rows = [index] if isinstance(index, int | np.integer) else index
        poses = {
            name: value[rows]
            for name, value in vars(self).items()
            if name != 'keypoint_objects' and value is not None
        }
        return replace(self, **poses)

    def before_fusion(self) -> 'Prediction':
        """Returns the poses with the keypoints that the pose objects regressed."""
        return replace(
            self, keypoints=self.pose_keypoints, keypoint_scores=np.zeros_like(self.keypoint_scores)
        )

    def to_dict(
        self, image: str, image_size: tuple[int, int], metainfo: Metainfo
    ) -> dict[str, Any]:
        """Converts the prediction to plain numbers and strings for JSON.

        Args:
            image: Path of the image.
            image_size: Size (w, h) of the image, px.
            metainfo: Names of categories and keypoint types.

        Returns:
            A dict with

            - ``version``: version of this layout, :data:`JSON_VERSION`;
            - ``image``: path; ``width`` and ``height``: px; ``keypoint_names``: K names;
            - ``poses``: a dict for each pose with ``bbox`` [x1, y1, x2, y2], ``score``,
              ``keypoints`` (K, 3) of x, y and score (0 without fusion), ``fused`` (K,), and
              ``track_id`` if the poses are tracked;
            - ``keypoint_objects``: a dict for each keypoint object with ``bbox``, ``score`` and
              ``type``, the name of the keypoint type.

            With several categories, ``keypoint_names`` is a dict of the names of each category, and
            each pose has the name of its ``category`` and only that category's ``keypoints`` and
            ``fused``.
        """
        visible, names = self.keypoints_visible, metainfo.keypoint_names
        keypoints = np.dstack([self.keypoints, self.keypoint_scores])  # (P, K, 3)
        columns = dict(
            bbox=_numbers(self.bboxes),
            score=_numbers(self.bbox_scores),
            keypoints=[_numbers(k[v]) for k, v in zip(keypoints, visible, strict=True)],
            fused=[f[v].tolist() for f, v in zip(self.keypoints_fused, visible, strict=True)],
        )
        if len(metainfo.categories) > 1:
            columns['category'] = [metainfo.category_names[label] for label in self.labels]
        if self.track_ids is not None:
            columns['track_id'] = self.track_ids.tolist()
        objects = self.keypoint_objects
        return {
            'version': JSON_VERSION,
            'image': image,
            'width': image_size[0],
            'height': image_size[1],
            'keypoint_names': metainfo.names_by_category(),
            'poses': _records(**columns),
            'keypoint_objects': _records(
                bbox=_numbers(objects.bboxes),
                score=_numbers(objects.scores),
                type=[names[label] for label in objects.labels],
            ),
        }

    def to_supervision(self) -> 'supervision.KeyPoints':
        """Converts the poses to a ``supervision.KeyPoints``, for that package's annotators.

        The confidence of a keypoint is the score of its keypoint object, or that of the pose if
        none was fused. ``data['fused']`` (P, K) tells them apart, ``data['bbox']`` (P, 4) has the
        boxes, and ``data['track_id']`` (P,) the track ids if the poses are tracked.

        Raises:
            InputError: If the package supervision 0.29 or later is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise InputError(
                "supervision is not installed: pip install 'supervision>=0.29'"
            ) from error
        fused = self.keypoints_fused
        confidence = np.where(fused, self.keypoint_scores, self.bbox_scores[:, None])  # (P, K)
        return supervision.KeyPoints(
            xy=self.keypoints.astype(np.float32),
            class_id=self.labels.astype(int),
            keypoint_confidence=confidence.astype(np.float32),
            detection_confidence=self.bbox_scores.astype(np.float32),
            visible=self.keypoints_visible,
            data=dict(bbox=self.bboxes, fused=fused)
            | ({} if self.track_ids is None else dict(track_id=self.track_ids)),
        )


def _numbers(values: np.ndarray) -> list:
    return np.round(values.astype(np.float64), DECIMALS).tolist()


def _records(**columns: list) -> list[dict[str, Any]]:
    """Turns columns of equal length into a list of dicts, one for each row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
