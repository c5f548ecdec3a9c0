# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.logging import MMLogger
from torch import nn

from kapao_mm.engine import CheckKeypointsHook, ResumableEarlyStoppingHook, SafeCheckpointHook
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric
from kapao_mm.utils.config import load_config


def loader(count):
    metainfo = dict(num_keypoints=count, dataset_name='people')
    if isinstance(count, list):
        metainfo['categories'] = [dict(keypoint_ids=[0] * number) for number in count]
    return SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo))


def runner(head, train=17, val=17, test=17, hooks=(), metrics=()):
    model = nn.Module()
    model.head = SimpleNamespace(keypoint_counts=tuple(head) if isinstance(head, list) else (head,))
    return SimpleNamespace(
        model=model,
        val_loop=object() if val else None,
        train_dataloader=loader(train),
        val_dataloader=loader(val),
        test_dataloader=loader(test),
        val_evaluator=SimpleNamespace(metrics=list(metrics)),
        hooks=list(hooks),
    )


@pytest.fixture
def metric(tmp_path):
    """Makes a function that builds the metric of a dataset with the given categories."""

    def make(*names, **options):
        path = tmp_path / 'truth.json'
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
        images = [dict(id=1, file_name='a.jpg', width=8, height=8, crowdIndex=0)]
        path.write_text(json.dumps(dict(images=images, annotations=[], categories=categories)))
        found = KAPAOMetric(str(path), **options)
        info = [dict(name=name, keypoint_ids=[i]) for i, name in enumerate(names)]
        found.dataset_meta = dict(dataset_name='x', num_keypoints=len(info), categories=info)
        return found

    return make


def test_equal_keypoint_counts_are_accepted():
    hook = CheckKeypointsHook()
    hook.before_train(runner(17))
    hook.before_train(runner(17, val=None))
    hook.before_val(runner(17))
    hook.before_test(runner(17))


@pytest.mark.parametrize(
    ('method', 'counts'),
    [
        ('before_train', dict(train=14)),
        ('before_train', dict(val=14)),
        ('before_val', dict(val=14)),
        ('before_test', dict(test=14)),
    ],
)
def test_different_keypoint_counts_are_reported_with_the_remedy(method, counts):
    with pytest.raises(InputError, match=r'is 17, .*people\) has 14 .*num_keypoints=14'):
        getattr(CheckKeypointsHook(), method)(runner(17, **counts))


def test_keypoint_counts_are_compared_by_category():
    hook = CheckKeypointsHook()
    hook.before_test(runner([17, 5], test=[17, 5]))
    hook.before_test(runner(17, test=[17]))
    with pytest.raises(InputError, match=r'is \[17, 5\], .* has \[5, 17\] .*=\[5, 17\]'):
        hook.before_test(runner([17, 5], test=[5, 17]))
    with pytest.raises(InputError, match=r'is 22, .* has \[17, 5\]'):
        hook.before_test(runner(22, test=[17, 5]))


WATCHERS = dict(
    save_best=lambda name: SafeCheckpointHook(save_best=name, rule='greater'),
    monitor=lambda name: ResumableEarlyStoppingHook(monitor=name, rule='greater'),
)


@pytest.mark.parametrize('key', WATCHERS)
@pytest.mark.parametrize('name', ['AP', 'coco/ap', 'coco/AP.5', 'wheel/AP', 'loss'])
def test_unknown_metric_is_refused(metric, key, name):
    run = runner(17, hooks=[WATCHERS[key](name)], metrics=[metric('person')])
    with pytest.raises(InputError, match=f"{key}='{name}' .* it has coco/AP, coco/AP .5, "):
        CheckKeypointsHook().before_train(run)


@pytest.mark.parametrize('key', WATCHERS)
@pytest.mark.parametrize('name', ['coco/AP', 'coco/box AP .5', 'coco/wheel/AP'])
def test_known_metric_is_accepted(metric, key, name):
    metrics = [metric('person', 'wheel'), DumpResults('a.pkl')]
    CheckKeypointsHook().before_train(runner(17, hooks=[WATCHERS[key](name)], metrics=metrics))


def test_metric_names_are_those_of_the_evaluation(metric):
    for options in (dict(), dict(box_ap=False), dict(iou_type='keypoints_crowd', prefix='crowd')):
        found = metric('person', 'wheel', **options)
        found.results = []
        found.dataset_meta['sigmas'] = [0.1, 0.1]
        assert found.metric_names == list(found.evaluate(0))


def test_names_of_other_metrics_are_not_checked():
    run = runner(17, hooks=[WATCHERS['save_best']('PCK')], metrics=[object()])
    CheckKeypointsHook().before_train(run)


def test_config_variable_without_effect_is_refused(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text("data_root = 'a'\ntrain_dataloader = dict(dataset=dict(data_root=data_root))\n")
    cfg = Config.fromfile(path)
    CheckKeypointsHook().before_run(SimpleNamespace(cfg=cfg))
    cfg.data_root = 'b'
    with pytest.raises(InputError, match="data_root='b' at the top"):
        CheckKeypointsHook().before_run(SimpleNamespace(cfg=cfg))


@pytest.mark.parametrize('wrapped', [False, True])
def test_objects_too_small_for_the_input_are_a_warning_with_the_size_that_would_do(
    repo, log, wrapped
):
    model = load_config(repo / 'configs/_base_/models/kapao_n.py').model
    run = runner(17)
    run.logger = MMLogger.get_current_instance()
    run.cfg = Config(dict(model=model, input_size=640))
    dataset = run.train_dataloader.dataset
    part = SimpleNamespace(relative_sides=np.full((3, 2), 0.02))  # 12.8 px
    if wrapped:
        dataset.datasets = [SimpleNamespace(dataset=part), SimpleNamespace(metainfo={})]
    else:
        dataset.relative_sides = part.relative_sides
    CheckKeypointsHook().before_train(run)
    warning = '3 of 3 training objects are too small to be learned in an input of 640 px'
    assert f'{warning}: input_size=832 is enough' in log.text
    log.clear()
    run.cfg.input_size = 832
    CheckKeypointsHook().before_train(run)
    assert 'too small' not in log.text
