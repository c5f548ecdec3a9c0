# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
from torch import nn

from kapao_mm.engine import CheckKeypointsHook
from kapao_mm.errors import InputError


def loader(count):
    metainfo = dict(num_keypoints=count, dataset_name='people')
    if isinstance(count, list):
        metainfo['categories'] = [dict(keypoint_ids=[0] * number) for number in count]
    return SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo))


def runner(head, train=17, val=17, test=17):
    model = nn.Module()
    model.head = SimpleNamespace(keypoint_counts=tuple(head) if isinstance(head, list) else (head,))
    return SimpleNamespace(
        model=model,
        val_loop=object() if val else None,
        train_dataloader=loader(train),
        val_dataloader=loader(val),
        test_dataloader=loader(test),
    )


def test_equal_counts_pass():
    hook = CheckKeypointsHook()
    hook.before_train(runner(17))
    hook.before_train(runner(17, val=None))
    hook.before_val(runner(17))
    hook.before_test(runner(17))


@pytest.mark.parametrize(
    ('point', 'counts'),
    [
        ('before_train', dict(train=14)),
        ('before_train', dict(val=14)),
        ('before_val', dict(val=14)),
        ('before_test', dict(test=14)),
    ],
)
def test_different_counts_are_named_with_what_to_do(point, counts):
    with pytest.raises(InputError, match=r'is 17, .*people\) has 14 .*num_keypoints=14'):
        getattr(CheckKeypointsHook(), point)(runner(17, **counts))


def test_the_counts_of_each_category_must_be_equal():
    hook = CheckKeypointsHook()
    hook.before_test(runner([17, 5], test=[17, 5]))
    hook.before_test(runner(17, test=[17]))
    with pytest.raises(InputError, match=r'is \[17, 5\], .* has \[5, 17\] .*=\[5, 17\]'):
        hook.before_test(runner([17, 5], test=[5, 17]))
    with pytest.raises(InputError, match=r'is 22, .* has \[17, 5\]'):
        hook.before_test(runner(22, test=[17, 5]))
