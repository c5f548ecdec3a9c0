# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how well and how fast people are tracked, on videos whose identities are known."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from kapao_mm.structures import KeypointObjects, Prediction

MIN_VISIBLE = 0.25  # part of a box inside the picture, for a person to be annotated
KEYPOINT_NOISE = 0.5  # sigmas of OKS, of added errors
BOX_NOISE = 0.02  # sizes of the person

Frame = tuple[np.ndarray, list[dict]]  # BGR, and annotations in COCO's format with track_id


class Truth(NamedTuple):
    """People of a frame whose identities are known.

    Attributes:
        prediction: Labeled poses.
        ids: Numbers of the people, (P,).
    """

    prediction: Prediction
    ids: np.ndarray


def read_truth(annotations: Sequence[dict], num_keypoints: int) -> Truth:
    """Reads the labels of a frame as poses of category 0, with scores of 1."""
    bboxes = np.array([a['bbox'] for a in annotations], float).reshape(-1, 4)
    bboxes[:, 2:] += bboxes[:, :2]
    labels = np.array([a['keypoints'] for a in annotations], float).reshape(-1, num_keypoints, 3)
    count, keypoints = len(bboxes), labels[..., :2]
    prediction = Prediction(
        bboxes=bboxes,
        bbox_scores=np.ones(count),
        labels=np.zeros(count, np.int64),
        keypoints=keypoints,
        keypoint_scores=np.zeros((count, num_keypoints)),
        keypoints_visible=labels[..., 2] > 0,
        pose_keypoints=keypoints,
        keypoint_objects=KeypointObjects(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64)),
    )
    return Truth(prediction, np.array([a['track_id'] for a in annotations], np.int64))


class Detector:
    """Imitates a network: labels with errors, people who are missed, and people who are not there.

    Args:
        rng: Random generator.
        sigmas: Sigmas of OKS, (K,).
        miss: Part of the frames in which a person is missed. Misses last 4 frames on average.
        wrong: Number of wrong poses in a frame, on average.
        noise: Factor of all errors of position.
    """

    def __init__(
        self,
        rng: Generator,
        sigmas: Sequence[float],
        miss: float = 0.1,
        wrong: float = 0.1,
        noise: float = 1,
    ) -> None:
        self.rng, self.miss, self.wrong, self.noise = rng, miss, wrong, noise
        self.sigmas = np.array(sigmas)
        self._missed: set[int] = set()

    def __call__(self, truth: Truth, image_size: tuple[int, int]) -> Prediction:
        """Returns the imitated prediction of a frame of an image size (w, h) px."""
        rng, poses = self.rng, truth.prediction
        chance = {True: 0.75, False: 0.25 * self.miss / (1 - self.miss)}  # to be missed (again)
        self._missed = {
            number for number in truth.ids.tolist() if rng.random() < chance[number in self._missed]
        }
        poses = poses[[number not in self._missed for number in truth.ids.tolist()]]
        wrong = poses[rng.integers(len(poses), size=rng.poisson(self.wrong) if len(poses) else 0)]
        shift = rng.uniform(-0.5, 0.5, (len(wrong), 2)) * image_size
        bboxes = np.concatenate([poses.bboxes, wrong.bboxes + np.tile(shift, 2)])
        keypoints = np.concatenate([poses.keypoints, wrong.keypoints + shift[:, None]])
        size = np.sqrt(np.prod(bboxes[:, 2:] - bboxes[:, :2], axis=1))[:, None, None]  # px
        bboxes += self.noise * BOX_NOISE * size[..., 0] * rng.normal(size=bboxes.shape)
        spread = self.noise * KEYPOINT_NOISE * size * self.sigmas[:, None]
        keypoints += spread * rng.normal(size=keypoints.shape)
        bboxes = bboxes.reshape(-1, 2, 2).clip(0, image_size)
        bboxes = np.sort(bboxes, axis=1).reshape(-1, 4)
        scores = np.concatenate(
            [rng.normal(0.75, 0.15, len(poses)), rng.normal(0.4, 0.1, len(wrong))]
        )
        every = np.concatenate([np.arange(len(poses)), np.zeros(len(wrong), int)])
        prediction = replace(
            poses[every], bboxes=bboxes, bbox_scores=scores.clip(0.2, 1), keypoints=keypoints
        )
        return prediction[(bboxes[:, 2:] - bboxes[:, :2]).min(1) > 1]


def pan_over_photo(
    image: np.ndarray,
    annotations: Sequence[dict],
    num_frames: int = 120,
    zoom: tuple[float, float] = (1.2, 2.0),
    rounds: float = 1.5,
    memory: int = 30,
) -> Iterator[Frame]:
    """Makes a video by moving a camera over a photo: it pans, zooms and shakes a little.

    Args:
        image: Photo, BGR.
        annotations: People in COCO's format; each is a track of the video.
        num_frames: Number of frames.
        zoom: Smallest and largest zoom.
        rounds: Number of times that the camera moves over the photo and back.
        memory: Number of frames after which people who come back are new.

    Yields:
        A frame of the photo's size, and its annotations with ``track_id`` (from 1), without people
        of whom less than a quarter is in the frame. Those who come back after
        more than ``memory`` frames get a new ``track_id``.
    """
    size = np.array(image.shape[1::-1])
    rng = np.random.default_rng(0)
    seen, numbers = {}, count(1)  # last frame and track_id by index
    for number in range(num_frames):
        angle = 2 * np.pi * rounds * number / num_frames
        scale = np.interp(-np.cos(0.7 * angle), (-1, 1), zoom)
        room = size * (scale - 1) / scale  # px of the photo that are out of view
        corner = room * (0.5 + 0.5 * np.sin([angle, 1.3 * angle])) + rng.normal(0, 1, 2)
        matrix = np.column_stack([np.eye(2) * scale, -corner * scale])
        frame = cv2.warpAffine(image, matrix, size.tolist(), borderMode=cv2.BORDER_REPLICATE)
        moved = [_moved(annotation, scale, corner, size) for annotation in annotations]
        people = []
        for index, person in enumerate(moved):
            if person:
                last, track_id = seen.get(index, (-memory - 1, 0))
                if number - last > memory:
                    track_id = next(numbers)
                seen[index] = number, track_id
                people.append(dict(person, track_id=track_id))
        yield frame, people


def _moved(annotation: dict, scale: float, corner: np.ndarray, size: np.ndarray) -> dict | None:
    """Returns an annotation in a frame of a photo, or None if it is out of view."""
    box = np.array(annotation['bbox'], float).reshape(2, 2)
    box[1] += box[0]
    whole = (box - corner) * scale
    box = whole.clip(0, size)
    if np.prod(box[1] - box[0]) < MIN_VISIBLE * np.prod(whole[1] - whole[0]):
        return None
    labels = np.array(annotation['keypoints'], float).reshape(-1, 3)
    labels[:, :2] = (labels[:, :2] - corner) * scale
    inside = (labels[:, :2] >= 0).all(1) & (labels[:, :2] < size).all(1)
    labels *= (inside & (labels[:, 2] > 0))[:, None]
    box[1] -= box[0]
    return dict(annotation, bbox=box.ravel().tolist(), keypoints=labels.ravel().tolist())


def score_tracks(truths: Sequence[Truth], tracked: Sequence[Prediction]) -> dict[str, float]:
    """Compares tracks with the truth, by boxes with an IoU of at least 0.5.

    Args:
        truths: People of each frame.
        tracked: Poses of each frame with ``track_ids``. Those without a track are left out.

    Returns:
        A dict with ``IDF1``, ``MOTA``, ``id_switches``, ``people`` and ``tracks`` (their numbers).
    """
    from trackers.eval import box_iou, compute_clear_metrics, compute_identity_metrics

    tracked = [poses[poses.track_ids > 0] for poses in tracked]
    ids = [truth.ids for truth in truths], [poses.track_ids for poses in tracked]
    similarity = [
        box_iou(truth.prediction.bboxes, poses.bboxes)
        for truth, poses in zip(truths, tracked, strict=True)
    ]
    clear = compute_clear_metrics(*ids, similarity)
    people, tracks = (len(np.unique(np.concatenate(numbers))) for numbers in ids)
    return dict(
        IDF1=float(compute_identity_metrics(*ids, similarity)['IDF1']),
        MOTA=float(clear['MOTA']),
        id_switches=int(clear['IDSW']),
        people=people,
        tracks=tracks,
    )
