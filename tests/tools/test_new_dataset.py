# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import errno
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpose.registry import DATASETS, MODELS
from PIL import Image

from kapao_mm.datasets import read_metainfo
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.utils.config import load_config

TOOL = 'dataset_converters/new_dataset.py'
NAN = float('nan')
SAME_FILE = [
    dict(id=1, name='ox.cart', keypoints=['eye_l', 'eye_r']),
    dict(id=2, name='ox cart', keypoints=['wheel', 'axle', 'shaft']),
]
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
    """Makes a function that runs the tool and returns its message, its output and the config."""

    def run(*args, name='new'):
        out = tmp_path / 'out'
        message = run_tool(TOOL, '--name', name, '--out', out, *args)
        return message, capsys.readouterr().out, next(out.glob('kapao_*.py'), None)

    return run


@pytest.fixture
def data(tmp_path):
    """Makes a function that writes annotations of cows and carts in six images."""
    root = tmp_path / 'data'
    (root / 'images').mkdir(parents=True)
    (root / 'images/0.jpg').touch()  # only the first image must exist

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
    """Returns the annotations of cows."""
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
def test_config_of_a_real_sample_builds_model_and_datasets(
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


def test_config_is_short_and_loads_with_mmengine_from_any_folder(new, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for schedule in ('short', 'published'):
        _, _, config = new(data(), '--schedule', schedule, '--force')
        for path in config.parent.iterdir():
            assert len(path.read_text().splitlines()) < 50
        cfg = Config.fromfile(config)
        assert cfg.train_dataloader.dataset.ann_file == str(config.parent / 'all_train.json')
        assert read_metainfo(cfg.val_dataloader.dataset.metainfo)['num_keypoints'] == 5


def test_values_in_the_config_can_be_edited(new, data):
    _, _, config = new(data())
    text = config.read_text()
    assert 'input_size=384' in text
    config.write_text(text.replace('input_size=384', 'input_size=512'))
    cfg = load_config(config)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        sizes = {step.input_size for step in loader.dataset.pipeline if 'input_size' in step}
        assert sizes == {512}


@pytest.fixture
def wheels(shared_dir):
    """Flags for the real wheels."""
    return sample_args(shared_dir, 'wheels')


@pytest.fixture
def wheels_and_boxes(shared_dir, tmp_path):
    """Flags for the real wheels and a category of their boxes, without keypoints."""
    files = []
    for part in ('train', 'val'):
        content = read(shared_dir / f'data/vehicle_wheels/{part}.json')
        content['annotations'] += [
            dict(id=1000 + a['id'], image_id=a['image_id'], category_id=9, bbox=a['bbox'])
            for a in content['annotations']
        ]
        content['categories'].append(dict(id=9, name='box'))
        files.append(tmp_path / f'{part}.json')
        files[-1].write_text(json.dumps(content))
    return [files[0], '--val', files[1], '--images', shared_dir / 'data/vehicle_wheels']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('sample', 'metric'), [('wheels', 'coco/AP: '), ('wheels_and_boxes', 'coco/box/box AP: ')]
)
def test_config_trains_and_validates(new, run_tool, request, tmp_path, sample, metric):
    _, out, config = new(*request.getfixturevalue(sample))
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
    assert metric in log.read_text()
    assert 'coco/box/AP' not in log.read_text()


def test_loss_gains_are_not_scaled(new, data):
    _, _, config = new(data())
    gains = MODELS.build(load_config(config).model.head.loss).gains(2 + 5, 320)
    assert (gains['cls'], gains['obj']) == pytest.approx((0.3 * 3 / 4, 0.7 * 3 / 4))


def test_categories_with_different_keypoints_are_categories_of_the_model(new, data):
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


@pytest.fixture
def with_cages(data):
    """The path of annotations with a third category, which has no keypoints."""
    content = read(data())
    cage = dict(id=50, image_id=1, category_id=9, bbox=[5, 5, 50, 50], area=2500)
    cages = [cage | dict(id=50 + i, image_id=i) for i in range(1, 7)]
    content['annotations'] += cages
    content['categories'].append(dict(id=9, name='cage'))
    return data(**content)


def test_category_without_keypoints_is_a_category_of_the_model(new, with_cages):
    message, out, config = new(with_cages)
    assert message is None
    assert 'cage: 5 annotations, no keypoints: boxes only\nfusion_distance' in out
    cfg = load_config(config)
    assert cfg.model.head.num_keypoints == [2, 3, 0]
    names = [category['name'] for category in read_metainfo(cfg.metainfo)['categories']]
    assert names == ['cow', 'ox cart', 'cage']
    found = {path.name for path in config.parent.glob('metainfo*')}
    assert found == {'metainfo_cow.py', 'metainfo_ox_cart.py'}


def test_boxes_and_keypoints_that_label_studio_exported_apart_are_refused(new, data, with_cages):
    path = data(**read(with_cages) | dict(info=dict(contributor='Label Studio')))
    message, _, config = new(path)
    assert 'join them with kapao label-studio-to-coco, or choose with --category' in message
    assert config is None
    assert new(path, '--category', 'cow')[0] is None


@pytest.mark.parametrize('validation', [False, True])
def test_chosen_categories_are_those_of_the_model(new, with_cages, validation):
    val = ['--val', with_cages] if validation else []
    message, _, config = new(with_cages, *val, '--category', 'cow', 'cage')
    assert message is None
    cfg = load_config(config)
    assert cfg.model.head.num_keypoints == [2, 0]
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        path = Path(loader.dataset.data_root, loader.dataset.ann_file)
        assert path != with_cages
        assert {a['category_id'] for a in read(path)['annotations']} == {1, 9}
        dataset = DATASETS.build({**loader.dataset, 'pipeline': []})
        assert len(dataset) == len(read(path)['images'])


@pytest.mark.parametrize(
    'chosen, message',
    [
        (['cow', 'dog'], 'has no category dog; it has cow, ox cart, cage'),
        (['cage'], 'cage: no category has keypoints'),
    ],
)
def test_categories_that_make_no_model_are_refused(new, with_cages, chosen, message):
    found, _, config = new(with_cages, '--category', *chosen)
    assert message in found
    assert config is None


def test_categories_with_the_same_keypoints_are_merged(new, shared_dir):
    _, out, config = new(*sample_args(shared_dir, 'animals'), name='animal')
    assert out.startswith(
        '2 categories with the same keypoints: one category of the model\nanimal:'
    )
    metainfo = read_metainfo(load_config(config).metainfo)
    assert [category['name'] for category in metainfo['categories']] == ['animal']


def test_validation_images_are_drawn_if_there_is_no_validation_file(new, data):
    path = data()
    message, out, config = new(path, '--val-fraction', 0.4)
    assert message is None
    train, val = (read(config.with_name(f'all_{part}.json')) for part in ('train', 'val'))
    assert (len(train['images']), len(val['images'])) == (4, 2)
    ids = [{image['id'] for image in part['images']} for part in (train, val)]
    assert ids[0] | ids[1] == {1, 2, 3, 4, 5, 6}
    assert [{a['image_id'] for a in part['annotations']} for part in (train, val)] == ids
    cfg = load_config(config)
    assert cfg.data_root == str(path.parent)
    assert cfg.train_ann == str(config.parent / 'all_train.json')


@pytest.mark.parametrize(('fraction', 'val_images'), [(0.01, 1), (0.5, 3), (0.99, 4)])
def test_split_keeps_images_of_each_category_for_training(new, data, fraction, val_images):
    message, out, config = new(data(), '--val-fraction', fraction)
    assert message is None
    counts = f'{6 - val_images} for training, {val_images} for validation'
    assert f'split at random, images: {counts}' in out
    train = read(config.with_name('all_train.json'))
    assert {a['category_id'] for a in train['annotations']} == {1, 2}
    assert read(config.with_name('all_val.json'))['annotations']


@pytest.mark.parametrize('fraction', [0, 1, -0.5, 'nan'])
def test_fraction_outside_0_and_1_is_an_error(new, data, fraction):
    message, _, config = new(data(), '--val-fraction', fraction)
    assert 'it must be between 0 and 1' in message
    assert config is None


def few(path, count):
    """Returns the changes to a file so that it has images of one category only."""
    objects = cows(path)[:count]
    used = {a['image_id'] for a in objects}
    images = [image for image in read(path)['images'] if image['id'] in used]
    return dict(annotations=objects, images=images)


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 3])
def test_few_images_are_split(new, data, count):
    message, out, config = new(data(**few(data(), count)))
    assert message is None
    assert f'split at random, images: {count - 1} for training, 1 for validation' in out
    cfg = load_config(config)
    for loader, images in ((cfg.train_dataloader, count - 1), (cfg.val_dataloader, 1)):
        assert len(DATASETS.build(loader.dataset | dict(pipeline=[]))) == images


def test_a_single_image_is_for_training_and_validation(new, data):
    path = data(**few(data(), 1))
    message, out, config = new(path)
    assert message is None
    assert 'too few images to split (1): validation is the training set' in out
    cfg = load_config(config)
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
        assert Path(dataset.data_root, dataset.ann_file) == path
    assert not list(config.parent.glob('*.json'))


def test_split_leaves_annotations_on_both_sides(new, data):
    some = few(data(), 2)
    empty = [dict(id=i, file_name='images/0.jpg', width=9, height=9) for i in range(10, 28)]
    message, _, config = new(data(**some | dict(images=[*empty, *some['images']])))
    assert message is None
    for part in ('train', 'val'):
        assert len(read(config.with_name(f'all_{part}.json'))['annotations']) == 1


@pytest.mark.parametrize('is_split', [True, False])
def test_nothing_is_written_beside_the_data(new, data, is_split):
    path, val = data(), data('val.json')
    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob('*')}
    message, out, _ = new(path, *([] if is_split else ['--val', val]))
    assert message is None
    assert {file: file.stat().st_mtime_ns for file in path.parent.rglob('*')} == before


def test_run_that_fails_late_leaves_nothing_behind(new, data, tmp_path, monkeypatch):
    path, before = data(), sorted(tmp_path.rglob('*'))

    def flush(file):
        if file.name == 'metainfo_cow.py' and 'out' in file.parts:  # others are complete
            raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('kapao_mm.utils.atomic_file._flush', flush)
    message, out, _ = new(path)
    assert 'cannot be written: No space left' in message
    assert 'wrote' not in out
    assert sorted(tmp_path.rglob('*')) == before


def test_validation_keypoints_in_another_order_are_reported(new, data):
    path = data()
    content = read(path)
    content['categories'][1]['keypoints'] = ['shaft', 'wheel', 'axle']
    message, out, _ = new(path, '--val', data('val.json', **content))
    assert message is None
    assert '3 annotations whose category names the keypoints in another order' in out
    content['categories'][1]['keypoints'] = ['shaft', 'wheel', 'hub']
    message, _, _ = new(path, '--val', data('val.json', **content), '--force')
    assert 'val.json: annotations whose category names other keypoints' in message
    assert '(hub instead of axle): 1, 3, 5;' in message


def test_second_annotation_in_another_order_is_reordered(new, data):
    path = data()
    objects = cows(path)
    moved = [dict(a, keypoints=[x + 1 for x in a['keypoints']]) for a in objects]
    swapped = [dict(a, keypoints=a['keypoints'][3:] + a['keypoints'][:3]) for a in moved]
    category = dict(read(path)['categories'][0], keypoints=['eye_r', 'eye_l'])
    second = data('second.json', annotations=swapped, categories=[category])
    first = data(annotations=objects)
    _, out, config = new(first, '--val', first, '--second', second)
    assert 'put into the order of the metainfo' in out
    sigmas = read_metainfo(load_config(config).metainfo)['sigmas']
    assert sigmas == pytest.approx([round(2**0.5 / 40, 4)] * 2)


@pytest.mark.slow
def test_first_image_of_another_size_is_reported(new, data):
    path = data()
    Image.new('RGB', (80, 100)).save(path.parent / 'images/0.jpg')
    message, out, _ = new(path)
    assert message is None
    assert '0.jpg is 80 x 100 px, the annotations say 100 x 80 (exchanged), so its labels' in out
    Image.new('RGB', (100, 80)).save(path.parent / 'images/0.jpg')
    assert 'px, the annotations say' not in new(path, '--force')[1]


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


def test_data_can_be_elsewhere_and_have_no_area(new, data, tmp_path):
    path = data()
    no_area = [{k: v for k, v in a.items() if k != 'area'} for a in read(path)['annotations']]
    val = data('val.json', annotations=no_area)
    _, out, config = new(path, '--val', val)
    assert '6 of 6 validation objects have no area: evaluation uses 0.53 of the boxes' in out
    cfg = load_config(config, dict(data_root='/elsewhere'))
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.test_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.test_evaluator == dict(type='KAPAOMetric', use_area=False)


def test_sigmas_are_estimated_from_a_second_annotation(new, data):
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


def test_second_annotation_that_does_not_fit_is_an_error(new, data):
    path = data(annotations=cows(data()))
    message, _, config = new(path, '--val', path, '--second', path)
    assert f'{path}: no object has two different locations of eye_l, eye_r' in message
    assert config is None


def test_bad_anchors_are_reported_with_the_tool_that_finds_better_ones(new, data):
    _, out, config = new(data(size=1))
    assert 'best possible recall 0.000 of pose objects, 1.000 of keypoint objects' in out
    assert f'kapao anchors {config}' in out
    assert 'optimize_anchors' not in new(data(), '--force')[1]


@pytest.mark.parametrize(
    'changes, flags, message',
    [
        (dict(images=[], annotations=[]), [], 'it lists no images'),
        (dict(images=[dict(id=1)]), [], "images without 'file_name': 1"),
        (dict(annotations=None), [], "it has no list of objects 'annotations'"),
        (dict(categories=[]), [], 'it lists no categories'),
        (dict(images=[dict(id=1, file_name='a', width=1, height=1)] * 2), [], 'share their id'),
        (dict(categories=SAME_FILE), [], "'ox.cart', 'ox cart' would share"),
        (dict(), ['--images', '.'], 'is not in'),
        (dict(), ['--name', 'a/b'], "--name 'a/b'"),
        (dict(), ['--val', 'missing.json'], 'missing.json: No such file'),
    ],
)
def test_wrong_input_is_an_error_and_nothing_is_written(new, data, changes, flags, message):
    found, _, config = new(data(**changes), *flags)
    assert message in found
    assert config is None


@pytest.mark.parametrize('schedule', ['short', 'published'])
def test_fusion_distance_depends_on_the_object_size(new, data, schedule):
    message, out, config = new(data(size=20), '--schedule', schedule)
    assert message is None
    assert 'fusion_distance: 9 px, by the size of the objects' in out
    assert load_config(config).model.test_cfg.fusion_distance == 9  # 50 * 20 / 109
    assert load_config(config).model.test_cfg.pose_score_thr == 0.001


def test_small_objects_are_reported_with_a_sufficient_input_size(new, data):
    _, out, _ = new(data(size=8))  # of 100 px
    assert 'too small' not in out
    images = [dict(id=i, file_name='images/0.jpg', width=400, height=400) for i in range(1, 7)]
    _, out, _ = new(data(size=8, images=images), '--force')
    assert '5 objects too small to be learned in an input of 384 px' in out
    assert 'input_size=832 or more is enough for 98% of all objects' in out


BAD_VALUES = [
    *(('annotations', 'keypoints', v) for v in (3, [1, 2], list('abc') * 2, [1, NAN, 2] * 2)),
    *(('annotations', 'category_id', v) for v in ([1], {}, '1')),
    *(('annotations', 'image_id', v) for v in ([], None)),
    *(('annotations', 'id', v) for v in ({}, 2)),
    *(('annotations', 'bbox', v) for v in ([1, 2], 'box', [0, 0, -5, -5])),
    *(('annotations', 'area', v) for v in (-1, 'x')),
    ('annotations', 'iscrowd', 'x'),
    *(('categories', 'name', v) for v in (3, None, '{{cow}}', '\ud800')),
    *(('categories', 'keypoints', v) for v in ('eyes', [1, 2], ['a', ''], dict(a=1))),
    *(('categories', 'skeleton', v) for v in (3, [[1, 2, 3]], [['a', 'b']], [None])),
    ('categories', 'id', []),
    *(('images', 'file_name', v) for v in (3, 'a\0b')),
    *(('images', key, v) for key, v in (('id', 1.5), ('width', 2**40))),
]


@pytest.mark.parametrize(('kind', 'key', 'value'), BAD_VALUES)
def test_malformed_entry_is_an_error_and_nothing_is_written(new, data, kind, key, value):
    path = data()
    content = read(path)
    content[kind][0][key] = value
    message, _, config = new(data(**content), '--val', path)
    if message is None:  # only evaluation reads the value
        message, _, config = new(path, '--val', data('bad.json', **content), '--force')
    assert message.startswith('error: ') and path.parent.name in message
    assert config is None


def test_file_that_is_not_an_annotation_file_is_an_error(new, data):
    path = data()
    path.write_text('[]')
    assert new(path)[0].startswith(f'error: annotation file {path}')


def test_all_files_are_written_or_none(new, data, tmp_path):
    path = data()
    (tmp_path / 'out/metainfo_cow.py').mkdir(parents=True)  # in the way of a file
    message, out, config = new(path, '--force')
    assert 'metainfo_cow.py cannot be written' in message
    assert 'wrote' not in out
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['metainfo_cow.py']
