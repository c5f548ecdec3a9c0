# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Pixels of panels are pinned in tests/visualization/test_kapao_visualizer.py, too."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from mmpose.structures import PoseDataSample

from kapao_mm.errors import InputError
from kapao_mm.functional import drawing
from kapao_mm.functional.drawing import draw_keypoint_objects, draw_prediction, draw_stages
from kapao_mm.functional.drawing_style import Layers, Style
from kapao_mm.structures import KeypointObjects, Prediction
from kapao_mm.structures.data_sample import to_data_sample
from kapao_mm.visualization import KAPAOVisualizer

RED, GREEN, BLUE, WHITE, GRAY = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (90, 90, 90),
)
STYLE = Style(
    keypoint_names={0: 'top', 1: 'base', 2: 'hood'},
    keypoint_colors=[RED, GREEN, BLUE],
    skeleton_links=[(0, 2)],
    link_colors=[GREEN],
    category_names=['mast'],
    box_colors=[(250, 250, 0), (0, 250, 250)],
    track_colors=[(1, 1, 1), (200, 0, 200), (0, 0, 200)],
    radius=8,
    line_width=5,
)
IMAGE = np.full((240, 400, 3), 90, np.uint8)


def poses(*positions: tuple[int, int], score: float = 1, **fields) -> Prediction:
    """Poses with a fused keypoint of type 0, and 60 px below it one of type 2 that is not fused."""
    count = len(positions)
    points = np.array([[(x, y), (0, 0), (x, y + 60)] for x, y in positions], float)
    prediction = Prediction(
        bboxes=np.tile([20.0, 20, 380, 220], (count, 1)),
        bbox_scores=np.full(count, score),
        labels=np.zeros(count, int),
        keypoints=points,
        keypoint_scores=np.tile([1.0, 0, 0], (count, 1)),
        keypoints_visible=np.tile([True, False, True], (count, 1)),
        pose_keypoints=points + (100, 0),
        keypoint_objects=KeypointObjects(
            np.array([[100.0, 60, 140, 100]]), np.ones(1), np.zeros(1, int)
        ),
    )
    return replace(prediction, **fields)


def at(picture: np.ndarray, x: int, y: int) -> tuple[int, ...]:
    return tuple(picture[y, x].tolist())


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The texts of all labels."""
    texts = []
    monkeypatch.setattr(drawing.Labels, 'write', lambda _, t, *__: texts.append(t[0]))
    return texts


@pytest.mark.parametrize('stages', [False, True])
def test_predictions_are_drawn_as_the_visualizer_draws_them(stages):
    visualizer = KAPAOVisualizer(line_width=5, radius=8, score_thr=0, draw_objects=stages)
    visualizer.set_dataset_meta(
        dict(
            keypoint_id2name=STYLE.keypoint_names,
            keypoint_colors=np.array(STYLE.keypoint_colors),
            skeleton_links=STYLE.skeleton_links,
            skeleton_link_colors=np.array(STYLE.link_colors),
            bbox_color=STYLE.box_colors[0],
        )
    )
    prediction, before = poses((200, 80), (100, 90), score=0.6), IMAGE.copy()
    sample = to_data_sample(prediction, PoseDataSample())
    expected = visualizer.add_datasample('x', IMAGE, sample, draw_gt=False)
    picture = draw_prediction(IMAGE, prediction, STYLE, Layers(stages=stages))
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(IMAGE, before)


def test_a_bgr_style_draws_the_same_picture_in_bgr():
    names = ('keypoint_colors', 'link_colors', 'box_colors', 'track_colors')
    bgr = STYLE._replace(**{n: [c[::-1] for c in getattr(STYLE, n)] for n in names})
    prediction = poses((200, 80), (100, 90), track_ids=np.array([1, 2]))
    layers = Layers(names=True, pose_objects=True, keypoint_objects=True, legend=True)
    expected = draw_prediction(IMAGE, prediction, STYLE, layers)
    np.testing.assert_array_equal(
        draw_prediction(IMAGE, prediction, bgr, layers), expected[..., ::-1]
    )


def test_the_first_pose_is_drawn_on_top():
    picture = draw_prediction(IMAGE, poses((200, 140), (200, 80)), STYLE)
    assert at(picture, 200, 140) == RED  # not the white center of the second one


def test_low_scores_are_transparent():
    def center(score: float, **layers) -> int:
        fused = poses((200, 80), keypoint_scores=np.array([[score, 0, 0]]))
        return int(draw_prediction(IMAGE, fused, STYLE, Layers(**layers))[80, 200, 0])

    assert 90 < center(0.1) < center(0.5) < center(0.8) == 255
    assert center(0.1, opacity=False) == 255


def test_keypoints_without_fusion_have_the_opacity_of_the_pose():
    unsure, sure = (draw_prediction(IMAGE, poses((200, 80), score=s), STYLE) for s in (0.2, 0.9))
    assert GRAY < at(unsure, 200, 140) < at(sure, 200, 140) == WHITE
    assert at(unsure, 200, 80) == RED  # the score of its keypoint object counts


@pytest.mark.parametrize(
    ('layer', 'place'),
    [('boxes', (20, 120)), ('skeleton', (200, 110)), ('keypoints', (200, 74))],
)
def test_layers_can_be_left_out(layer, place):
    prediction = poses((200, 80))
    assert at(draw_prediction(IMAGE, prediction, STYLE), *place) != GRAY
    assert at(draw_prediction(IMAGE, prediction, STYLE, Layers(**{layer: False})), *place) == GRAY


@pytest.mark.parametrize(
    ('layer', 'place', 'color'),
    [('pose_objects', (300, 110), WHITE), ('keypoint_objects', (100, 80), RED)],
)
def test_layers_can_be_added(layer, place, color):
    prediction = poses((200, 80))
    assert at(draw_prediction(IMAGE, prediction, STYLE), *place) == GRAY
    picture = draw_prediction(IMAGE, prediction, STYLE, Layers(**{layer: True}))
    assert at(picture, *place) == color


def test_boxes_have_the_color_of_the_category_or_of_the_track():
    car = poses((200, 80), labels=np.array([1]))
    style = STYLE._replace(category_names=['mast', 'car'])
    assert at(draw_prediction(IMAGE, car, style), 20, 120) == (0, 250, 250)
    tracked = replace(car, track_ids=np.array([4]))
    assert at(draw_prediction(IMAGE, tracked, style), 20, 120) == (200, 0, 200)
    assert at(draw_prediction(IMAGE, tracked, style, Layers(ids=False)), 20, 120) == (0, 250, 250)
    lost = replace(car, track_ids=np.array([0]))
    assert at(draw_prediction(IMAGE, lost, style), 20, 120) == (0, 250, 250)


@pytest.mark.parametrize(
    ('categories', 'ids', 'layers', 'text'),
    [
        (['mast'], None, {}, '0.87'),
        (['mast', 'car'], None, {}, 'mast 0.87'),
        (['mast', 'car'], [12], {}, 'mast #12 0.87'),
        (['mast'], [12], {'scores': False}, '#12'),
        (['mast'], [0], {}, '0.87'),
        (['mast'], [12], {'ids': False}, '0.87'),
        (['mast'], [12], {'boxes': False}, '#12'),
    ],
)
def test_labels_tell_category_track_and_score(written, categories, ids, layers, text):
    prediction = poses((200, 80), score=0.87, track_ids=None if ids is None else np.array(ids))
    style = STYLE._replace(category_names=categories)
    draw_prediction(IMAGE, prediction, style, Layers(**layers))
    assert written == [text]


def test_names_of_keypoints_are_written_on_request(written):
    draw_prediction(IMAGE, poses((200, 80)), STYLE, Layers(scores=False))
    assert written == []
    draw_prediction(IMAGE, poses((200, 80)), STYLE, Layers(scores=False, names=True))
    assert written == ['top', 'hood']


def test_types_without_a_name_or_color_get_their_number_and_the_first_colors_again(written):
    objects = KeypointObjects(np.array([[100.0, 60, 140, 100]]), np.ones(1), np.array([4]))
    picture = draw_keypoint_objects(IMAGE, objects, STYLE)
    assert written == ['4']
    assert at(picture, 100, 90) == GREEN


def test_the_keypoint_object_with_the_highest_score_is_drawn_on_top():
    boxes = np.tile([100.0, 60, 140, 100], (3, 1))
    objects = KeypointObjects(boxes, np.array([0.5, 0.9, 0.1]), np.array([0, 2, 1]))
    picture = draw_keypoint_objects(IMAGE, objects, STYLE)
    assert at(picture, 100, 90) == BLUE
    assert at(picture, 120, 90) == GRAY  # boxes are not filled


def test_people_and_images_set_the_width_of_lines():
    def width(image_side: int, person: int) -> int:
        image = np.zeros((image_side, image_side, 3), np.uint8)
        points = np.array([[(10.0, 50), (0, 0), (190, 50)]])
        box = np.array([[0.0, 0, person, person]])
        prediction = poses((0, 0), keypoints=points, bboxes=box, bbox_scores=np.ones(1))
        style = STYLE._replace(line_width=2)
        layers = Layers(boxes=False, keypoints=False, scores=False)
        return int((draw_prediction(image, prediction, style, layers)[:, 100, 1] > 200).sum())

    widths = [width(200, 150), width(1000, 300), width(1000, 800), width(2000, 1600)]
    assert widths == sorted(widths) and widths[0] <= 2 and widths[1] < widths[2] < widths[3]


def test_a_crowd_has_thinner_lines():
    def painted(count: int) -> int:
        layers = Layers(boxes=False, scores=False, opacity=False)
        picture = draw_prediction(IMAGE, poses(*[(200, 80)] * count), STYLE, layers)
        return int((picture != IMAGE).any(-1).sum())

    assert painted(60) < 0.8 * painted(15) == 0.8 * painted(1)


def test_a_box_without_keypoints_is_drawn():
    ball = poses((200, 80), keypoints_visible=np.zeros((1, 3), bool))
    picture = draw_prediction(IMAGE, ball, STYLE, Layers(scores=False))
    y, x = np.nonzero((picture != IMAGE).any(-1))
    assert x.min() >= 17 and ((x < 24) | (x > 376) | (y < 24) | (y > 216)).all()


def test_all_layers_of_no_poses_are_drawn():
    layers = Layers(names=True, pose_objects=True, keypoint_objects=True, legend=True)
    nobody = poses((200, 80))[:0]
    assert draw_prediction(IMAGE, nobody, STYLE, layers).shape == IMAGE.shape
    np.testing.assert_array_equal(draw_prediction(IMAGE, nobody, STYLE), IMAGE)


def test_the_legend_explains_sides_fusion_and_categories(monkeypatch):
    lines = []
    monkeypatch.setattr(drawing, 'draw_legend', lambda _, entries: lines.extend(entries))
    style = STYLE._replace(category_names=['mast', 'car'], side_colors=[GREEN, RED])
    draw_prediction(IMAGE, poses((200, 80)), style, Layers(legend=True))
    assert [(color, text) for color, _, text in lines if color in (GREEN, RED)] == [
        (GREEN, 'left side of the body'),
        (RED, 'right side of the body'),
    ]
    assert [text for _, filled, text in lines if not filled] == ['from the pose object']
    assert [text for *_, text in lines[-2:]] == ['box: mast', 'box: car']


def test_faces_are_hidden_in_all_panels():
    image = np.random.default_rng(0).integers(0, 255, IMAGE.shape).astype(np.uint8)
    style = STYLE._replace(face_types=[0])
    layers = Layers(hide_faces=True, keypoints=False, skeleton=False, boxes=False)
    for panel in draw_stages(image, poses((300, 80)), style, layers).values():
        assert (panel[75:90, 290:300] != image[75:90, 290:300]).any(-1).mean() > 0.9
        assert (panel[180:] == image[180:]).all()
    with pytest.raises(InputError, match='faces cannot be hidden'):
        draw_prediction(image, poses((300, 80)), STYLE, layers)


@pytest.mark.parametrize('shape', [(2, 70000, 3), (70000, 2, 3), (1, 1, 3)])
def test_panels_of_extreme_images_take_little_more_memory_than_the_images(shape):
    panels = {f'title {number}': np.zeros(shape, np.uint8) for number in range(3)}
    joined = drawing.side_by_side(panels)
    assert joined.shape[1] == 3 * shape[1] and joined.shape[0] <= shape[0] + 100


def test_opaque_drawing_does_not_change_the_rest_of_the_image():
    image = cv2.merge([np.random.default_rng(0).integers(0, 255, (240, 400), np.uint8)] * 3)
    faint = poses((200, 80), score=0.1, keypoint_scores=np.array([[0.1, 0, 0]]))
    picture = draw_prediction(image, faint, STYLE, Layers(boxes=False))
    x = np.nonzero((picture != image).any(-1))[1]
    assert len(x) > 0 and abs(x - 200).max() < 15
