# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import InstanceData
from mmpose.engine.hooks import PoseVisualizationHook
from mmpose.registry import VISUALIZERS
from mmpose.structures import PoseDataSample, merge_data_samples

from kapao_mm.functional import drawing
from kapao_mm.visualization import KAPAOVisualizer

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
META = dict(  # two keypoints and a link
    keypoint_id2name={0: 'top', 1: 'base'},
    keypoint_colors=np.array([RED, BLUE], np.uint8),
    skeleton_links=[(0, 1)],
    skeleton_link_colors=np.array([GREEN], np.uint8),
)
IMAGE = np.full((240, 400, 3), 90, np.uint8)
TOP, BASE = (120, 80), (120, 180)  # fused, not fused


def visualizer(**kwargs) -> KAPAOVisualizer:
    drawer = KAPAOVisualizer(line_width=2, radius=8, **kwargs)
    drawer.set_dataset_meta(META)
    return drawer


def sample(scores=(0.9,)) -> PoseDataSample:
    """One pose for each score, all at the same place, and one keypoint object."""
    count = len(scores)
    points = np.tile(np.array([TOP, BASE], np.float32), (count, 1, 1))
    out = PoseDataSample(metainfo=dict(img_id=7))
    out.pred_instances = InstanceData(
        bboxes=np.tile(np.array([40, 10, 200, 230], np.float32), (count, 1)),
        bbox_scores=np.array(scores, np.float32),
        keypoints=points,
        keypoint_scores=np.tile(np.array([0.8, 0.0]), (count, 1)),
        keypoints_visible=np.ones((count, 2)),
        keypoints_fused=np.tile([True, False], (count, 1)),
        pose_keypoints=points + (140, 0),
        labels=np.zeros(count, int),
    )
    out.pred_keypoint_objects = InstanceData(
        bboxes=np.array([[100, 60, 140, 100]], np.float32),
        scores=np.array([0.8]),
        labels=np.array([0]),
    )
    return out


def draw(drawer: KAPAOVisualizer, data_sample: PoseDataSample, image=IMAGE, **kwargs):
    return drawer.add_datasample('x', image, data_sample, **{'draw_gt': False, **kwargs})


def at(picture: np.ndarray, point) -> tuple[int, ...]:
    return tuple(picture[point[1], point[0]].tolist())


def test_fused_keypoints_are_filled_and_unfused_ones_hollow():
    picture = draw(visualizer(), sample())
    assert at(picture, TOP) == RED
    assert at(picture, BASE) == WHITE
    ring = picture[BASE[1], BASE[0] - 10 : BASE[0]].astype(int)
    assert (ring[:, 2] - ring[:, 0]).max() > 100  # blue, not gray


@pytest.mark.parametrize(('kpt_thr', 'color'), [(0.8, RED), (0.81, WHITE)])
def test_fused_keypoints_of_low_score_are_hollow_too(kpt_thr, color):
    data = sample()
    assert at(draw(visualizer(), data, kpt_thr=kpt_thr), TOP) == color
    assert data.pred_instances.keypoints_fused[0, 0]  # the sample stays as it is


def test_the_skeleton_has_the_link_colors_of_the_metainfo():
    assert at(draw(visualizer(), sample()), (120, 130)) == GREEN


def test_the_picture_has_the_size_of_the_image_and_the_image_is_not_changed():
    before = IMAGE.copy()
    assert draw(visualizer(), sample()).shape == IMAGE.shape
    np.testing.assert_array_equal(IMAGE, before)


@pytest.mark.parametrize('score', [0.29, 0.001])
def test_poses_below_the_threshold_are_not_drawn(score):
    np.testing.assert_array_equal(draw(visualizer(score_thr=0.3), sample([score])), IMAGE)


def test_all_poses_of_images_of_no_dataset_are_drawn():
    data = sample([0.001])
    del data.img_id
    assert (draw(visualizer(score_thr=0.3), data) != IMAGE).any()


def test_no_boxes_without_draw_bbox():
    assert at(draw(visualizer(), sample()), (40, 120)) != at(IMAGE, (40, 120))
    assert at(draw(visualizer(), sample(), draw_bbox=False), (40, 120)) == at(IMAGE, (40, 120))


def test_objects_give_three_titled_panels():
    picture = draw(visualizer(draw_objects=True), sample())
    height, width = IMAGE.shape[:2]
    title = picture.shape[0] - height
    assert title > 0 and picture.shape[1] == 3 * width
    poses, points, fused = np.split(picture[title:], 3, axis=1)
    assert at(poses, (TOP[0] + 140, TOP[1])) == WHITE  # regressed place, nothing fused
    assert at(points, (100, 90)) == RED and at(points, TOP) == at(IMAGE, TOP)
    assert at(fused, TOP) == RED
    for panel in np.split(picture[:title], 3, axis=1):
        assert panel.max() > 200


def test_the_panel_of_keypoint_objects_is_left_out_if_the_sample_has_none():
    merged = merge_data_samples([sample()])  # what MMPose's hook draws
    assert draw(visualizer(draw_objects=True), merged).shape[1] == 2 * IMAGE.shape[1]


def test_images_without_detections_are_drawn():
    nothing = sample([])
    nothing.pred_keypoint_objects = nothing.pred_keypoint_objects[:0]
    np.testing.assert_array_equal(draw(visualizer(), nothing), IMAGE)
    assert draw(visualizer(draw_objects=True), nothing).shape[1] == 3 * IMAGE.shape[1]


def test_gray_images_become_color_pictures():
    assert at(draw(visualizer(), sample(), image=IMAGE[..., 0]), TOP) == RED


@pytest.mark.parametrize('shape', [(1, 1, 3), (3, 200, 3), (500, 2, 3)])
def test_images_smaller_than_their_titles_and_labels_are_drawn(shape):
    picture = draw(visualizer(draw_objects=True), sample(), image=np.zeros(shape, np.uint8))
    assert picture.shape[1] == 3 * shape[1]


def test_boxes_can_have_one_color_for_all_categories():
    assert at(draw(visualizer(bbox_color=(9, 8, 7)), sample()), (40, 120)) == (9, 8, 7)


def test_keypoints_are_numbered_on_request(monkeypatch):
    written = []
    monkeypatch.setattr(drawing.Labels, 'write', lambda _, texts, *__: written.append(texts[0]))
    draw(visualizer(), sample(), show_kpt_idx=True)
    assert written == ['0.90', '0', '1']


def test_draws_without_metainfo():
    picture = draw(KAPAOVisualizer(draw_objects=True), sample())
    assert picture.shape[1] == 3 * IMAGE.shape[1]


@pytest.mark.slow
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_keypoints_anywhere_are_drawn(x, y):
    far = sample()
    far.pred_instances.keypoints = np.array([[TOP, (x, y)]])
    far.pred_instances.bboxes = np.array([[x, y, x, y]])
    assert draw(visualizer(), far).shape == IMAGE.shape


def test_the_written_file_has_the_colors_of_the_picture(tmp_path):
    path = tmp_path / 'new' / 'a.png'
    picture = draw(visualizer(), sample(), out_file=str(path))
    np.testing.assert_array_equal(mmcv.imread(path, channel_order='rgb'), picture)


def test_the_ground_truth_shows_labeled_keypoints_and_no_crowd_regions():
    truth = sample([])
    truth.gt_instances = InstanceData(
        bboxes=np.array([[40, 10, 200, 230], [240, 10, 360, 210]]),
        keypoints=np.array([[TOP, BASE], [TOP, BASE]]),
        keypoints_visible=np.array([[1, 0], [1, 1]]),
        bbox_scores=np.ones(2),  # MMPose's, of no meaning
    )
    truth.gt_instance_labels = InstanceData(labels=torch.tensor([0, 0]))
    truth.set_metainfo(dict(raw_ann_info=[dict(iscrowd=0), dict(iscrowd=1)]))
    panel = draw(visualizer(), truth, draw_gt=True, draw_pred=False)
    assert at(panel, TOP) == RED
    assert at(panel, BASE) == at(IMAGE, BASE)
    np.testing.assert_array_equal(panel[:, 220:], IMAGE[:, 220:])


def test_ground_truth_of_training_is_drawn():
    truth = PoseDataSample()
    truth.gt_instances = InstanceData(
        bboxes=np.array([[40, 10, 200, 230]]),
        keypoints=np.array([[TOP, BASE]]),
        keypoints_visible=np.array([[1, 1]]),
    )
    panel = draw(visualizer(), truth, draw_gt=True, draw_pred=False)
    assert at(panel, TOP) == RED and at(panel, BASE) == BLUE


def test_the_registry_builds_visualizers_without_a_name():
    config = dict(type='KAPAOVisualizer', radius=7)
    first, second = (VISUALIZERS.build(dict(config)) for _ in range(2))
    assert first is not second and first.radius == 7
    named = VISUALIZERS.build(config | dict(name='mine'))
    assert KAPAOVisualizer.get_instance('mine') is named


@pytest.mark.parametrize('metainfo', [{}, {'raw_ann_info': None}])
def test_samples_without_annotations_have_an_empty_ground_truth(metainfo):
    bare = sample()
    bare.set_metainfo(metainfo)
    panel = draw(visualizer(), bare, draw_gt=True, draw_pred=False)
    np.testing.assert_array_equal(panel, IMAGE)


def test_poses_of_several_categories_are_named(monkeypatch):
    written = []
    monkeypatch.setattr(drawing.Labels, 'write', lambda _, texts, *__: written.append(texts[0]))
    found = sample([0.9, 0.8])
    found.pred_instances.labels = np.array([1, 0])
    for names, expected in (
        (['cat', 'car'], {'car 0.90', 'cat 0.80'}),
        (['cat'], {'0.90', '0.80'}),
    ):
        drawer = visualizer()
        drawer.set_dataset_meta(
            META | dict(categories=[dict(name=n, keypoint_ids=[0, 1]) for n in names])
        )
        written.clear()
        draw(drawer, found)
        assert set(written) == expected
        written.clear()
        found.gt_instances = found.pred_instances
        found.gt_instance_labels = InstanceData(labels=torch.tensor([1, 0]))
        found.set_metainfo(dict(raw_ann_info=[{}, {}]))
        draw(drawer, found, draw_gt=True, draw_pred=False)
        assert set(written) == ({'cat', 'car'} if len(names) > 1 else set())


def test_mmpose_hook_writes_pictures(tmp_path):
    image_path = tmp_path / 'a.png'
    cv2.imwrite(str(image_path), IMAGE)
    output = sample()
    output.set_metainfo(dict(img_path=str(image_path)))
    drawer = KAPAOVisualizer.get_instance('hook')
    hook = PoseVisualizationHook(enable=True, out_dir='pictures')
    hook._visualizer = drawer
    evaluator = SimpleNamespace(dataset_meta=META)
    runner = SimpleNamespace(work_dir=str(tmp_path), timestamp='now', test_evaluator=evaluator)
    hook.after_test_iter(runner, 0, {}, [output])
    written = cv2.imread(str(tmp_path / 'now' / 'pictures' / 'a_0.png'))
    assert written.shape == IMAGE.shape and (written != IMAGE).any()
