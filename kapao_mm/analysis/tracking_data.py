# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Makes videos whose identities are known, and imitates a network on them."""

from collections.abc import Iterator, Sequence
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
        rng, numbers = self.rng, truth.ids.tolist()
        chance = {True: 0.75, False: 0.25 * self.miss / (1 - self.miss)}  # to be missed (again)
        self._missed = {n for n in numbers if rng.random() < chance[n in self._missed]}
        rows = [row for row, number in enumerate(numbers) if number not in self._missed]
        wrong = rng.choice(rows, rng.poisson(self.wrong)) if rows else []  # copies, elsewhere
        poses = truth.prediction[np.array([*rows, *wrong], np.int64)]
        shift = np.zeros((len(poses), 2))
        shift[len(rows) :] = rng.uniform(-0.5, 0.5, (len(wrong), 2)) * image_size

        size = np.sqrt((poses.bboxes[:, 2:] - poses.bboxes[:, :2]).prod(1))[:, None]  # px
        bboxes = poses.bboxes + np.tile(shift, 2)
        bboxes += self.noise * BOX_NOISE * size * rng.normal(size=bboxes.shape)
        bboxes = np.sort(bboxes.reshape(-1, 2, 2).clip(0, image_size), axis=1).reshape(-1, 4)
        errors = KEYPOINT_NOISE * size * self.sigmas  # (P, K) px
        errors = errors[..., None] * rng.normal(size=poses.keypoints.shape)
        prediction = replace(
            poses,
            bboxes=bboxes,
            bbox_scores=np.repeat([0.75, 0.4], [len(rows), len(wrong)])
            + rng.normal(0, 0.1, len(poses)),
            keypoints=poses.keypoints + shift[:, None] + self.noise * errors,
        )
        return prediction[(bboxes[:, 2:] - bboxes[:, :2]).min(1) > 1]  # px, in the picture


def pan_over_photo(
    image: np.ndarray,
    annotations: Sequence[dict],
    num_frames: int = 120,
    zoom: tuple[float, float] = (1.2, 2.0),
    period: int = 150,
    memory: int = 30,
) -> Iterator[Frame]:
    """Makes a video by moving a camera over a photo: it pans, zooms and shakes a little.

    Args:
        image: Photo, BGR.
        annotations: People in COCO's format; each is a track of the video.
        num_frames: Number of frames.
        zoom: Smallest and largest zoom.
        period: Number of frames in which the camera moves over the photo and back.
        memory: Number of frames after which people who come back are new.

    Yields:
        A frame of the photo's size, and its annotations with ``track_id`` (from 1), without people
        of whom less than a quarter is in the frame. Those who come back after more than ``memory``
        frames get a new ``track_id``.
    """
    size = np.array(image.shape[1::-1])
    rng = np.random.default_rng(0)
    seen, numbers = {}, count(1)  # last frame and track_id by index
    for number in range(num_frames):
        angle = 2 * np.pi * number / period
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
