# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Pixels of poses and panels are pinned in tests/visualization/test_kapao_visualizer.py, too."""

import numpy as np
import pytest
from mmpose.structures import PoseDataSample

from kapao_mm.functional import drawing
from kapao_mm.functional.drawing import Style, draw_keypoint_objects, draw_poses
from kapao_mm.structures import KeypointObjects, Prediction
from kapao_mm.structures.data_sample import to_data_sample
from kapao_mm.visualization import KAPAOVisualizer

RED, GREEN, BLUE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
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
    count, num_objects = rng.integers(0, 8, 2)
    labels = rng.integers(0, 2, count)
    visible = np.array([[True, True, False], [False, False, True]])[labels]
    fused = visible & (rng.random((count, 3)) < 0.5)
    return Prediction(
        bboxes=np.sort(rng.uniform(0, 240, (count, 2, 2)), 1).reshape(-1, 4),
        bbox_scores=rng.uniform(0, 1, count),
        labels=labels,
        pose_keypoints=rng.uniform(0, 240, (count, 3, 2)),
        keypoints=rng.uniform(0, 240, (count, 3, 2)),
        keypoint_scores=fused * 0.5,
        keypoints_visible=visible,
        keypoint_objects=KeypointObjects(
            np.sort(rng.uniform(0, 240, (num_objects, 2, 2)), 1).reshape(-1, 4),
            rng.uniform(0, 1, num_objects),
            rng.integers(0, 3, num_objects),
        ),
    )


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
    sample = to_data_sample(prediction, PoseDataSample())
    expected = visualizer.add_datasample('x', IMAGE, sample, draw_gt=False)
    before = IMAGE.copy()
    picture = drawing.draw_prediction(IMAGE, prediction, STYLE, draw_objects)
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(IMAGE, before)


def poses(*positions: tuple[int, int]) -> Prediction:
    """Returns poses with a keypoint of type 0 at a position, and one of type 2 60 px below."""
    points = np.array([[(x, y), (0, 0), (x, y + 60)] for x, y in positions], float)
    visible = np.tile([True, False, True], (len(positions), 1))
    boxes = np.tile([20.0, 20, 380, 220], (len(positions), 1))
    scores, labels = np.ones(len(positions)), np.zeros(len(positions), int)
    return Prediction(boxes, scores, labels, points, visible.astype(float), visible, points)


def test_the_first_pose_is_drawn_on_top():
    style = STYLE._replace(category_names=['mast'], radius=8)
    picture = draw_poses(IMAGE, poses((200, 140), (200, 80)), style)
    assert tuple(picture[140, 200].tolist()) == RED  # not BLUE, of the second


def test_keypoints_are_numbered_on_request(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, '_write', lambda canvas, text, *_: written.append(text))
    style = STYLE._replace(category_names=['mast'])
    draw_poses(IMAGE, poses((200, 80)), style, draw_scores=False)
    assert written == []
    draw_poses(IMAGE, poses((200, 80)), style, number_keypoints=True, draw_scores=False)
    assert written == ['0', '2']


def keypoint_objects(types: list[int], scores: list[float]) -> KeypointObjects:
    """Returns keypoint objects at the same position."""
    boxes = np.tile([100.0, 60, 140, 100], (len(types), 1))
    return KeypointObjects(boxes, np.array(scores), np.array(types))


def test_the_keypoint_object_with_the_highest_score_is_drawn_on_top():
    picture = draw_keypoint_objects(IMAGE, keypoint_objects([0, 2, 1], [0.5, 0.9, 0.1]), STYLE)
    assert tuple(picture[90, 100].tolist()) == BLUE
    assert tuple(picture[90, 120].tolist()) == GRAY  # boxes are not filled


def test_types_without_a_name_or_color_get_their_number_and_the_first_colors_again(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, '_write', lambda canvas, text, *_: written.append(text))
    picture = draw_keypoint_objects(IMAGE, keypoint_objects([4], [0.5]), STYLE)
    assert written == ['4']
    assert tuple(picture[90, 100].tolist()) == GREEN


@pytest.mark.parametrize('shape', [(2, 70000, 3), (70000, 2, 3), (1, 1, 3)])
def test_panels_of_extreme_images_take_little_more_memory_than_the_images(shape):
    panels = {f'title {number}': np.zeros(shape, np.uint8) for number in range(3)}
    joined = drawing.side_by_side(panels)
    assert joined.shape[1] == 3 * shape[1] and joined.shape[0] <= shape[0] + 10


def test_a_box_without_keypoints_is_drawn_with_its_category_and_score(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, '_write', lambda canvas, text, *_: written.append(text))
    ball = Prediction(
        bboxes=np.array([[50.0, 60, 150, 160]]),
        bbox_scores=np.array([0.87]),
        labels=np.array([2]),
        keypoints=np.full((1, 3, 2), 100.0),
        keypoint_scores=np.zeros((1, 3)),
        keypoints_visible=np.zeros((1, 3), bool),
        pose_keypoints=np.full((1, 3, 2), 100.0),
    )
    style = STYLE._replace(category_names=['mast', 'car', 'ball'])
    picture = draw_poses(IMAGE, ball, style)
    assert written == ['ball 0.87']
    y, x = np.nonzero((picture != IMAGE).any(-1))
    assert set(x[(y != 60) & (y != 160)]) == {50, 150}  # its sides, nothing inside
