# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Pixels of poses and panels are pinned in tests/visualization/test_kapao_visualizer.py, too."""

import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from kapao_mm.functional import drawing
from kapao_mm.functional.drawing import (
    KeypointObjects,
    Poses,
    Style,
    draw_keypoint_objects,
    draw_poses,
)
from kapao_mm.functional.prediction import Prediction
from kapao_mm.visualization import KAPAOVisualizer

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
STYLE = Style(
    keypoint_names={0: 'top', 1: 'base', 2: 'hood'},
    keypoint_colors=[RED, GREEN, BLUE],
    skeleton_links=[(0, 1)],
    link_colors=[GREEN],
    category_names=['mast', 'car'],
)
IMAGE = np.full((240, 400, 3), 90, np.uint8)


def crowd(seed: int) -> Prediction:
    """Random poses of a category with types 0 and 1, and of one with type 2; half are fused."""
    rng = np.random.default_rng(seed)
    count, points = rng.integers(0, 8, 2)
    categories = rng.integers(0, 2, count)
    own = np.array([[True, True, False], [False, False, True]])[categories]
    fused = own & (rng.random((count, 3)) < 0.5)
    return Prediction(
        boxes=np.sort(rng.uniform(0, 240, (count, 2, 2)), 1).reshape(-1, 4),
        scores=rng.uniform(0, 1, count),
        categories=categories,
        pose_keypoints=rng.uniform(0, 240, (count, 3, 2)),
        keypoints=rng.uniform(0, 240, (count, 3, 2)),
        keypoint_scores=fused * 0.5,
        own=own,
        point_boxes=np.sort(rng.uniform(0, 240, (points, 2, 2)), 1).reshape(-1, 4),
        point_scores=rng.uniform(0, 1, points),
        point_types=rng.integers(0, 3, points),
    )


def as_sample(prediction: Prediction) -> PoseDataSample:
    sample = PoseDataSample()
    sample.pred_instances = InstanceData(
        bboxes=prediction.boxes,
        bbox_scores=prediction.scores,
        keypoints=prediction.keypoints,
        keypoints_visible=prediction.own.astype(float),
        keypoints_fused=prediction.fused,
        pose_keypoints=prediction.pose_keypoints,
        labels=prediction.categories,
    )
    sample.pred_keypoint_objects = InstanceData(
        bboxes=prediction.point_boxes,
        scores=prediction.point_scores,
        labels=prediction.point_types,
    )
    return sample


@pytest.mark.parametrize('draw_objects', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_predictions_are_drawn_as_the_visualizer_draws_them(seed, draw_objects):
    visualizer = KAPAOVisualizer(line_width=1, radius=3, score_thr=0, draw_objects=draw_objects)
    visualizer.set_dataset_meta(
        dict(
            keypoint_id2name=STYLE.keypoint_names,
            keypoint_colors=np.array(STYLE.keypoint_colors),
            skeleton_links=STYLE.skeleton_links,
            skeleton_link_colors=np.array(STYLE.link_colors),
            categories=[dict(name=name) for name in STYLE.category_names],
        )
    )
    prediction = crowd(seed)
    expected = visualizer.add_datasample('x', IMAGE, as_sample(prediction), draw_gt=False)
    before = IMAGE.copy()
    picture = drawing.draw_prediction(IMAGE, prediction, STYLE, draw_objects)
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(IMAGE, before)


def poses(*places: tuple[int, int]) -> Poses:
    """One pose for each place, with a keypoint of type 0 there, and one of type 2 60 px below."""
    points = np.array([[(x, y), (0, 0), (x, y + 60)] for x, y in places], float)
    visible = np.tile([True, False, True], (len(places), 1))
    boxes = np.tile([20.0, 20, 380, 220], (len(places), 1))
    return Poses(boxes, points, visible, visible, None, None)


def test_first_pose_is_on_top():
    style = STYLE._replace(category_names=['mast'], radius=8)
    picture = draw_poses(IMAGE, poses((200, 140), (200, 80)), style)
    assert tuple(picture[140, 200].tolist()) == RED  # not BLUE, of the second


def test_keypoints_have_their_number_on_request(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, '_write', lambda canvas, text, *_: written.append(text))
    style = STYLE._replace(category_names=['mast'])
    draw_poses(IMAGE, poses((200, 80)), style)
    assert written == []
    draw_poses(IMAGE, poses((200, 80)), style, number_keypoints=True)
    assert written == ['0', '2']


def keypoint_objects(types: list[int], scores: list[float]) -> KeypointObjects:
    """All at the same place."""
    boxes = np.tile([100.0, 60, 140, 100], (len(types), 1))
    return KeypointObjects(boxes, np.array(scores), np.array(types))


def test_most_confident_keypoint_object_is_on_top():
    picture = draw_keypoint_objects(IMAGE, keypoint_objects([0, 2, 1], [0.5, 0.9, 0.1]), STYLE)
    assert tuple(picture[90, 100].tolist()) == BLUE
    assert tuple(picture[90, 120].tolist()) == GREY  # boxes are not filled


def test_types_without_name_or_colour_have_their_number_and_the_colours_again(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, '_write', lambda canvas, text, *_: written.append(text))
    picture = draw_keypoint_objects(IMAGE, keypoint_objects([4], [0.5]), STYLE)
    assert written == ['4']
    assert tuple(picture[90, 100].tolist()) == GREEN


@pytest.mark.parametrize('shape', [(2, 70000, 3), (70000, 2, 3), (1, 1, 3)])
def test_panels_of_extreme_images_take_little_more_memory_than_they(shape):
    panels = {f'title {number}': np.zeros(shape, np.uint8) for number in range(3)}
    joined = drawing.side_by_side(panels)
    assert joined.shape[1] == 3 * shape[1] and joined.shape[0] <= shape[0] + 10
