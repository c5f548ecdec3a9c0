# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kapao_mm.models.task_modules.assigner import AnchorRatioAssigner
from kapao_mm.models.task_modules.objects import Objects

GRID_HW = (6, 9)
STRIDE = 8
ANCHORS = torch.tensor([[1.0, 2.0], [3.0, 3.0], [6.0, 1.5]])


def pose_objects(boxes):
    n = len(boxes)
    return Objects(
        image=torch.arange(n),
        label=torch.zeros(n, dtype=torch.long),
        boxes=torch.tensor(boxes, dtype=torch.float).reshape(n, 4),
        keypoints=torch.zeros(n, 1, 2),
        visible=torch.ones(n, 1, dtype=torch.bool),
    )


def assign(boxes):
    matches = AnchorRatioAssigner(max_ratio=4).assign(pose_objects(boxes), ANCHORS, STRIDE, GRID_HW)
    keys = torch.stack((matches.image, matches.anchor, matches.gy, matches.gx), 1).tolist()
    return matches, sorted(map(tuple, keys))


def assign_slowly(boxes):
    """Applies the rule of docs/method.md to each object and anchor."""
    found = []
    rows, columns = GRID_HW
    for i, (x, y, w, h) in enumerate((torch.tensor(boxes).reshape(-1, 4) / STRIDE).tolist()):
        for a, (aw, ah) in enumerate(ANCHORS.tolist()):
            if max(w / aw, aw / w, h / ah, ah / h) >= 4:
                continue
            cells = [(int(y), int(x))]
            cells += [(int(y), int(x) - 1)] * (x % 1 < 0.5 and x > 1)
            cells += [(int(y) - 1, int(x))] * (y % 1 < 0.5 and y > 1)
            cells += [(int(y), int(x) + 1)] * ((columns - x) % 1 < 0.5 and columns - x > 1)
            cells += [(int(y) + 1, int(x))] * ((rows - y) % 1 < 0.5 and rows - y > 1)
            clamped = (
                (min(max(gy, 0), rows - 1), min(max(gx, 0), columns - 1)) for gy, gx in cells
            )
            found += [(i, a, gy, gx) for gy, gx in clamped]
    return sorted(found)


# Quarters of a pixel, never on the middle of a cell, where left and right neighbor tie.
coords = st.integers(0, 4 * 72).filter(lambda v: (v / 4 / STRIDE) % 0.5 != 0).map(lambda v: v / 4)
sides = st.floats(1, 80, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(coords, coords.filter(lambda v: v <= 48), sides, sides), max_size=6))
def test_matches_equal_the_rule_applied_object_by_object(boxes):
    assert assign(boxes)[1] == assign_slowly(boxes)


def test_boxes_and_keypoints_are_relative_to_the_matched_cell():
    matches, keys = assign([(3.25 * 8, 2.75 * 8, 16, 16)])
    assert {key[2:] for key in keys} == {(2, 3), (2, 2), (3, 3)}
    cell = torch.stack((matches.gx, matches.gy), 1)
    torch.testing.assert_close(
        matches.boxes[:, :2] + cell, torch.tensor([[3.25, 2.75]]).expand(len(cell), 2)
    )
    torch.testing.assert_close(matches.keypoints[:, 0] + cell, torch.zeros(len(cell), 2))


def test_no_object_gives_no_match():
    assert assign([])[1] == []
