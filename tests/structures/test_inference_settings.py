# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from dataclasses import asdict, fields

import pytest

from kapao_mm.errors import InputError
from kapao_mm.structures import USES, InferenceSettings
from kapao_mm.utils.config import load_config

NAMES = [field.name for field in fields(InferenceSettings)]


def test_settings_of_a_use_are_those_of_evaluation_with_its_changes():
    base = dict.fromkeys(NAMES, 1)
    test_cfg = base | dict(validation=dict(pose_score_thr=0.01), demo=dict(max_objects=9))
    found = {use: asdict(InferenceSettings.from_test_cfg(test_cfg, use)) for use in USES}
    assert found == dict(
        evaluation=base,
        validation=base | dict(pose_score_thr=0.01),
        demo=base | dict(max_objects=9),
        tta=base,
    )


@pytest.mark.parametrize('name', NAMES)
def test_a_missing_setting_is_named(name):
    test_cfg = {key: 0.5 for key in NAMES if key != name}
    with pytest.raises(InputError, match=f'model.test_cfg lacks {name}$'):
        InferenceSettings.from_test_cfg(test_cfg | dict(demo={name: 0.5}), 'demo')


@pytest.mark.parametrize('wrong', ['pose_score', 'tta.pose_score', 'demo.pose_score', 'evaluation'])
def test_an_unknown_setting_is_named(wrong):
    test_cfg = dict.fromkeys(NAMES, 0.5)
    use, _, name = wrong.rpartition('.')
    test_cfg |= {use: {name: 0.5}} if use else {name: 0.5}
    with pytest.raises(InputError, match=rf'model\.test_cfg\.{wrong} is not a setting'):
        InferenceSettings.from_test_cfg(test_cfg, 'evaluation')


def test_an_option_of_the_command_line_reaches_every_use_that_does_not_state_it(repo):
    options = {'model.test_cfg.fusion_distance': 0, 'model.test_cfg.pose_score_thr': 0.1}
    test_cfg = load_config(repo / 'configs/kapao/kapao_n_coco.py', options).model.test_cfg
    found = {use: InferenceSettings.from_test_cfg(test_cfg, use) for use in USES}
    assert {use: s.fusion_distance for use, s in found.items()} == dict.fromkeys(USES, 0)
    assert {use: s.pose_score_thr for use, s in found.items()} == dict(
        evaluation=0.1, validation=0.01, tta=0.1, demo=0.5
    )


@pytest.mark.parametrize(
    ('changes', 'shared'),
    [
        (dict(), False),
        (dict(keypoint_iou_thr=0.65), True),
        (dict(keypoint_iou_thr=0.65, pose_score_thr=0.3), False),
    ],
)
def test_one_suppression_serves_equal_iou_thresholds(inference_settings, changes, shared):
    assert inference_settings(**changes).shares_one_nms == shared


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *((name, value) for name in NAMES[:5] for value in (-0.1, 1.1, float('nan'), '0.5', True)),
        *(('fusion_distance', value) for value in (-1, float('nan'), None)),
        *((name, value) for name in NAMES[6:] for value in (0, 1.5, float('inf'))),
    ],
)
def test_a_value_that_makes_no_sense_is_named(name, value):
    good = dict.fromkeys(NAMES, 1)
    with pytest.raises(InputError, match=f'^{name} must be a (whole )?number.*, got '):
        InferenceSettings(**good | {name: value})
    with pytest.raises(InputError, match=f'^{name} must be'):
        InferenceSettings(**good).changed(**{name: value})
