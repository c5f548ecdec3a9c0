# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from pathlib import Path

from kapao_mm.datasets.annotations.new_data import locate


def test_relative_paths_stay_relative():
    paths = dict(train_ann='data/a/train.json', train_img='data/a', val_ann='data/a/ann/val.json')
    paths = {key: Path(path) for key, path in paths.items()}
    assert locate(paths) == dict(
        data_root='data/a', train_ann='train.json', train_img='', val_ann='ann/val.json'
    )
    assert locate({'val_ann': Path('val.json')})['data_root'] == '.'
    absolute = locate(paths | dict(val_img=Path('/data')))
    assert absolute['data_root'] == '/'
    assert absolute['val_img'] == 'data'
