# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Runs the Python of README and docs, and checks their commands.

A block of Python that has a title is a config: it is written to a file of that name and loaded.
Other blocks are run in a folder with stand-ins for the files that they name.
"""

import argparse
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import tomllib
import torch
from mmpose.registry import MODELS

from kapao_mm.command import TOOLS
from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.toy import draw_scene
from kapao_mm.media.video import VideoWriter
from kapao_mm.utils.config import load_config

REPO = Path(__file__).resolve().parents[2]
PAGES = [page for pattern in ('*.md', 'docs/*.md', '*/*/README.md') for page in REPO.glob(pattern)]
FENCE = re.compile(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', re.M | re.S)
INLINE = re.compile(r'(?<!`)`([^`\n]+)`(?!`)')
PROGRAM = re.compile(r'python|kapao|make|tools/\S+\.sh')
OWN_COMMANDS = ('configs', 'config', '--help', '--version')  # of `kapao`, besides its tools
# Launchers, the scripts that get their arguments, and the positions of those they keep.
LAUNCHERS = {
    'tools/dist_train.sh': ('tools/train.py', {1}),
    'tools/dist_test.sh': ('tools/test.py', {2}),
    'tools/slurm_train.sh': ('tools/train.py', {0, 1, 3}),
    'tools/slurm_test.sh': ('tools/test.py', {0, 1}),
}


class Snippet(NamedTuple):
    """A block of code, or a piece of code inside a sentence, which has the language 'inline'."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str


class Parsed(BaseException):
    """Raised instead of running a tool whose arguments were understood."""


def find_snippets() -> list[Snippet]:
    """Returns all snippets of the pages."""
    snippets = []
    for page in PAGES:
        text = page.read_text()
        for found in FENCE.finditer(text):
            line = text.count('\n', 0, found.start()) + 2
            snippets.append(Snippet(page, line, *found.groups()))
        prose = FENCE.sub(lambda found: '\n' * found[0].count('\n'), text)
        for found in INLINE.finditer(prose):
            line = prose.count('\n', 0, found.start()) + 1
            snippets.append(Snippet(page, line, 'inline', None, found[1]))
    return snippets


def find_commands(snippet: Snippet) -> list[list[str]]:
    """Returns the words of each command of this project in a snippet, from its program on."""
    commands = []
    for line in snippet.text.replace('\\\n', ' ').splitlines():
        if snippet.language == 'console' and not line.startswith('$ '):
            continue  # output
        words = shlex.split(line.removeprefix('$ '), comments=True)
        words = words[: words.index('>')] if '>' in words else words
        starts = [i for i, word in enumerate(words) if PROGRAM.fullmatch(word)]
        if starts and len(words) > starts[0] + 1:
            commands.append([word for word in words[starts[0] :] if word != '...'])
    return commands


SNIPPETS = find_snippets()
PYTHON = [
    pytest.param(snippet, id=f'{snippet.page.name}:{snippet.line}')
    for snippet in SNIPPETS
    if snippet.language == 'python'
]
COMMANDS = [
    pytest.param(command, id=f'{snippet.page.name}:{snippet.line}: {" ".join(command)}')
    for snippet in SNIPPETS
    if snippet.language in ('bash', 'console', 'inline')
    for command in find_commands(snippet)
]


def parse(script: str, arguments: list[str], monkeypatch) -> None:
    """Lets a tool parse its command line, and stops it then."""
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        self.allow_abbrev = False
        original(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
    monkeypatch.setattr(sys, 'argv', [script, *arguments])
    run = runpy.run_path if script.endswith('.py') else runpy.run_module
    with pytest.raises(Parsed):
        run(script, run_name='__main__')


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_is_understood(command, repo, monkeypatch):
    monkeypatch.chdir(repo)
    program, first, *rest = command
    if program == 'make':
        assert re.search(rf'^{first}:', (repo / 'Makefile').read_text(), re.M), first
    elif program == 'kapao':
        assert first in (*TOOLS, *OWN_COMMANDS)
        if first in TOOLS and rest:
            parse(f'tools/{TOOLS[first][0]}', rest, monkeypatch)
    elif program in LAUNCHERS:
        script, kept = LAUNCHERS[program]
        arguments = [word for i, word in enumerate([first, *rest]) if i not in kept]
        parse(script, arguments, monkeypatch)
    elif first == '-m' and rest[0].startswith('kapao_mm.'):
        parse(rest[0], rest[1:], monkeypatch)
    elif first.startswith('tools/') and rest:
        parse(first, rest, monkeypatch)


def test_every_block_names_its_language():
    for page in PAGES:
        assert '```' not in FENCE.sub('', page.read_text()), page


def test_commands_are_found_and_wrong_ones_are_not_understood(monkeypatch):
    text = '$ X=1 python tools/test.py a \\\n    b --tta > log\ntext\n$ kapao train c # why\n'
    page = REPO / 'README.md'
    found = find_commands(Snippet(page, 1, 'console', None, text))
    assert found == [['python', 'tools/test.py', 'a', 'b', '--tta'], ['kapao', 'train', 'c']]
    with pytest.raises(SystemExit):
        parse('tools/test.py', ['a', 'b', '--ttta'], monkeypatch)


@pytest.mark.parametrize('kind', ['tools', 'tests', 'configs/kapao'])
def test_files_that_are_named_exist(repo, kind):
    named = {
        path
        for snippet in SNIPPETS
        if snippet.language != 'text'
        for path in re.findall(rf'(?<![\w/.]){kind}/[a-z0-9_/]+\.(?:py|sh)\b', snippet.text)
    }
    assert named
    assert not [path for path in sorted(named) if not (repo / path).exists()]


def test_extras_that_are_installed_exist(repo):
    with (repo / 'pyproject.toml').open('rb') as file:
        extras = tomllib.load(file)['project']['optional-dependencies']
    named = re.findall(r"pip install '\.\[(.+)\]'", '\n'.join(page.read_text() for page in PAGES))
    assert named
    assert {extra for text in named for extra in text.split(',')} <= set(extras)


def test_every_part_of_the_package_is_in_the_layout(repo):
    layout = (repo / 'README.md').read_text().partition('## Layout')[2]
    parts = [path.parent.name for path in (repo / 'kapao_mm').glob('*/__init__.py')]
    assert not [part for part in parts if f'  {part}/' not in layout]


def write_checkpoint(path: Path) -> None:
    """Writes a checkpoint for its config whose model sees people and noses all over an image."""
    model = MODELS.build(load_config(path.stem).model)
    head = model.head.head_module
    for conv, label, score in zip(head.convs, (0, 0, 1, 0), (-10, -10, 5, 5), strict=True):
        torch.nn.init.zeros_(conv.weight)
        bias = torch.nn.init.zeros_(conv.bias).detach().view(head.num_anchors, -1)
        bias[:, 4] = bias[:, 5 + label] = score
    cfg = load_config(path.stem)
    metainfo = read_metainfo(cfg.train_dataloader.dataset.metainfo)
    meta = dict(cfg=cfg.pretty_text, dataset_meta=metainfo)
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)


@pytest.fixture(scope='module')
def stand_ins(tmp_path_factory, load_file) -> Path:
    """A folder with images and models of the names that the documentation uses."""
    folder = tmp_path_factory.mktemp('stand_ins')
    for seed, name in enumerate(['a.jpg', 'b.jpg']):
        image, _ = draw_scene(np.random.default_rng(seed), image_size=(320, 240))
        cv2.imwrite(str(folder / name), image)
    with VideoWriter(folder / 'street.mp4', fps=25) as writer:
        for _ in range(3):
            writer.write(image)
    write_checkpoint(folder / 'kapao_s_coco.pth')
    load_file('tests/deploy/test_runtime.py').write_model(folder / 'toy.onnx')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('snippet', PYTHON)
def test_python_runs(snippet, stand_ins, monkeypatch):
    monkeypatch.chdir(stand_ins)
    if snippet.title:
        Path(snippet.title).write_text(snippet.text)
        MODELS.build(load_config(snippet.title).model)
    else:
        code = '\n' * (snippet.line - 1) + snippet.text
        printed = []
        exec(compile(code, snippet.page, 'exec'), {'print': lambda *values: printed.append(values)})
        assert bool(printed) == ('print(' in snippet.text)  # loops have something to do


@pytest.mark.slow
def test_the_notebook_runs(stand_ins, monkeypatch):
    monkeypatch.chdir(stand_ins)
    notebook = json.loads((REPO / 'docs/notebooks/predict.ipynb').read_text())
    names: dict = {}
    for cell in notebook['cells']:
        assert not cell.get('outputs'), 'save the notebook without outputs'
        if cell['cell_type'] == 'code':
            exec(''.join(cell['source']), names)
    assert len(names['result']) > 0 and Path('poses.mp4').stat().st_size > 0
