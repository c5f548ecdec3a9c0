# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import pytest

from kapao_mm import __version__
from kapao_mm.deploy.metadata import ModelMetadata
from kapao_mm.errors import InputError
from kapao_mm.structures import InferenceSettings, Metainfo

METADATA = ModelMetadata(
    config='kapao_n_masts',
    use='demo',
    settings=InferenceSettings(0.5, 0.45, 0.5, 0.45, 0.2, 50, 30000, 300),
    input_size=640,
    square_input=False,
    metainfo=Metainfo(
        categories=[
            dict(name='mast', keypoint_ids=[0, 1]),
            dict(name='buoy', keypoint_ids=[2]),
        ],
        keypoint_names=['mast/top', 'mast/foot', 'buoy/middle'],
        flip_pairs=[],
        sigmas=[0.1, 0.2, 0.3],
        skeleton_links=[[0, 1]],
        keypoint_colors=[[255, 0, 0]] * 3,
        link_colors=[[0, 255, 0]],
    ),
)


def test_metadata_survives_writing_and_reading():
    text = METADATA.to_json()
    assert '\n' not in text
    assert ModelMetadata.from_json(text, 'a.onnx') == METADATA
    assert json.loads(text)['version'] == __version__


def test_keypoints_are_counted_by_category():
    assert METADATA.metainfo.keypoint_counts == [2, 1]


def with_changes(**changes):
    return json.dumps(json.loads(METADATA.to_json()) | changes)


@pytest.mark.parametrize(
    'text',
    [None, '', '{', '[]', '7', '{}', with_changes(mast=1), with_changes(settings={})],
    ids=lambda text: str(text)[:5],
)
def test_missing_or_foreign_metadata_is_refused(text):
    with pytest.raises(InputError, match='a.onnx has no metadata .* kapao export'):
        ModelMetadata.from_json(text, 'a.onnx')
