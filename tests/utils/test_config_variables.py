# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
from mmengine.config import Config

from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config, set_everywhere
from kapao_mm.utils.config_variables import check_variables

BASE = """
data_root = 'data/x'
val_ann = 'val.json'
train_img = ''
input_size = 1280
max_epochs = 60
batch_size = 8
metainfo = dict(from_file='coco.py')
image_cache = None
num_keypoints = 17
widths = [64, 128]
iters = 30
val_pipeline = [dict(type='Letterbox', input_size=input_size, square=False)]
train_pipeline = [
    dict(type='Mosaic', img_scale=(input_size, input_size),
         pre_transform=[dict(type='Resize', input_size=input_size)]),
]
place = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(batch_size=batch_size, num_workers=8, dataset=dict(
    type='RepeatDataset', times=8, dataset=dict(
        ann_file='train.json', data_prefix=dict(img=train_img), image_cache=image_cache,
        pipeline=train_pipeline, **place)))
val_dataloader = dict(batch_size=1, dataset=dict(
    ann_file=val_ann, data_prefix=dict(img=''), pipeline=val_pipeline, **place))
test_dataloader = val_dataloader
test_evaluator = dict(ann_file=data_root + '/' + val_ann)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', end=60, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=max_epochs),
]
model = dict(neck=dict(in_channels=widths), head=dict(num_keypoints=num_keypoints, iters=iters))
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / 'base.py'
    path.write_text(BASE)
    return path


@pytest.fixture
def derive(base):
    """Makes a function that writes a config file with some lines below its ``_base_``."""

    def write(*lines, name='derived.py', of='base.py'):
        path = base.parent / name
        path.write_text('\n'.join([f'_base_ = {of!r}', *lines]))
        return path

    return write


def values(cfg, *keys):
    found = []
    for key in keys:
        value = cfg
        for part in key.split('.'):
            value = value[int(part) if part.isdecimal() else part]
        found.append(value)
    return found


VALUES = [
    ('data_root', '/y', 'train_dataloader.dataset.dataset.data_root', '/y'),
    ('data_root', '/y', 'val_dataloader.dataset.data_root', '/y'),
    ('data_root', '/y', 'test_dataloader.dataset.data_root', '/y'),
    ('data_root', '/y', 'test_evaluator.ann_file', '/y/val.json'),
    ('val_ann', 'b.json', 'val_dataloader.dataset.ann_file', 'b.json'),
    ('val_ann', 'b.json', 'test_evaluator.ann_file', 'data/x/b.json'),
    ('val_ann', 'b.json', 'train_dataloader.dataset.dataset.ann_file', 'train.json'),
    ('train_img', 'a', 'train_dataloader.dataset.dataset.data_prefix.img', 'a'),
    ('train_img', 'a', 'val_dataloader.dataset.data_prefix.img', ''),
    ('input_size', 64, 'train_dataloader.dataset.dataset.pipeline.0.img_scale', (64, 64)),
    (
        *('input_size', 64),
        *('train_dataloader.dataset.dataset.pipeline.0.pre_transform.0.input_size', 64),
    ),
    ('input_size', 64, 'test_dataloader.dataset.pipeline.0.input_size', 64),
    ('input_size', 64, 'val_pipeline.0.input_size', 64),
    ('max_epochs', 5, 'train_cfg.max_epochs', 5),
    ('max_epochs', 5, 'param_scheduler.1.T_max', 5),
    ('max_epochs', 5, 'param_scheduler.0.end', 60),
    ('batch_size', 2, 'train_dataloader.batch_size', 2),
    ('batch_size', 2, 'train_dataloader.num_workers', 8),
    ('batch_size', 2, 'val_dataloader.batch_size', 1),
    ('metainfo', {'from_file': 'b.py'}, 'val_dataloader.dataset.metainfo', {'from_file': 'b.py'}),
    ('image_cache', 'ram', 'train_dataloader.dataset.dataset.image_cache', 'ram'),
    ('square_input', True, 'val_dataloader.dataset.pipeline.0.square', True),
    ('num_keypoints', 5, 'model.head.num_keypoints', 5),
    ('widths', [1, 2], 'model.neck.in_channels', [1, 2]),
    ('train_pipeline', [], 'train_dataloader.dataset.dataset.pipeline', []),
]


@pytest.mark.parametrize(('name', 'new', 'key', 'expected'), VALUES)
def test_derived_values_follow_their_variable(base, derive, name, new, key, expected):
    by_option = load_config(base, {name: new})
    helper = 'from kapao_mm.utils.config import set_everywhere'
    line = f'set_everywhere(_base_, {name}={new!r})'
    by_line = Config.fromfile(derive(helper, line))
    for cfg in (by_option, by_line):
        assert values(cfg, name, key) == [new, expected]
    assert load_config(base).to_dict() == Config.fromfile(base).to_dict()


def test_key_inside_a_variable_changes_the_derived_values(base):
    cfg = load_config(base, {'metainfo.from_file': 'b.py'})
    assert cfg.train_dataloader.dataset.dataset.metainfo == dict(from_file='b.py')


def test_option_for_a_derived_value_overrides_that_for_the_variable(base):
    cfg = load_config(base, {'data_root': '/y', 'val_dataloader.dataset.data_root': '/z'})
    keys = ('val_dataloader.dataset.data_root', 'test_dataloader.dataset.data_root')
    assert values(cfg, *keys) == ['/z', '/y']


def test_message_lists_changed_and_kept_values(base, log):
    load_config(base, {'val_dataloader.dataset.data_root': '/other'})
    cfg = Config.fromfile(base)
    cfg.val_dataloader.dataset.data_root = '/other'
    (line,) = set_everywhere(cfg, data_root='/y')
    assert line == (
        "data_root='/y': train_dataloader, test_dataloader, test_evaluator; "
        "val_dataloader.dataset.data_root stays '/other'"
    )
    load_config(base, dict(input_size=64))
    assert 'input_size=64: train_dataloader (2 places), val_dataloader, test_dataloader' in log.text


def test_missing_variable_is_set_if_all_candidates_are_equal(derive):
    cfg = Config.fromfile(derive())
    cfg.pop('data_root')
    cfg.test_evaluator = dict()
    set_everywhere(cfg, data_root='/y')
    assert cfg.test_dataloader.dataset.data_root == '/y'
    cfg.pop('batch_size')
    with pytest.raises(InputError, match=r'batch_size=2 .*train_dataloader.batch_size=8, val_data'):
        set_everywhere(cfg, batch_size=2)


def test_unknown_number_is_refused_with_the_keys_that_work(base):
    with pytest.raises(InputError, match=r'iters=5 would change nothing.*model.head.iters=30'):
        load_config(base, dict(iters=5))


ALONE = [
    ('data_root', '/y', 'train_dataloader.dataset.dataset.data_root'),
    ('input_size', 640, 'train_dataloader.dataset.dataset.pipeline.0.img_scale'),
    ('max_epochs', 100, 'train_cfg.max_epochs'),
    ('metainfo', dict(from_file='b.py'), 'train_dataloader.dataset.dataset.metainfo'),
    ('batch_size', 2, 'train_dataloader.batch_size'),
    ('val_ann', 'b.json', 'val_dataloader.dataset.ann_file'),
    ('train_pipeline', [], 'train_dataloader.dataset.dataset.pipeline'),
]


@pytest.mark.parametrize(('name', 'value', 'key'), ALONE)
def test_variable_set_alone_in_a_derived_config_is_refused(derive, name, value, key):
    message = rf'{name}=.* at the top of .*derived.py changes nothing.*{key}.*set_everywhere\('
    path = derive(f'{name} = {value!r}')
    with pytest.raises(InputError, match=message):
        load_config(path)
    with pytest.raises(InputError, match=message):
        check_variables(Config.fromfile(path))


@pytest.mark.parametrize(('name', 'value', 'key'), ALONE)
def test_variable_set_alone_by_mmengine_is_refused(base, name, value, key):
    cfg = Config.fromfile(base)
    cfg.merge_from_dict({name: value})  # what --cfg-options of MMPose's tools do
    with pytest.raises(InputError, match=f'{name}=.*{key}'):
        check_variables(cfg)


def test_variable_set_alone_in_a_base_config_is_refused(derive):
    derive("data_root = '/y'", name='middle.py')
    with pytest.raises(InputError, match="data_root='/y' at the top"):
        load_config(derive('work_dir = 1', of='middle.py'))


ROOTS = [
    f'{part}_dataloader = dict(dataset={data})'
    for part, data in (
        ('train', "dict(dataset=dict(data_root='/y'))"),
        ('val', "dict(data_root='/y')"),
        ('test', "dict(data_root='/y')"),
    )
]


@pytest.mark.parametrize('top', [[], ["data_root = '/y'"]])
def test_values_inside_a_config_override_a_variable_as_in_mmengine(derive, top):
    evaluator = "test_evaluator = dict(ann_file='/y/val.json')"
    cfg = load_config(derive(*top, *ROOTS, evaluator, 'train_cfg = dict(max_epochs=3)'))
    assert cfg.train_dataloader.dataset.dataset.data_root == '/y'
    assert cfg.train_cfg.max_epochs == 3


def test_options_for_values_inside_override_a_variable_as_in_mmengine(base):
    cfg = load_config(base, {'train_cfg.max_epochs': 3, 'param_scheduler.1.T_max': 3})
    assert values(cfg, 'max_epochs', 'train_cfg.max_epochs') == [60, 3]
    plain = Config.fromfile(base)
    plain.merge_from_dict({'train_cfg.max_epochs': 3, 'param_scheduler.1.T_max': 3})
    check_variables(plain)


def test_dumped_config_with_overridden_variables_can_be_loaded(base, tmp_path):
    options = {'train_dataloader.batch_size': 2, 'train_cfg.max_epochs': 3}
    options['param_scheduler.1.T_max'] = 3
    for suffix in ('.py', '.json', '.yaml'):
        load_config(base, options).dump(tmp_path / f'dump{suffix}')
        cfg = load_config(tmp_path / f'dump{suffix}')
        assert (cfg.batch_size, cfg.train_dataloader.batch_size) == (8, 2)


def test_values_may_be_overridden_after_an_option_was_set(base):
    cfg = load_config(base, dict(input_size=64))
    for name in ('val_dataloader', 'test_dataloader'):
        cfg[name].dataset.pipeline = [dict(type='Other')]  # what --tta does to a pipeline
    check_variables(cfg)


def test_gains_that_older_configs_computed_follow_the_input_size(derive):
    loss = 'model = dict(head=dict(loss=dict(obj_gain=0.7 * (640 / 1280) ** 2)))'
    cfg = load_config(derive(loss), dict(input_size=320))
    assert cfg.model.head.loss.obj_gain == pytest.approx(0.7 * 4)


@pytest.mark.parametrize('config', ['kapao_n_toy', 'kapao_n_people_wheels'])
@pytest.mark.parametrize(
    ('name', 'value', 'key'),
    [
        ('data_root', 'elsewhere', 'train_dataloader.dataset.data_root'),
        ('train_ann', 'a.json', 'train_dataloader.dataset.ann_file'),
        ('input_size', 320, 'train_dataloader.dataset.pipeline.1.input_size'),
        ('max_epochs', 3, 'train_cfg.max_epochs'),
        ('batch_size', 3, 'train_dataloader.batch_size'),
        ('metainfo', dict(from_file='b.py'), 'train_dataloader.dataset.metainfo'),
        ('num_keypoints', 5, 'model.head.num_keypoints'),
    ],
)
def test_variables_of_the_configs_work_everywhere_or_not_at_all(
    repo, tmp_path, config, name, value, key
):
    config, path = repo / f'configs/kapao/{config}.py', tmp_path / 'derived.py'
    helper = 'from kapao_mm.utils.config import set_everywhere'
    path.write_text(f'_base_ = {str(config)!r}\n{helper}\nset_everywhere(_base_, {name}={value!r})')
    for cfg in (load_config(path), load_config(config, {name: value})):
        check_variables(cfg)
        (found,) = values(cfg, key)
        assert found == value or dict(found, **value) == found  # MMEngine merges dicts
    path.write_text(f'_base_ = {str(config)!r}\n{name} = {value!r}')
    if name in Config.fromfile(config):
        with pytest.raises(InputError, match=f'{name}=.* changes nothing'):
            load_config(path)
