# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Any annotation file gives a result or one line, never another exception."""

import copy
import gzip
import json
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmpose.registry import DATASETS

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.checks import fatal_faults, without_faulty
from kapao_mm.datasets.annotations.instances import gather_instances
from kapao_mm.datasets.annotations.new_data import read_new_annotations
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.datasets.annotations.review import review
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric

FILES = 2000
NAN, INF = float('nan'), float('inf')
VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 2, 3, -1, 0.5, 1.0, 2.0, NAN, INF, 2**63, 10**400]),
    st.sampled_from(['', '0', '1', '007', 'a', 'é', '\\', 'C:\\x\\1.png', '/a/2.png', '..', '\0']),
    st.sampled_from([[], {}, [[]], [0, 0, 0, 0], [NAN] * 9, [None, None, 0] * 3, [1, 2] * 3]),
    st.sampled_from([[[0, 1]], [[1, 9]], [[-1, 0]], [1, 2, -1] * 3, [1, 2, None] * 3, ['a'] * 3]),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)
KEYS = ['id', 'image_id', 'iscrowd', 'area', 'skeleton', 'not_exhaustive_category_ids', 'keypoints']
CHANGES = st.tuples(
    st.integers(0, 500), st.sampled_from(['set', 'set', 'set', 'delete', 'double', 'add', 'all']),
    VALUES, st.sampled_from(KEYS),
)  # fmt: skip
ENCODINGS = st.sampled_from([*['utf-8'] * 6, 'utf-8-sig', 'utf-16', 'utf-32', 'latin-1'])
OTHER_USES = st.sampled_from([*[None] * 9, 'train', 'evaluate', 'describe'])
BYTES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each list or dict and key inside a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def apply(content: Any, number: int, action: str, value: Any, name: str) -> None:
    """Changes one place of a file, or the same key of all entries of a list."""
    found = list(places(content))
    if not found:
        return
    owner, key = found[number % len(found)]
    if action == 'delete':
        del owner[key]
    elif action == 'double' and isinstance(owner, list):
        owner.append(copy.deepcopy(owner[key]))
    elif action == 'add' and isinstance(owner, dict):
        owner[name] = value
    elif action == 'all' and isinstance(owner, dict):
        for other, other_key in found:
            if other_key == key and isinstance(other, dict):
                other[key] = copy.deepcopy(value)
    else:
        owner[key] = value


@pytest.mark.slow
def test_any_file_gives_a_result_or_one_line(tmp_path, coco_file, triples):
    for image in coco_file['images']:
        cv2.imwrite(str(tmp_path / image['file_name']), np.zeros((50, 40, 3), np.uint8))
    coco_file['categories'][0]['skeleton'] = [[1, 2], [3, 1]]
    path, metainfo = tmp_path / 'a.json', read_metainfo(triples)
    dataset = dict(
        type='KeypointDataset',
        metainfo=triples,
        ann_file=str(path),
        data_prefix=dict(img=str(tmp_path)),
        pipeline=[],
    )
    outcomes = []

    def check() -> None:
        content = read_annotations(path, say=lambda line: None, images=tmp_path)
        for test_mode in (False, True):
            faults = fatal_faults(content, metainfo, test_mode)
            if any(fault.kind == 'file' for fault in faults):
                continue
            rest = without_faulty(content, faults)
            if 'annotations' in rest:
                review(rest, metainfo, gather_instances(rest, metainfo))

    def train() -> None:
        loaded = DATASETS.build(dataset)
        for sample in map(loaded.get_data_info, range(len(loaded))):
            assert np.isfinite(sample['keypoints']).all() and np.isfinite(sample['bbox']).all()

    def evaluate() -> None:
        KAPAOMetric(ann_file=str(path)).dataset_meta = metainfo
        DATASETS.build(dataset | dict(test_mode=True))

    def describe() -> None:
        read_new_annotations(path)

    uses = {None: (), 'train': (train,), 'evaluate': (evaluate,), 'describe': (describe,)}

    @settings(
        max_examples=FILES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(CHANGES, max_size=4), ENCODINGS, BYTES, st.integers(0, 9), OTHER_USES)
    def attack(changes, encoding, flipped, pack, other):
        content = copy.deepcopy(coco_file)
        for change in changes:
            apply(content, *copy.deepcopy(change))
        text = json.dumps(content, ensure_ascii=encoding == 'latin-1')
        data = bytearray(text.encode(encoding, 'replace'))
        if pack == 0:
            data = bytearray(gzip.compress(data))
        if pack < 3:
            for place, value in flipped:
                data[place % len(data)] = value
        path.write_bytes(data)
        for use in (check, *uses[other]):
            try:
                use()
                outcomes.append(True)
            except InputError as error:
                assert '\n' not in str(error)
                str(error).encode()
                outcomes.append(False)

    attack()
    assert len(outcomes) >= FILES
    assert 0.1 < np.mean(outcomes) < 0.9
