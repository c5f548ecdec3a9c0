# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest

from kapao_mm.datasets.toy.figure import Figure, Part
from kapao_mm.datasets.toy.render import render

GRAY = np.full((120, 160, 3), 128, np.uint8)


def disk(x: float, y: float, radius: float, color=(0, 0, 255), visible=(), moved=()) -> Figure:
    """Makes a figure of one round part with all keypoints, except for ``moved``, at its center."""
    points = np.tile([x, y], (17, 1)).astype(float)
    for index, position in moved:
        points[index] = position
    return Figure(points, (Part(np.array([[x, y, radius]], float), 0.0, color, tuple(visible)),))


def keypoints(annotation: dict) -> np.ndarray:
    return np.reshape(annotation['keypoints'], (17, 3))


def test_annotation_describes_the_visible_pixels_of_a_single_part():
    image, (person,) = render(GRAY, [disk(80, 60, 20, visible=range(5))])
    assert person['bbox'] == [60, 40, 41, 41]
    assert person['area'] == pytest.approx(np.pi * 20**2, rel=0.05)
    assert keypoints(person)[:, 2].tolist() == [2] * 5 + [1] * 12
    changed = (image != GRAY).any(-1)
    assert changed.sum() == pytest.approx(person['area'], rel=0.1)
    (polygon,) = person['segmentation']
    mask = cv2.fillPoly(np.zeros((120, 160)), [np.reshape(polygon, (-1, 1, 2))], 1)
    assert mask.sum() == pytest.approx(person['area'], rel=0.05)


def test_nearer_person_hides_keypoints_and_pixels_of_the_farther_one():
    free = (16, (68, 60))  # the right ankle stays beside the nearer person
    far = disk(75, 60, 15, visible=range(17), moved=[free])
    near = disk(85, 60, 15, color=(255, 0, 0), visible=range(17))
    image, (behind, before) = render(GRAY, [far, near])
    assert keypoints(behind)[:, 2].tolist() == [1] * 16 + [2]
    assert keypoints(before)[:, 2].tolist() == [2] * 17
    assert behind['bbox'] == [60, 45, 21, 31]
    assert behind['area'] < before['area']
    assert image[60, 85, 0] > image[60, 85, 2]


def test_keypoints_outside_the_image_are_unlabeled():
    outside = [(0, (-0.6, 60)), (1, (30, -4)), (2, (160, 60)), (3, (80, 120)), (4, (159, 119))]
    (person,) = render(GRAY, [disk(0, 60, 10, visible=range(17), moved=outside)])[1]
    labels = keypoints(person)
    assert (labels[:4] == 0).all()
    assert labels[4].tolist() == [159, 119, 1]
    assert labels[5].tolist() == [0, 60, 2]
    assert person['num_keypoints'] == 13
    assert person['bbox'] == [0, 50, 11, 21]


def test_invisible_people_are_not_annotated():
    assert render(GRAY, [disk(-50, 60, 10)])[1] == []
    assert len(render(GRAY, [disk(80, 60, 10), disk(80, 60, 11)])[1]) == 1
