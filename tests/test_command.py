# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys

import pytest
from mmengine.config import Config

from kapao_mm import __version__, command


@pytest.fixture
def kapao(monkeypatch, capsys):
    """Makes a function that runs the command and returns its exit code and what it printed."""

    def run(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, 'argv', ['kapao', *arguments])
        monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])  # is replaced
        code = None
        try:
            command.main()
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().out

    return run


def test_every_tool_is_a_script(repo):
    for script, _ in command.TOOLS.values():
        assert (repo / 'tools' / script).is_file(), script


def test_a_tool_gets_its_arguments_and_the_name_of_the_command(kapao):
    code, printed = kapao('check-environment', '--help')
    assert code == 0
    assert printed.startswith('usage: kapao check-environment')


def test_names_of_configs_are_listed(kapao):
    assert 'kapao_s_coco' in kapao('configs')[1].splitlines()


def test_a_printed_config_inherits_from_anywhere(kapao, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(kapao('config', 'kapao_n_coco')[1] + 'train_dataloader = dict(batch_size=3)\n')
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.batch_size == 3
    assert cfg.model.type == 'KAPAO'


@pytest.mark.parametrize('arguments', [(), ('--help',)])
def test_the_sub_commands_are_listed(kapao, arguments):
    printed = kapao(*arguments)[1]
    assert all(name in printed for name in [*command.TOOLS, 'configs', 'config'])


def test_the_version_is_printed(kapao):
    assert kapao('--version')[1].strip() == __version__


@pytest.mark.parametrize('arguments', [('trian',), ('config',), ('configs', 'extra')])
def test_an_unknown_command_is_an_error(kapao, arguments):
    assert 'unknown command' in kapao(*arguments)[0]


def test_an_unknown_config_is_one_line(kapao):
    assert 'did you mean' in kapao('config', 'kapao_s_cocoo')[0]


def test_importing_the_package_and_the_command_imports_neither_torch_nor_mm():
    code = 'import sys, kapao_mm.command; print({"torch", "mmengine", "cv2"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == 'set()'
