# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws the picture that explains the method in the documentation, without a trained network.

The objects are made from the labels of drawn people. Pose objects get errors like those of a
network, keypoint objects are exact, and some keypoint objects are missing. Fusion is the real one.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.toy import draw_scene
from kapao_mm.functional.drawing import draw_keypoint_objects, draw_prediction
from kapao_mm.functional.drawing_style import Layers, Style
from kapao_mm.functional.postprocess import predict_in_image
from kapao_mm.structures import (
    Detections,
    InferenceSettings,
    KeypointObjects,
    PoseObjects,
    Prediction,
)
from kapao_mm.utils.config import read_config

SEED = 4  # a scene of two people, one in front of the other
SCENE_SIZE = (560, 460)  # (w, h) px
WIDTH = 400  # px of the scene that are shown; there is nobody on its right
POSE_ERROR = 0.035  # standard deviation of a regressed keypoint, as a fraction of the box's height
KEYPOINT_SIZE = 0.05  # side of a keypoint object, as a fraction of the image's longer side
FOUND = 0.85  # share of the labeled keypoints that have a keypoint object
FADING = 0.6  # share of white in the image below the objects
TITLES = ('original image', 'pose objects', 'keypoint objects', 'fused poses')
TITLE_HEIGHT = 56  # px


def draw_method() -> np.ndarray:
    """Draws the original image, pose objects, keypoint objects and fused poses, side by side.

    Returns:
        The picture, RGB uint8; always the same.
    """
    rng = np.random.default_rng(SEED)
    scene, annotations = draw_scene(rng, 'easy', SCENE_SIZE)
    image = scene[:, :WIDTH, ::-1]
    detections = detect(rng, annotations)
    model = read_config('kapao_s_coco').model
    prediction = predict_in_image(
        detections,
        scale=np.ones(2),
        origin=np.zeros(2),
        image_size=image.shape[1::-1],
        keypoint_counts=detections.pose_objects.keypoints.shape[1:2],
        settings=InferenceSettings.from_test_cfg(model.test_cfg, 'evaluation'),
    )
    faded = (image * (1 - FADING) + 255 * FADING).astype(np.uint8)
    panels = [image, *draw_objects(faded, prediction)]
    return np.hstack([add_title(*pair) for pair in zip(panels, TITLES, strict=True)])


def detect(rng: np.random.Generator, annotations: Sequence[dict]) -> Detections:
    """Makes pose objects and keypoint objects from labels.

    Args:
        rng: Random generator.
        annotations: Annotations in COCO's format.

    Returns:
        The objects, in px of the image.
    """
    labels = np.array([a['keypoints'] for a in annotations], float).reshape(len(annotations), -1, 3)
    corners, sizes = np.hsplit(np.array([a['bbox'] for a in annotations], float), 2)
    keypoints, labeled = labels[..., :2], labels[..., 2] > 0
    errors = rng.normal(0, POSE_ERROR, keypoints.shape) * sizes[:, None, 1:]
    person, types = np.nonzero(labeled & (rng.random(labeled.shape) < FOUND))
    centers, half = keypoints[person, types], KEYPOINT_SIZE * max(SCENE_SIZE) / 2
    return Detections(
        PoseObjects(
            bboxes=np.hstack([corners, corners + sizes]),
            scores=np.linspace(0.95, 0.85, len(annotations)),
            labels=np.zeros(len(annotations), int),
            keypoints=keypoints + errors,
        ),
        KeypointObjects(
            bboxes=np.hstack([centers - half, centers + half]),
            scores=np.linspace(0.9, 0.5, len(types)),
            labels=types,
        ),
    )


def draw_objects(image: np.ndarray, prediction: Prediction) -> list[np.ndarray]:
    """Draws the panels of pose objects, keypoint objects and fused poses."""
    meta = read_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))
    style = Style(
        keypoint_names=dict.fromkeys(range(meta['num_keypoints']), ''),
        keypoint_colors=meta['keypoint_colors'].tolist(),
        skeleton_links=meta['skeleton_links'],
        link_colors=meta['skeleton_link_colors'].tolist(),
        category_names=['person'],
        box_colors=[(0, 110, 220)],
        line_width=2,
        radius=4,
    )
    layers = Layers(scores=False, opacity=False)
    return [
        draw_prediction(image, prediction.before_fusion(), style, layers),
        draw_keypoint_objects(image, prediction.keypoint_objects, style),
        draw_prediction(image, prediction, style, replace(layers, boxes=False)),
    ]


def add_title(panel: np.ndarray, title: str) -> np.ndarray:
    """Returns a panel with its title above, in letters that are legible on a page."""
    strip = np.full((TITLE_HEIGHT, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (8, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0, 0, 0), 2, cv2.LINE_AA)
    return np.vstack([strip, panel])
