# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import errno
import pickle
from pathlib import Path

import pytest

from kapao_mm.errors import InputError
from kapao_mm.evaluation import DumpPredictions, KAPAOMetric, write_results


@pytest.fixture
def full_disk(monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('os.fsync', fail)


def test_predictions_are_written(tmp_path):
    DumpPredictions(str(tmp_path / 'new/a.pkl')).compute_metrics([dict(a=1)])
    assert pickle.loads((tmp_path / 'new/a.pkl').read_bytes()) == [dict(a=1)]


@pytest.mark.parametrize('name', ['a.json', 'file/a.pkl'])
def test_unwritable_file_is_reported_before_the_test(tmp_path, name):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match=r'must end in .pkl|file cannot be written to'):
        DumpPredictions(str(tmp_path / name))
    with pytest.raises(InputError, match='file cannot be written to'):
        KAPAOMetric(outfile_prefix=str(tmp_path / 'file/a'))


@pytest.mark.parametrize('name', ['a.pkl', 'a.keypoints.json'])
def test_full_disk_is_reported_and_leaves_no_partial_file(tmp_path, full_disk, name):
    path: Path = tmp_path / name
    with pytest.raises(InputError, match=f'{name} cannot be written: No space left'):
        if path.suffix == '.pkl':
            dump = DumpPredictions.__new__(DumpPredictions)
            dump.out_file_path = str(path)
            dump.compute_metrics([dict(a=1)])
        else:
            write_results([dict(a=1)], path)
    assert not list(tmp_path.iterdir())
