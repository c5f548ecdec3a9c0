# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import torch

from kapao_mm.models.task_modules.objects import make_objects


def make(keypoints, visible, bboxes=None, categories=None, num_categories=1):
    """Objects of one image of 100 x 200 (h, w), K = 2."""
    keypoints = torch.tensor(keypoints, dtype=torch.float)
    bboxes = torch.tensor([[10.0, 20, 50, 80]] * len(keypoints)) if bboxes is None else bboxes
    categories = torch.tensor(categories or [0] * len(keypoints))
    labels = [bboxes], [keypoints], [torch.tensor(visible)], [categories]
    return make_objects(*labels, num_categories, torch.tensor([64.0, 32.0]), (100, 200))


def test_people_become_pose_objects_and_labeled_keypoints_become_keypoint_objects():
    objects = make([[[12, 30], [40, 70]], [[11, 21], [0, 0]]], [[1.0, 1.0], [1.0, 0.0]])
    assert objects.label.tolist() == [0, 0, 1, 2, 1]
    assert objects.boxes[0].tolist() == [30, 50, 40, 60]
    assert objects.boxes[2:].tolist() == [[12, 30, 64, 64], [40, 70, 32, 32], [11, 21, 64, 64]]
    assert objects.visible.tolist() == [[True, True], [True, False]] + [[False, False]] * 3


def test_person_without_labeled_keypoints_is_a_pose_object():
    objects = make([[[0, 0], [0, 0]]], [[0.0, 0.0]])
    assert objects.label.tolist() == [0]
    assert not objects.visible.any()


def test_keypoint_objects_at_the_border_stay_centered_on_their_keypoint():
    objects = make([[[0, 0], [200, 100]]], [[1.0, 1.0]])
    assert objects.boxes[1:, :2].tolist() == [[0, 0], [200, 100]]


def test_keypoints_outside_the_network_input_count_as_unlabeled():
    objects = make([[[-1, 5], [5, 101]]], [[1.0, 1.0]])
    assert objects.label.tolist() == [0]
    assert not objects.visible.any()


def test_categories_come_before_keypoint_types():
    keypoints = [[[12, 30], [0, 0]], [[0, 0], [40, 70]]]
    objects = make(keypoints, [[1.0, 0.0], [0.0, 1.0]], categories=[1, 0], num_categories=2)
    assert objects.label.tolist() == [1, 0, 2, 3]
    assert objects.boxes[2:].tolist() == [[12, 30, 64, 64], [40, 70, 32, 32]]


def test_objects_know_their_image_in_a_batch_with_empty_images():
    none, two = torch.zeros(0, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    empty = torch.zeros(0, 4), torch.zeros(0, 2, 2), torch.zeros(0, 2), none
    full = torch.ones(2, 4), torch.ones(2, 2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), two
    fields = zip(empty, full, empty, strict=True)
    objects = make_objects(*(list(field) for field in fields), 1, torch.ones(2), (100, 100))
    assert objects.image.tolist() == [1, 1, 1]
    assert objects.keypoints.shape == (3, 2, 2)
