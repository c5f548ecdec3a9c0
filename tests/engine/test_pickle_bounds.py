# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import io
import pickle

import pytest

from kapao_mm.engine.pickle_bounds import require_bounded_tuples


def nest_pairs(depth):
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def check(value, protocol=2):
    content = pickle.dumps(value, protocol)
    require_bounded_tuples(io.BytesIO(content), len(content))


@pytest.mark.parametrize('protocol', [1, 2, 4])
@pytest.mark.parametrize(
    'value',
    [
        3,
        tuple(range(10_000)),
        {(1, 2): ((3, 4), [5, (6,)])},
        [(1, 'a')] * 10_000,
        [nest_pairs(3)] * 3,
        dict(a={1, 2}, b=b'c', d=[[]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ordinary_objects_are_accepted(value, protocol):
    check(value, protocol)


@pytest.mark.parametrize('protocol', [1, 2, 4])
@pytest.mark.parametrize('depth', [20, 100])
def test_deeply_nested_pairs_are_refused(depth, protocol):
    with pytest.raises(pickle.UnpicklingError, match='more objects than the file has bytes'):
        check([nest_pairs(depth)], protocol)


def test_text_is_not_a_pickle():
    with pytest.raises(ValueError):
        require_bounded_tuples(io.BytesIO(b'no pickle'), 9)
