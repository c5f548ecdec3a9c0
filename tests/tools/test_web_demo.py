# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import sys

import pytest

from kapao_mm.errors import InputError


@pytest.fixture
def run(load_file, monkeypatch):
    """Makes a function that runs the tool."""
    tool = load_file('tools/web_demo.py')

    def call(*arguments):
        monkeypatch.setattr('sys.argv', ['web_demo.py', *arguments])
        tool.main()

    call.tool = tool
    return call


def test_missing_gradio_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    for module in ('page', 'parts'):
        monkeypatch.delitem(sys.modules, f'kapao_mm.web.{module}', raising=False)
    with pytest.raises(InputError, match=r"^gradio is not installed: pip install 'kapao-mm\[web"):
        run('--model', 'a.pth')


def test_missing_model_is_one_line(run):
    pytest.importorskip('gradio')
    with pytest.raises(InputError, match=r'a.onnx does not exist$'):
        run('--model', 'a.onnx', '--port', '0')


def test_page_gets_the_model_and_the_port(run, monkeypatch):
    pytest.importorskip('gradio')
    from kapao_mm.web import page

    served, loaded = [], []
    monkeypatch.setattr(page, 'serve', lambda *arguments: served.append(arguments))
    monkeypatch.setattr(
        run.tool, 'load_predictor', lambda *args, **options: loaded.append((args, options)) or 'p'
    )
    run('--model', 'x/a.pth', '--config', 'c', '--device', 'cpu', '--amp', '--port', '0')
    assert loaded == [(('x/a.pth', 'c'), dict(device='cpu', amp=True, threads=None))]
    ((predictor, title, listener),) = served
    assert (predictor, title) == ('p', 'a.pth')
    assert listener.fileno() == -1  # closed when the page has ended
