# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import errno

import pytest

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_folder, atomic_path, check_writable


def test_complete_file_is_moved_to_its_path(tmp_path):
    with atomic_path(tmp_path / 'a.json') as temporary:
        temporary.write_text('new')
        assert not (tmp_path / 'a.json').exists()
    assert (tmp_path / 'a.json').read_text() == 'new'
    assert [file.name for file in tmp_path.iterdir()] == ['a.json']


def test_all_files_of_the_block_are_moved(tmp_path):
    with atomic_path(tmp_path / 'model.xml') as temporary:
        temporary.write_text('graph')
        temporary.with_suffix('.bin').write_bytes(b'weights')
    assert sorted(file.name for file in tmp_path.iterdir()) == ['model.bin', 'model.xml']


@pytest.mark.parametrize('error', [KeyboardInterrupt(), ValueError('wrong')])
def test_failure_keeps_the_old_content_and_no_other_file(tmp_path, error):
    (tmp_path / 'a').write_text('old')
    with pytest.raises(type(error)), atomic_path(tmp_path / 'a') as temporary:
        temporary.write_text('half')
        raise error
    assert (tmp_path / 'a').read_text() == 'old'
    assert [file.name for file in tmp_path.iterdir()] == ['a']


def test_full_disk_is_reported_with_the_path(tmp_path):
    error = pytest.raises(InputError, match='a.png cannot be written: No space left')
    with error, atomic_path(tmp_path / 'a.png') as temporary:
        temporary.write_text('half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_reported_with_the_path(tmp_path):
    error = pytest.raises(InputError, match='missing/a.json cannot be written: No such file')
    with error, atomic_path(tmp_path / 'missing/a.json'):
        pass


def test_folder_of_a_writable_path_is_created_and_left_empty(tmp_path):
    check_writable(tmp_path / 'new/deep/a.json', ['.json', '.yaml'])
    assert list((tmp_path / 'new/deep').iterdir()) == []
    (tmp_path / 'old.json').write_text('old')
    check_writable(tmp_path / 'old.json')
    assert (tmp_path / 'old.json').read_text() == 'old'


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('a.txt', 'a.txt must end in .json or .yaml'),
        ('a', 'a must end in .json'),
        ('folder.json', 'folder.json is a folder'),
        ('file/a.json', 'file cannot be written to: '),
        ('file/deep/a.json', 'file/deep cannot be written to: '),
        ('loop/a.json', 'loop cannot be written to: '),
        ('/proc/a.json', 'folder /proc cannot be written to: '),
        ('n' * 300 + '.json', 'n.json cannot be written: File name too long'),
    ],
)
def test_unwritable_path_is_reported(tmp_path, name, message):
    (tmp_path / 'folder.json').mkdir()
    (tmp_path / 'file').write_text('')
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    with pytest.raises(InputError, match=message):
        check_writable(tmp_path / name, ['.json', '.yaml'])


def test_folder_appears_only_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / 'new') as temporary:
        (temporary / 'a.txt').touch()
        assert not (tmp_path / 'new').exists()
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.txt']
    with pytest.raises(KeyError), atomic_folder(tmp_path / 'failed') as temporary:
        (temporary / 'a.txt').touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ['new']


def test_folder_with_files_is_not_replaced(tmp_path):
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(InputError, match='give the name of a new folder'), atomic_folder(tmp_path):
        pass
    assert (tmp_path / 'mine.txt').exists()
