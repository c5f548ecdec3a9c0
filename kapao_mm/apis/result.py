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
from kapao_mm.functional.drawing_style import Layers, Style
from kapao_mm.structures import Metainfo, Prediction
from kapao_mm.utils.image_files import IMAGE_SUFFIXES, make_folder, write_picture

if TYPE_CHECKING:
    import pandas
    import supervision

COCO_DECIMALS = 3  # of px in COCO results


@dataclass(frozen=True)
class Result:
    """An image and the poses that were found in it, in px of the original image.

    ``len(result)`` is the number of poses. An index, a list of indices, a slice or a mask selects
    poses, and a loop goes through them; each gives a result with fewer poses.

    Attributes:
        prediction: Poses and keypoint objects.
        image: Original image, BGR (h, w, 3) uint8.
        name: Path or URL of the image or video, or a made-up name such as ``000000.jpg``.
        metainfo: Names, skeleton and colors.
        frame: Number of the frame in a video, from 0. None for an image.
        time: Time of the frame in the video, s. None for an image.

    Examples:
        >>> for result in inferencer.predict('photos/', stream=True):
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
    def keypoints_fused(self) -> np.ndarray:
        """Returns whether a keypoint object was fused into each keypoint, (P, K) bool."""
        return self.prediction.keypoints_fused

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

    def __repr__(self) -> str:
        where = self.name if self.frame is None else f'{self.name}, frame {self.frame}'
        return f'Result({where}: {self.summary()})'

    def summary(self) -> str:
        """Returns the numbers of poses, keypoint objects and fused keypoints as a text."""
        return (
            f'{len(self)} poses, {len(self.prediction.keypoint_objects.bboxes)} keypoint objects, '
            f'{int(self.keypoints_fused.sum())} fused'
        )

    def plot(self, **layers: bool) -> np.ndarray:
        """Draws the poses onto a copy of the image.

        Args:
            **layers: Fields of :class:`Layers`, such as ``boxes=False`` or ``hide_faces=True``.

        Returns:
            The picture, BGR uint8, as large as the image unless panels are drawn side by side.
        """
        return draw_prediction(self.image, self.prediction, self._style, Layers(**layers))

    def save(self, path: str | Path, **layers: bool) -> Path:
        """Writes the picture of :meth:`plot` to a file.

        Args:
            path: Image file, or a folder, where the picture gets the name of the image, with the
                number of the frame if it is one.
            **layers: As in :meth:`plot`.

        Returns:
            Path of the picture.

        Raises:
            InputError: If the file cannot be written, or is the image itself.
        """
        path = Path(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            frame = '' if self.frame is None else f'_{self.frame:06d}'
            path = path / f'{Path(self.name).stem}{frame}.jpg'
        if path.exists() and Path(self.name).exists() and path.samefile(self.name):
            raise InputError(f'{path.absolute()} is the image itself: save to another folder')
        make_folder(path.parent)
        return write_picture(self.plot(**layers), path)

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to plain numbers and strings, see :meth:`Prediction.to_dict`.

        Frames of a video also have ``frame``, its number, and ``time``, in s.
        """
        height, width = self.image.shape[:2]
        content = self.prediction.to_dict(self.name, (width, height), self.metainfo)
        if self.frame is not None:
            content['frame'] = self.frame
        if self.time is not None:
            content['time'] = round(self.time, 6)
        return content

    def to_json(self) -> str:
        """Returns :meth:`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """Converts the poses to records of a COCO result file.

        Args:
            image_id: Id of the image. The default is the name of the image without its suffix, as a
                number if it is one, as in COCO's ``000000000139.jpg``.

        Returns:
            For each pose a dict with ``image_id``, ``category_id`` (1 for the first category),
            ``keypoints`` [x, y, score] of each keypoint type of the category, ``bbox`` [x, y, w, h]
            and ``score``; and ``track_id`` if the poses are tracked. The score of a keypoint is
            that of its keypoint object, or that of the pose if none was fused.
        """
        stem = Path(self.name).stem
        if image_id is None:
            image_id = int(stem) if stem.isdecimal() else stem
        poses = self.prediction
        scores = np.where(poses.keypoints_fused, poses.keypoint_scores, self.scores[:, None])
        keypoints = np.dstack([poses.keypoints.round(COCO_DECIMALS), scores])  # (P, K, 3)
        boxes = np.hstack([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]])
        records = [
            dict(
                image_id=image_id,
                category_id=int(self.labels[i]) + 1,
                keypoints=keypoints[i][poses.keypoints_visible[i]].astype(float).ravel().tolist(),
                bbox=boxes[i].round(COCO_DECIMALS).astype(float).tolist(),
                score=float(self.scores[i]),
            )
            for i in range(len(self))
        ]
        if self.track_ids is not None:
            for record, track_id in zip(records, self.track_ids.tolist(), strict=True):
                record['track_id'] = track_id
        return records

    def to_rows(self) -> list[dict[str, Any]]:
        """Converts the poses to rows of a table, which all have the columns of :attr:`columns`."""
        poses, names = self.prediction, self.metainfo.category_names
        blank = dict.fromkeys(self.columns) | dict(
            image=self.name, frame=self.frame, time=self.time
        )
        rows = []
        for i in range(len(self)):
            row = dict(
                track_id=None if self.track_ids is None else int(self.track_ids[i]),
                category=names[self.labels[i]],
                score=float(self.scores[i]),
                **dict(zip(('x1', 'y1', 'x2', 'y2'), self.boxes[i].tolist(), strict=True)),
            )
            for k in np.flatnonzero(poses.keypoints_visible[i]):
                name = self.metainfo.keypoint_names[k]
                row[f'{name}_x'], row[f'{name}_y'] = poses.keypoints[i, k].tolist()
                row[f'{name}_score'] = float(poses.keypoint_scores[i, k])
            rows.append(blank | row)
        return rows

    @property
    def columns(self) -> list[str]:
        """Returns the columns of :meth:`to_rows`, the same for every result of a model."""
        pose = ('image', 'frame', 'time', 'track_id', 'category', 'score', 'x1', 'y1', 'x2', 'y2')
        names = self.metainfo.keypoint_names
        return [*pose, *(f'{name}_{value}' for name in names for value in ('x', 'y', 'score'))]

    def to_pandas(self) -> 'pandas.DataFrame':
        """Converts the poses to a table of pandas with the columns of :attr:`columns`.

        Raises:
            InputError: If the package pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError('pandas is not installed: pip install pandas') from error
        return pandas.DataFrame(self.to_rows(), columns=self.columns)

    def to_supervision(self) -> 'supervision.KeyPoints':
        """Converts the poses for the annotators of supervision.

        See :meth:`Prediction.to_supervision`.
        """
        return self.prediction.to_supervision()

    @property
    def _style(self) -> Style:
        return Style.from_metainfo(self.metainfo, bgr=True)
