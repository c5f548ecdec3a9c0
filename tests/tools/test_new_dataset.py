# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmpose.registry import DATASETS, MODELS

from kapao_mm.datasets import read_metainfo
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.utils.config import load_config

TOOL = 'dataset_converters/new_dataset.py'
SAMPLES = dict(  # name -> training and validation file with their images, flags
    wheels=('vehicle_wheels/train.json', '', 'vehicle_wheels/val.json', ''),
    people=(
        'coco_subset/annotations/person_keypoints_train.json',
        '../train2017',
        'coco_subset/annotations/person_keypoints_val.json',
        '../val2017',
    ),
    animals=('ap10k_sample/test_ap10k.json', '', 'ap10k_sample/test_ap10k.json', ''),
    crowds=(
        'crowdpose_sample/test_crowdpose.json',
        '',
        'crowdpose_sample/test_crowdpose.json',
        '',
        '--no-skeleton',
    ),
)


@pytest.fixture
def new(run_tool, tmp_path, capsys):
    """Makes a function that runs the tool, and returns its message, its output and the config."""

    def run(*args, name='new'):
        out = tmp_path / 'out'
        message = run_tool(TOOL, '--name', name, '--out', out, *args)
        return message, capsys.readouterr().out, next(out.glob('kapao_*.py'), None)

    return run


@pytest.fixture
def data(tmp_path):
    """Makes a function that writes annotations of cows and carts in six images, and its path."""
    root = tmp_path / 'data'
    (root / 'images').mkdir(parents=True)
    (root / 'images/0.jpg').touch()  # the one that is looked for

    def write(file='all.json', size=40, **changes):
        images = [dict(id=i, file_name='images/0.jpg', width=100, height=80) for i in range(1, 7)]
        objects = [
            dict(
                id=i,
                image_id=i,
                category_id=1 + i % 2,
                bbox=[10, 10, size, size],
                area=size * size,
                keypoints=[10 + i, 20, 2, 20, 20 + i, 2] + [30, 30, 2] * (i % 2),
            )
            for i in range(1, 7)
        ]
        categories = [
            dict(id=1, name='cow', keypoints=['eye_l', 'eye_r'], skeleton=[[1, 2]]),
            dict(id=2, name='ox cart', keypoints=['wheel', 'axle', 'shaft'], skeleton=[[1, 2]]),
        ]
        content = dict(images=images, annotations=objects, categories=categories)
        (root / file).write_text(json.dumps(content | changes))
        return root / file

    return write


def read(path):
    return json.loads(Path(path).read_text())


def cows(path):
    """The annotations of cows alone."""
    return [a for a in read(path)['annotations'] if a['category_id'] == 1]


def sample_args(shared_dir, sample):
    train, train_images, val, val_images, *flags = SAMPLES[sample]
    train, val = shared_dir / 'data' / train, shared_dir / 'data' / val
    folders = ['--images', train.parent / train_images, '--val-images', val.parent / val_images]
    return [train, '--val', val, *folders, *flags]


@pytest.mark.slow
@pytest.mark.parametrize('schedule', ['short', 'published'])
@pytest.mark.parametrize(
    'sample, images, keypoints, flips, use_area',
    [
        ('wheels', 120, 5, False, True),
        ('people', 160, 17, True, True),
        ('animals', 2, 17, True, True),
        ('crowds', 2, 14, True, False),
    ],
)
def test_the_config_of_a_real_sample_builds_its_model_and_data(
    new, shared_dir, sample, images, keypoints, flips, use_area, schedule
):
    args = sample_args(shared_dir, sample)
    message, out, config = new(*args, '--schedule', schedule, '--size', 's', name=sample)
    assert message is None
    assert config.name == f'kapao_s_{sample}.py'
    cfg = load_config(config, dict(input_size=128))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.backbone.parameters()) > 5e6
    assert model.head.num_keypoints == keypoints
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == images
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 128, 128)
    assert sample['data_samples'].gt_instance_labels.keypoints.shape[1] == keypoints
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) > 0
    transforms = [step['type'] for step in cfg.train_dataloader.dataset.pipeline]
    assert ('HorizontalFlip' in transforms) == flips
    assert any(flipped for _, flipped in cfg.tta_model.passes) == flips
    assert ('no HorizontalFlip' in out) != flips
    assert ('MosaicScaleTranslate' in transforms) == (schedule == 'published')
    assert cfg.val_evaluator.get('use_area', True) == use_area


def test_the_written_files_are_formatted_as_the_project_is(new, data, repo, shared_dir):
    people = sample_args(shared_dir, 'people')
    for args in ([data()], [*people, '--schedule', 'published'], sample_args(shared_dir, 'wheels')):
        message, _, config = new(*args, '--force')
        assert message is None
        for check in (['format', '--check'], ['check', '--ignore', 'D']):
            command = [sys.executable, '-m', 'ruff', *check, '--config', repo / 'pyproject.toml']
            subprocess.run([*command, config.parent], check=True)


@pytest.mark.slow
def test_the_config_trains_and_validates(new, run_tool, shared_dir, tmp_path):
    _, out, config = new(*sample_args(shared_dir, 'wheels'))
    assert f'kapao train {config}' in out
    options = ['input_size=64', 'batch_size=2', 'max_epochs=1', 'train_cfg.val_interval=1']
    for part, count in (('train', 4), ('val', 2)):
        options += [
            f'{part}_dataloader.num_workers=0',
            f'{part}_dataloader.dataset.indices={count}',
        ]
    work = ['--work-dir', tmp_path / 'work']
    assert run_tool('train.py', config, *work, '--cfg-options', *options) is None
    found = load_weights_only(tmp_path / 'work/epoch_1.pth')
    assert found['meta']['iter'] == 2
    (log,) = tmp_path.glob('work/*/*.log')
    assert 'coco/AP: ' in log.read_text()


def test_the_gains_are_used_as_they_are_given(new, data):
    _, _, config = new(data())
    gains = MODELS.build(load_config(config).model.head.loss).gains(2 + 5, 320)
    assert (gains['cls'], gains['obj']) == pytest.approx((0.3 * 3 / 4, 0.7 * 3 / 4))


def test_categories_with_other_keypoints_are_categories_of_the_model(new, data):
    message, out, config = new(data())
    assert message is None
    cfg = load_config(config)
    assert cfg.model.head.num_keypoints == [2, 3]
    metainfo = read_metainfo(cfg.metainfo)
    assert [category['name'] for category in metainfo['categories']] == ['cow', 'ox cart']
    assert metainfo['flip_indices'] == [1, 0, 2, 3, 4]
    assert 'cow: 2 annotations, 2 keypoints: eye_l, eye_r\n  left/right pairs: eye_l - eye_r' in out
    assert (
        'ox cart: 3 annotations, 3 keypoints: wheel, axle, shaft\n  left/right pairs: none' in out
    )
    assert 'HorizontalFlip' not in [step['type'] for step in cfg.train_pipeline]


def test_categories_with_the_same_keypoints_are_one(new, shared_dir):
    _, out, config = new(*sample_args(shared_dir, 'animals'), name='animal')
    assert out.startswith(
        '2 categories with the same keypoints: one category of the model\nanimal:'
    )
    metainfo = read_metainfo(load_config(config).metainfo)
    assert [category['name'] for category in metainfo['categories']] == ['animal']


def test_a_side_without_the_other_is_told_and_switches_flips_off(new, data):
    categories = [dict(id=2, name='cow', keypoints=['eye_l', 'eye_r', 'left_horn'])]
    carts = [a for a in read(data())['annotations'] if a['category_id'] == 2]
    path = data(categories=categories, annotations=carts)
    _, out, config = new(path, '--val', path)
    assert 'left/right pairs: eye_l - eye_r\n  without their other side: left_horn' in out
    assert 'HorizontalFlip' not in [step['type'] for step in load_config(config).train_pipeline]


def test_missing_names_are_told(new, data):
    path = data(categories=[dict(id=1, name='cow'), dict(id=2, name='cart')])
    _, out, _ = new(path)
    assert 'keypoints: keypoint_0, keypoint_1\n  the file has no names of keypoints' in out


def test_without_a_validation_file_images_are_drawn_for_it(new, data):
    path = data()
    message, out, config = new(path, '--val-fraction', 0.4)
    assert message is None
    train, val = (read(path.with_stem(f'all_{part}')) for part in ('train', 'val'))
    assert (len(train['images']), len(val['images'])) == (4, 2)
    ids = [{image['id'] for image in part['images']} for part in (train, val)]
    assert ids[0] | ids[1] == {1, 2, 3, 4, 5, 6}
    assert [{a['image_id'] for a in part['annotations']} for part in (train, val)] == ids
    cfg = load_config(config)
    assert (cfg.data_root, cfg.train_ann, cfg.val_ann) == (
        str(path.parent),
        'all_train.json',
        'all_val.json',
    )


@pytest.mark.parametrize('fraction', [0.01, 0.99])
def test_a_fraction_that_leaves_nothing_is_an_error(new, data, fraction):
    message, _, config = new(data(), '--val-fraction', fraction)
    assert 'of 6 images leaves none for training or for validation' in message
    assert config is None


def test_nothing_is_overwritten_without_force(new, data, tmp_path):
    args = [data(), '--val', data('val.json')]
    _, _, config = new(*args)
    metainfo = config.with_name('metainfo_cow.py')
    config.unlink()
    metainfo.write_text('mine')
    message, out, config = new(*args)
    assert f'{metainfo}' in message and '--force' in message
    assert config is None
    assert metainfo.read_text() == 'mine'
    assert new(*args, '--force')[0] is None
    assert metainfo.read_text() != 'mine'


def test_the_data_can_be_elsewhere_and_have_no_area(new, data, tmp_path):
    path = data()
    no_area = [{k: v for k, v in a.items() if k != 'area'} for a in read(path)['annotations']]
    val = data('val.json', annotations=no_area)
    _, _, config = new(path, '--val', val)
    cfg = load_config(config, dict(data_root='/elsewhere'))
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.test_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.test_evaluator == dict(type='KAPAOMetric', use_area=False)


def test_sigmas_of_a_second_annotation_go_into_the_metainfo(new, data):
    path = data()
    objects = cows(path)
    moved = [dict(a, keypoints=[x + 1 for x in a['keypoints']]) for a in objects]
    args = [
        data(annotations=objects),
        '--val',
        path,
        '--second',
        data('second.json', annotations=moved),
    ]
    message, out, config = new(*args)
    assert message is None
    expected = round(2**0.5 / 40, 4)
    sigmas = read_metainfo(load_config(config).metainfo)['sigmas']
    assert sigmas == pytest.approx([expected] * 2)
    assert 'sigmas of 3 objects annotated twice' in out
    assert f'eye_l {expected:.4f} (3)' in out


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda a: a, 'no object has two different locations of eye_l, eye_r'),
        (lambda a: dict(a, id=a['id'] + 100), 'shares no annotation ids'),
        (lambda a: dict(a, image_id=1), 'has another image'),
        (lambda a: dict(a, keypoints=[1, 1, 2]), 'or number of keypoints'),
    ],
)
def test_a_second_annotation_that_tells_nothing_is_an_error(new, data, change, message):
    path = data(annotations=cows(data()))
    second = data('second.json', annotations=[change(a) for a in cows(path)])
    found, _, config = new(path, '--val', path, '--second', second)
    assert message in found
    assert config is None


def test_anchors_that_do_not_fit_name_the_tool_that_finds_others(new, data):
    _, out, config = new(data(size=1))
    assert 'best possible recall 0.000 of pose objects, 1.000 of keypoint objects' in out
    assert f'kapao anchors {config}' in out
    assert 'optimize_anchors' not in new(data(), '--force')[1]


@pytest.mark.parametrize(
    'changes, flags, message',
    [
        (dict(images=[], annotations=[]), [], 'of 0 images'),
        (dict(images=[dict(id=1)]), [], "images without 'file_name': 1"),
        (dict(annotations=None), [], "it has no list of objects 'annotations'"),
        (dict(), ['--images', '.'], 'is not in'),
        (dict(), ['--name', 'a/b'], "--name 'a/b'"),
        (dict(), ['--val', 'missing.json'], 'missing.json: No such file'),
    ],
)
def test_wrong_input_is_an_error_before_anything_is_written(new, data, changes, flags, message):
    found, _, config = new(data(**changes), *flags)
    assert message in found
    assert config is None


def test_what_training_would_refuse_is_an_error(new, data):
    path = data()
    objects = read(path)['annotations']
    message, _, config = new(data(annotations=[*objects, objects[0]]))
    assert 'share their id' in message
    assert config is None


def test_categories_whose_files_would_be_one_are_an_error(new, data):
    path = data()
    categories = read(path)['categories']
    categories[0]['name'] = 'ox.cart'
    assert "'ox.cart', 'ox cart' would share" in new(data(categories=categories))[0]


def test_relative_paths_stay_relative(load_file):
    locate = load_file(f'tools/{TOOL}').locate
    paths = dict(train_ann='data/a/train.json', train_img='data/a', val_ann='data/a/ann/val.json')
    paths = {key: Path(path) for key, path in paths.items()}
    assert locate(paths) == dict(
        data_root='data/a', train_ann='train.json', train_img='', val_ann='ann/val.json'
    )
    assert locate({'val_ann': Path('val.json')})['data_root'] == '.'
    absolute = locate(paths | dict(val_img=Path('/data')))
    assert absolute['data_root'] == '/'
    assert absolute['val_img'] == 'data'


@pytest.mark.parametrize('schedule', ['short', 'published'])
def test_the_tolerance_of_fusion_goes_by_the_size_of_the_objects(new, data, schedule):
    message, out, config = new(data(size=20), '--schedule', schedule)
    assert message is None
    assert 'fusion_distance: 9 px, by the size of the objects' in out
    assert load_config(config).model.test_cfg.fusion_distance == 9  # 50 * 20 / 109
    assert load_config(config).model.test_cfg.pose_score_thr == 0.001


def test_objects_too_small_to_be_learned_are_told_with_the_input_size_that_would_do(new, data):
    _, out, _ = new(data(size=8))  # of 100 px
    assert 'too small' not in out
    images = [dict(id=i, file_name='images/0.jpg', width=400, height=400) for i in range(1, 7)]
    _, out, _ = new(data(size=8, images=images), '--force')
    assert '5 objects too small to be learned in an input of 384 px' in out
    assert 'input_size=832 or more would do for 98% of all objects' in out


BAD_OBJECTS = [
    dict(keypoints=3),
    dict(keypoints=[1, 2]),
    dict(keypoints=['a', 'b', 'c'] * 2),
    dict(keypoints=[float('nan')] * 6),
    dict(keypoints=None),
    dict(category_id=[1]),
    dict(category_id={}),
    dict(category_id='1'),
    dict(image_id=[]),
    dict(image_id=None),
    dict(id={}),
    dict(id=2),
    dict(bbox=[1, 2]),
    dict(bbox='box'),
    dict(bbox=[0, 0, -5, -5]),
    dict(area=-1),
    dict(area='x'),
    dict(iscrowd='x'),
]
BAD_CATEGORIES = [
    dict(name=3),
    dict(name=None),
    dict(name='{{cow}}'),
    dict(name='\ud800'),
    dict(keypoints='eyes'),
    dict(keypoints=[1, 2]),
    dict(keypoints=['a', '']),
    dict(keypoints=dict(a=1)),
    dict(skeleton=3),
    dict(skeleton=[[1, 2, 3]]),
    dict(skeleton=[['a', 'b']]),
    dict(skeleton=[None]),
    dict(id=[]),
]
BAD_IMAGES = [dict(file_name=3), dict(file_name='a\0b'), dict(id='1'), dict(width=2**40)]


@pytest.mark.parametrize(
    ('kind', 'change'),
    [
        *(('annotations', change) for change in BAD_OBJECTS),
        *(('categories', change) for change in BAD_CATEGORIES),
        *(('images', change) for change in BAD_IMAGES),
    ],
)
def test_malformed_entries_are_an_error_before_anything_is_written(new, data, kind, change):
    path = data()
    content = read(path)
    content[kind][0] |= change
    message, _, config = new(data(**content), '--val', path)
    if message is None:  # what only evaluation reads
        message, _, config = new(path, '--val', data('bad.json', **content), '--force')
    assert message.startswith('error: ') and path.parent.name in message
    assert config is None


@pytest.mark.parametrize('text', ['', '[]', '{"images": 3}', '[' * 100_000, '{"images": [], "im'])
def test_what_is_no_annotation_file_is_an_error(new, data, text):
    path = data()
    path.write_text(text)
    assert new(path)[0].startswith(f'error: annotation file {path}')


def test_files_are_written_all_or_none(new, data, tmp_path):
    path = data()
    (tmp_path / 'out/metainfo_cow.py').mkdir(parents=True)  # in the way of a file
    message, out, config = new(path, '--force')
    assert 'metainfo_cow.py cannot be written' in message
    assert 'wrote' not in out


def test_areas_that_are_missing_are_told(new, data):
    objects = [{k: v for k, v in a.items() if k != 'area'} for a in read(data())['annotations']]
    val = data('val.json', annotations=objects)
    _, out, _ = new(data(), '--val', val)
    assert '6 of 6 validation objects have no area: evaluation takes 0.53 of the boxes' in out
