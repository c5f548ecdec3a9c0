# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import mmengine
import pytest

from kapao_mm.datasets import read_metainfo
from kapao_mm.errors import InputError
from kapao_mm.utils.config import read_config
from kapao_mm.utils.plain_yaml import read_yaml_as_data

ATTACKS = [
    '!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]',
    '!!python/object/apply:os.system ["touch {mark}"]',
    '!!python/object/apply:subprocess.run [[touch, {mark}]]',
    '!!python/object/apply:builtins.open [{mark}, w]',
    "!!python/object/apply:builtins.exec [\"open('{mark}', 'w')\"]",
    '!!python/object/new:os.system ["touch {mark}"]',
    '!!python/object/new:type {{args: [x, !!python/tuple [], {{}}]}}',
    '!!python/object:kapao_mm.errors.InputError {{}}',
    '!!python/name:os.system',
    '!!python/module:os',
    '!!python/module:antigravity',
    '!unknown {{a: 1}}',
]


@pytest.mark.parametrize('suffix', ['.yaml', '.yml'])
@pytest.mark.parametrize('attack', ATTACKS)
def test_tags_in_yaml_are_not_run(tmp_path, attack, suffix):
    path, mark = tmp_path / f'evil{suffix}', tmp_path / 'mark'
    path.write_text(f'a: {attack.format(mark=mark)}\ndataset_info: 1\n')
    for read in (read_config, lambda path: read_metainfo(dict(from_file=str(path)))):
        with pytest.raises(InputError, match=r'evil\.ya?ml.*(only data|tag)'):
            read(path)
    assert not mark.exists()


def test_tags_in_a_yaml_base_are_not_run(tmp_path):
    (tmp_path / 'evil.yaml').write_text(f'a: {ATTACKS[2].format(mark=tmp_path / "mark")}\n')
    (tmp_path / 'a.yaml').write_text('_base_: evil.yaml\n')
    with pytest.raises(InputError, match='only data'):
        read_config(tmp_path / 'a.yaml')
    assert not (tmp_path / 'mark').exists()


DOUBLED = [f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 40)]


@pytest.mark.parametrize('text', ['\n'.join(['a0: &a0 [1, 2]', *DOUBLED]), 'a: &a [*a]'])
def test_expansion_of_aliases_is_limited(tmp_path, text):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(InputError, match=r'its aliases \(\*name\) expand to more than'):
        read_config(tmp_path / 'a.yaml')


def test_yaml_written_by_mmengine_is_read(tmp_path):
    read_yaml_as_data()
    content = dict(passes=[(0.8, False), (1.0, True)], nothing=None, name='ä')
    mmengine.dump(content, tmp_path / 'a.yaml')
    assert read_config(tmp_path / 'a.yaml').to_dict() == content
