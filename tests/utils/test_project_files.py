# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest

from kapao_mm import config_path
from kapao_mm.errors import InputError
from kapao_mm.utils.project_files import config_names, find_config


def test_every_model_config_has_a_name(repo):
    assert config_names() == sorted(path.stem for path in (repo / 'configs/kapao').glob('*.py'))


@pytest.mark.parametrize('name', ['kapao_s_coco', 'kapao_s_coco.py'])
def test_name_is_found_from_any_folder(repo, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == repo / 'configs/kapao/kapao_s_coco.py'
    assert config_path(name) == str(repo / 'configs/kapao/kapao_s_coco.py')


def test_file_takes_precedence_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'kapao_s_coco.py').write_text('')
    assert find_config('kapao_s_coco.py').resolve() == tmp_path / 'kapao_s_coco.py'


def test_similar_name_is_suggested():
    with pytest.raises(InputError, match='did you mean .*kapao_s_coco'):
        find_config('kapao_s_cocoo')


def test_missing_path_is_not_treated_as_a_name():
    with pytest.raises(InputError, match='configs/kapao_s_coco.py does not exist'):
        find_config('configs/kapao_s_coco.py')
