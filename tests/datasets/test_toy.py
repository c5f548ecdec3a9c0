# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The toy dataset: what is drawn is what is annotated, and the same seed draws the same."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from kapao_mm.datasets import toy
from kapao_mm.errors import InputError

SMALL = (160, 120)
GREY = np.full((120, 160, 3), 128, np.uint8)


def make(root: Path, level: str = 'easy', train: int = 3, val: int = 2, **kwargs) -> Path:
    return toy.make_toy_dataset(root, level, train, val, image_size=SMALL, **kwargs)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def annotations(root: Path, split: str = 'train') -> dict:
    return json.loads((root / f'annotations/person_keypoints_{split}.json').read_text())


def keypoints(annotation: dict) -> np.ndarray:
    return np.reshape(annotation['keypoints'], (17, 3))


def disc(x: float, y: float, radius: float, colour=(0, 0, 255), shows=(), also=()) -> toy.Figure:
    """A figure of one round part with all keypoints at its centre, bar those `also` places."""
    points = np.tile([x, y], (17, 1)).astype(float)
    for index, place in also:
        points[index] = place
    return toy.Figure(
        points, (toy.Part(np.array([[x, y, radius]], float), 0.0, colour, tuple(shows)),)
    )


def test_importing_needs_neither_torch_nor_mm(repo):
    code = (
        'import sys, importlib.util as u\n'
        f'spec = u.spec_from_file_location("toy", {toy.__file__!r})\n'
        'spec.loader.exec_module(u.module_from_spec(spec))\n'
        'print({"torch", "mmengine", "mmcv"} & set(sys.modules))'
    )
    command = [sys.executable, '-c', code]
    run = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'set()'


@pytest.mark.slow
@pytest.mark.parametrize('level', toy.LEVELS)
def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path, level):
    first, second, other = (
        contents(make(tmp_path / name, level, seed=seed))
        for name, seed in (('a', 1), ('b', 1), ('c', 2))
    )
    assert first == second
    assert all(first[name] != other[name] for name in first)


def test_counts_do_not_change_what_is_drawn(tmp_path):
    few, many = make(tmp_path / 'few', train=2), make(tmp_path / 'many', train=4)
    for name, image in contents(few).items():
        assert name.endswith('.json') or image == contents(many)[name]
    people = annotations(few)['annotations']
    assert people == annotations(many)['annotations'][: len(people)]


def test_no_two_images_are_the_same(tmp_path):
    files = contents(make(tmp_path, train=6, val=6))
    assert len(set(files.values())) == len(files) == 14


@pytest.mark.parametrize('split', ['train', 'val'])
def test_files_are_a_valid_coco_dataset(tmp_path, split):
    make(tmp_path, 'crowd', train=6, val=6)
    coco = COCO(tmp_path / f'annotations/person_keypoints_{split}.json')
    (category,) = coco.cats.values()
    assert category['keypoints'] == list(toy.KEYPOINTS)
    assert sorted({joint for bone in category['skeleton'] for joint in bone}) == list(range(1, 18))
    assert len(coco.imgs) == 6
    for image in coco.imgs.values():
        picture = cv2.imread(str(tmp_path / f'{split}2017' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3) == (120, 160, 3)
    for person in coco.anns.values():
        x, y, w, h = person['bbox']
        assert 0 <= x < x + w <= 160
        assert 0 <= y < y + h <= 120
        assert person['iscrowd'] == 0
        assert person['image_id'] in coco.imgs
        labels = keypoints(person)
        assert person['num_keypoints'] == (labels[:, 2] > 0).sum() > 0
        assert (labels[labels[:, 2] == 0] == 0).all()
        corners = np.concatenate([np.reshape(line, (-1, 2)) for line in person['segmentation']])
        assert (corners >= [x, y]).all()
        assert (corners < [x + w, y + h]).all()
        assert 0 < person['area'] <= w * h


def test_polygons_enclose_what_is_seen():
    (person,) = toy.render(GREY, [disc(80, 60, 20)])[1]
    (polygon,) = person['segmentation']
    mask = cv2.fillPoly(np.zeros((120, 160)), [np.reshape(polygon, (-1, 1, 2))], 1)
    assert mask.sum() == pytest.approx(person['area'], rel=0.05)


def test_ids_are_unique_over_both_splits(tmp_path):
    make(tmp_path, 'crowd')
    for key in ('images', 'annotations'):
        ids = [
            item['id'] for split in ('train', 'val') for item in annotations(tmp_path, split)[key]
        ]
        assert len(set(ids)) == len(ids)


def test_keypoint_names_and_order_are_those_of_mmpose():
    from mmengine import Config
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    path = Path(sys.modules['mmpose'].__file__).parent / '.mim/configs/_base_/datasets/coco.py'
    meta = parse_pose_metainfo(Config.fromfile(path).dataset_info)
    assert [meta['keypoint_id2name'][i] for i in range(17)] == list(toy.KEYPOINTS)


def test_annotation_is_what_is_seen_of_a_lone_part():
    image, (person,) = toy.render(GREY, [disc(80, 60, 10, shows=range(5))])
    assert person['bbox'] == [70, 50, 21, 21]
    assert person['area'] == pytest.approx(np.pi * 10**2, rel=0.05)
    assert keypoints(person)[:, 2].tolist() == [2] * 5 + [1] * 12
    changed = (image != GREY).any(-1)
    assert changed.sum() == pytest.approx(person['area'], rel=0.1)


def test_nearer_person_hides_keypoints_and_pixels_of_the_farther_one():
    free = (16, (68, 60))  # the right ankle stays beside the nearer person
    far = disc(75, 60, 15, shows=range(17), also=[free])
    near = disc(85, 60, 15, colour=(255, 0, 0), shows=range(17))
    image, (behind, before) = toy.render(GREY, [far, near])
    assert keypoints(behind)[:, 2].tolist() == [1] * 16 + [2]
    assert keypoints(before)[:, 2].tolist() == [2] * 17
    assert behind['bbox'] == [60, 45, 21, 31]
    assert behind['area'] < before['area']
    assert image[60, 85, 0] > image[60, 85, 2]


def test_a_real_figure_hides_another_one_completely():
    figure = toy.sample_figure(np.random.default_rng(0)).placed(100, (80, 30))
    (alone,) = toy.render(GREY, [figure])[1]
    (same,) = toy.render(GREY, [figure, figure])[1]
    assert same == alone


def test_own_body_hides_keypoints():
    def visible(yaw: float) -> np.ndarray:
        upright = toy._turn(yaw)
        rng, look = np.random.default_rng(0), toy._sample_look(np.random.default_rng(0))
        parts, joints = toy._head(rng, look, upright, upright)
        points = np.array([joints.get(k, np.zeros(3))[:2] for k in range(17)])
        parts = tuple(sorted(parts, key=lambda part: part.depth))
        (person,) = toy.render(GREY, [toy.Figure(points, parts).placed(300, (80, 80))])[1]
        return keypoints(person)[:5, 2]

    assert visible(0).tolist() == [2, 2, 2, 2, 2]
    assert visible(180)[:3].tolist() == [1, 1, 1]
    assert visible(90).tolist() == [2, 1, 2, 1, 2]  # turned to its left it shows its right side
    assert visible(-90).tolist() == [2, 2, 1, 2, 1]


def test_keypoints_outside_the_image_are_not_labelled():
    outside = [(0, (-0.6, 60)), (1, (30, -4)), (2, (160, 60)), (3, (80, 120)), (4, (159, 119))]
    (person,) = toy.render(GREY, [disc(0, 60, 10, shows=range(17), also=outside)])[1]
    labels = keypoints(person)
    assert (labels[:4] == 0).all()
    assert labels[4].tolist() == [159, 119, 1]
    assert labels[5].tolist() == [0, 60, 2]
    assert person['num_keypoints'] == 13
    assert person['bbox'] == [0, 50, 11, 21]


def test_a_person_outside_the_image_is_not_annotated():
    assert toy.render(GREY, [disc(-50, 60, 10)])[1] == []


@given(st.integers(0, 10_000), st.sampled_from(list(toy.LEVELS)))
@settings(max_examples=30, deadline=None)
def test_left_is_warm_and_right_is_cool_wherever_a_limb_is_seen(seed, level):
    figure = toy.sample_figure(np.random.default_rng(seed), level).placed(400, (320, 100))
    image, (person,) = toy.render(np.full((480, 640, 3), 128, np.uint8), [figure])
    for index in (*range(1, 9), *range(11, 15)):  # eyes to elbows, hips, knees
        x, y, v = keypoints(person)[index]
        if v == 2:
            blue, _, red = image[round(y), round(x)].astype(int)
            assert (red > blue) == toy.KEYPOINTS[index].startswith('left')


def test_left_of_a_person_facing_the_viewer_is_right_in_the_image():
    assert (toy._turn(0)[0] @ [1, 0, 0], toy._turn(180)[0] @ [1, 0, 0]) == pytest.approx((1, -1))
    assert toy._turn(0)[2] == pytest.approx([0, 0, 1])  # forward is towards the viewer


@pytest.mark.slow
@pytest.mark.parametrize(
    ('level', 'most', 'lowest', 'highest'), [('easy', 2, 75, 112.5), ('crowd', 8, 22.5, 105)]
)
def test_numbers_and_sizes_of_people(level, most, lowest, highest):
    scenes = [toy._arrange(np.random.default_rng(seed), level, SMALL) for seed in range(60)]
    counts = {len(figures) for figures in scenes}
    assert counts == set(range(1, most + 1))
    boxes = np.array([figure.box() for figures in scenes for figure in figures])
    heights = boxes[:, 3] - boxes[:, 1]
    assert lowest <= heights.min() < lowest * 1.3
    assert highest * 0.9 < heights.max() <= highest
    cut = ((boxes[:, :2] < 0) | (boxes[:, 2:] > SMALL)).any(1)
    assert 0.05 < cut.mean() < 0.4


def test_nearer_parts_and_people_are_drawn_later():
    figures = toy._arrange(np.random.default_rng(0), 'crowd', SMALL)
    heights = [figure.box()[3] - figure.box()[1] for figure in figures]
    assert len(heights) > 2
    assert heights == sorted(heights)  # the nearer are larger
    for figure in figures:
        depths = [part.depth for part in figure.parts]
        assert depths == sorted(depths)


@pytest.mark.slow
@given(st.integers(0, 10_000), st.sampled_from(list(toy.LEVELS)))
@settings(max_examples=20, deadline=None)
def test_enough_is_seen_of_everybody(seed, level):
    rng = np.random.default_rng(seed)
    figures = toy._arrange(rng, level, SMALL)
    people = toy.render(GREY, figures)[1]
    assert len(people) == len(figures)
    for figure, person in zip(figures, people, strict=True):
        left, top, right, bottom = figure.box()
        whole = toy._silhouette(
            figure.placed(1, (-left, -top)), (int(right - left) + 1, int(bottom - top) + 1)
        )
        assert person['area'] > 0.9 * toy.LEVELS[level].min_visible * whole.sum()


def test_finished_dataset_is_kept_and_said_so(tmp_path, capsys):
    make(tmp_path)
    assert 'wrote 3 + 2' in capsys.readouterr().out
    marked = tmp_path / 'train2017/toy_0000001.jpg'
    marked.write_bytes(b'kept')
    assert make(tmp_path) == tmp_path
    assert 'already holds 3 + 2' in capsys.readouterr().out
    assert marked.read_bytes() == b'kept'


@pytest.mark.parametrize('change', [{'train': 4}, {'level': 'crowd'}, {'seed': 1}])
def test_other_parameters_replace_the_dataset(tmp_path, change):
    make(tmp_path / 'a')
    make(tmp_path / 'a', **change)
    assert annotations(tmp_path / 'a') == annotations(make(tmp_path / 'b', **change))


def test_missing_image_is_drawn_again(tmp_path):
    make(tmp_path)
    missing = tmp_path / 'val2017/toy_1000002.jpg'
    before = missing.read_bytes()
    missing.unlink()
    make(tmp_path)
    assert missing.read_bytes() == before


def test_interrupted_run_leaves_no_dataset(tmp_path, monkeypatch):
    make(tmp_path)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(toy, 'draw_scene', interrupt)
        make(tmp_path, seed=1)
    assert not list(tmp_path.glob('annotations/*'))
    make(tmp_path, seed=1)
    assert annotations(tmp_path)['info']['seed'] == 1


def test_another_dataset_is_left_alone(tmp_path):
    path = tmp_path / 'annotations/person_keypoints_val.json'
    path.parent.mkdir()
    path.write_text(json.dumps({'info': {'description': 'COCO'}, 'images': []}))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r'person_keypoints_val\.json'):
        make(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize('wrong', [{'level': 'hard'}, {'train': 0}, {'val': -1}, {'seed': -1}])
def test_wrong_arguments_are_named(tmp_path, wrong):
    with pytest.raises(InputError, match='toy'):
        make(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_command_line_writes_where_it_says(tmp_path, monkeypatch, capsys):
    root = tmp_path / 'toy'
    arguments = [str(root), '--level', 'crowd', '--train', '1', '--val', '1', '--seed', '3']
    monkeypatch.setattr(sys, 'argv', ['toy.py', *arguments])
    toy.main()
    assert capsys.readouterr().out == f'wrote 1 + 1 toy images (crowd, seed 3) to {root}\n'
    assert annotations(root)['images'][0]['width'] == 640
