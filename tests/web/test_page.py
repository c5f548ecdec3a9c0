# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from kapao_mm.errors import InputError

gr = pytest.importorskip('gradio', reason="gradio is not installed: pip install 'kapao-mm[web]'")

import httpx
import uvicorn

from kapao_mm.web import page as web
from kapao_mm.web.page import DemoPage, listen, make_app

VISITOR = SimpleNamespace(session_hash='a')
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.fixture(scope='module')
def make_predictor(load_file):
    return load_file('tests/web/web_predictor.py').MadeUpPredictor


@pytest.fixture(scope='module')
def make_page(make_predictor, tmp_path_factory):
    """Makes pages, whose folder is as visitors must not see it."""

    def make(**options) -> DemoPage:
        folder = tmp_path_factory.mktemp('secret').resolve()
        return DemoPage(make_predictor(**options), 'some_model.pth', folder)

    old = os.environ.get('GRADIO_TEMP_DIR')
    yield make
    os.environ.pop('GRADIO_TEMP_DIR', None)
    if old:
        os.environ['GRADIO_TEMP_DIR'] = old


@pytest.fixture(scope='module')
def page(make_page):
    return make_page()


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'people.png'
    cv2.imwrite(str(path), np.full((240, 480, 3), 200, np.uint8))
    return path


@pytest.fixture(scope='module')
def server(make_page) -> Iterator[SimpleNamespace]:
    """A page that is served on this computer: its URL and the page."""
    page = make_page()
    with listen(port=0) as listener:
        config = uvicorn.Config(make_app(page), log_level='error', timeout_graceful_shutdown=1)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.02)
        yield SimpleNamespace(url=f'http://127.0.0.1:{listener.getsockname()[1]}', page=page)
        running.should_exit = True
        thread.join(10)


def values(page, **changes):
    """The values of all controls as they are at first, with changes."""
    return [changes.get(name, control.value) for name, control in page.controls.items()]


def test_image_gives_picture_line_table_and_json(page, image):
    picture, line, rows, content, download = page.predict_image(VISITOR, image, *values(page))
    assert cv2.imread(str(picture)).shape == (240, 480, 3)
    assert line.startswith('**2 poses**')
    assert len(rows) == len(content['poses']) == 2
    assert json.loads(Path(download.value['path']).read_text()) == content
    assert content['image'] == 'people.png'


def test_sliders_act_without_the_network_where_they_can(page, image):
    page.predict_image(VISITOR, image, *values(page))
    runs = page.predictor.runs
    count = len(runs)
    _, line, rows, *_ = page.redraw(VISITOR, *values(page, pose_score_thr=0.5))
    assert line.startswith('**1 pose**') and len(rows) == 1
    page.rerun(VISITOR, *values(page))
    assert len(runs) == count
    page.rerun(VISITOR, *values(page, pose_iou_thr=0.9, input_size=128))
    assert len(runs) == count + 1
    assert runs[-1][0].pose_iou_thr == 0.9 and runs[-1][1] == (1, 128, 128, 3)


def test_nothing_happens_before_an_image_and_after_its_removal(page, image):
    stranger = SimpleNamespace(session_hash='b')
    assert all(output == gr.skip() for output in page.redraw(stranger, *values(page)))
    page.predict_image(VISITOR, image, *values(page))
    assert page.predict_image(VISITOR, None, *values(page))[0] is None
    assert all(output == gr.skip() for output in page.redraw(VISITOR, *values(page)))


def test_errors_are_one_line_without_the_folder(page, tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_text('no image')
    with pytest.raises(gr.Error) as error:
        page.predict_image(VISITOR, path, *values(page))
    assert error.value.message == 'a.jpg cannot be read as an image'
    with pytest.raises(gr.Error, match='upload a video first'):
        next(page.predict_video(VISITOR, None, True, False, *values(page)))


def test_unexpected_errors_are_logged_and_say_nothing(page, image, monkeypatch, caplog):
    monkeypatch.setattr(page.predictor, 'detect', lambda *_: 1 / 0)
    with pytest.raises(gr.Error) as error:
        page.predict_image(VISITOR, image, *values(page))
    assert error.value.message == 'This failed on the server, whose log says why.'
    assert 'ZeroDivisionError' in caplog.text


def test_results_are_removed_when_the_visitor_leaves(page, image):
    visitor = SimpleNamespace(session_hash='c')
    picture, *_ = page.predict_image(visitor, image, *values(page))
    assert picture.is_relative_to(page.folder)
    page.close(visitor)
    page.close(visitor)
    assert not picture.exists() and 'c' not in page.sessions


def test_visitor_who_was_idle_for_longest_is_forgotten(make_page, image):
    page = make_page()
    count = web.MAX_VISITORS
    for name in [*range(count), 0, count]:
        page.redraw(SimpleNamespace(session_hash=name), *values(page))
    assert list(page.sessions) == [*range(2, count), 0, count]
    assert len(list((page.folder / 'results').iterdir())) == count


def test_settings_that_a_model_has_fixed_cannot_be_moved(make_page, page):
    exported = make_page(fixed=True)
    assert not exported.controls['pose_iou_thr'].interactive
    assert exported.controls['pose_score_thr'].minimum == 0.2
    assert page.controls['pose_iou_thr'].interactive
    assert page.controls['pose_score_thr'].minimum == 0.05


def test_categories_and_faces_are_offered_where_there_are_any(make_page, page):
    assert not page.controls['categories'].visible
    assert make_page(cars=True).controls['categories'].visible
    assert 'hide faces' in dict(page.controls['layers'].choices)


def test_network_is_used_by_one_visitor_at_a_time(page):
    network = [
        function
        for function in page.blocks.fns.values()
        if function.name in ('predict_image', 'predict_video', 'rerun')
    ]
    assert {(f.concurrency_id, f.concurrency_limit) for f in network} == {('network', 1)}
    assert len(network) == 5


def test_nothing_is_reported_or_loaded_from_elsewhere(server, page):
    assert not page.blocks.analytics_enabled
    answer = httpx.get(server.url)
    assert answer.headers['content-security-policy'].startswith("default-src 'self'")
    assert 'googleapis' not in httpx.get(f'{server.url}/theme.css').text
    loaded = re.findall(r'<(?:script|link)[^>]+(?:src|href)="([^"]+)"', answer.text)
    assert loaded and not [url for url in loaded if '://' in url]


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:80'])
def test_other_sites_cannot_use_the_page_through_the_browser(server, host):
    assert httpx.get(server.url, headers={'host': host}).status_code == 400


@pytest.mark.parametrize('path', ['/etc/passwd', __file__, '../../etc/passwd'])
def test_files_of_the_server_are_not_given_away(server, path):
    answer = httpx.get(f'{server.url}/gradio_api/file={path}')
    assert answer.status_code in (403, 404)


def call(server, function, *data):
    """Calls a function of the page as a browser does; returns the last message."""
    names = {f.name: number for number, f in server.page.blocks.fns.items()}
    body = dict(data=data, fn_index=names[function], session_hash='http')
    httpx.post(f'{server.url}/gradio_api/queue/join', json=body).raise_for_status()
    with httpx.stream('GET', f'{server.url}/gradio_api/queue/data?session_hash=http') as lines:
        for line in lines.iter_lines():
            if line.startswith('data:') and '"process_completed"' in line:
                return json.loads(line[5:])


@pytest.mark.parametrize('path', ['/etc/passwd', 'IMAGE', 'http://192.0.2.1/a.jpg'])
def test_only_uploads_are_predicted(server, image, path):
    file = dict(path=path.replace('IMAGE', str(image)), meta=dict(_type='gradio.FileData'))
    message = call(server, 'predict_image', file, *values(server.page))
    assert not message['success'] and message['output']['error'] in ('Upload a file.', None)
    message = call(server, 'redraw', *values(server.page, fusion_distance=file))
    assert not message['success']
    assert not server.page.predictor.runs
    assert not list(server.page.folder.glob('*/passwd')) + list(
        server.page.folder.glob('*/people*')
    )


def test_value_outside_of_a_slider_is_refused(server):
    message = call(server, 'redraw', *values(server.page, fusion_distance=1e9))
    assert not message['success']


def test_used_port_and_unknown_address_are_one_line():
    with listen(port=0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            InputError, match=rf'{port} of .* used \(address already in use\): give'
        ):
            listen(port=port)
    with pytest.raises(InputError, match='^port 70000 of 127.0.0.1 cannot be used'):
        listen(port=70000)
    with pytest.raises(InputError, match='^port 0 of no.such.host.invalid cannot be used'):
        listen('no.such.host.invalid', 0)


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGINT])
def test_stopped_server_leaves_no_files(repo, tmp_path, how):
    code = (
        'import sys; sys.path.insert(0, "tests/web")\n'
        'from web_predictor import MadeUpPredictor\n'
        'from kapao_mm.web.page import listen, serve\n'
        'serve(MadeUpPredictor(), "a", listen(sys.argv[1], 0))\n'
    )
    environment = {**os.environ, 'TMPDIR': str(tmp_path), 'PYTHONPATH': str(repo)}
    process = subprocess.Popen(
        [sys.executable, '-c', code, '127.0.0.1'],
        cwd=repo,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith('http://127.0.0.1:')
    assert list(tmp_path.glob('kapao-*'))
    time.sleep(0.5)
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, '')
    assert not list(tmp_path.glob('kapao-*'))


@pytest.fixture(scope='module')
def browser():
    """Chromium without a window."""
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if CHROMIUM is None:
        pytest.skip('chromium is not installed')
    with playwright.sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize('width', [1280, 390])
def test_visitor_uploads_an_image_moves_a_slider_and_downloads(server, image, browser, width):
    visit = browser.new_page(viewport=dict(width=width, height=900))
    loaded = []
    visit.on('request', lambda request: loaded.append(request.url))
    visit.goto(server.url)
    visit.set_input_files('input[type=file] >> nth=0', image)
    visit.wait_for_selector('text=2 poses')
    picture = visit.locator('.result img').first
    before = picture.get_attribute('src')
    slider = visit.get_by_label('number input for Score of poses', exact=True)
    slider.fill('0.5')
    visit.wait_for_selector('text=1 pose')
    assert picture.get_attribute('src') != before
    with visit.expect_download() as download:
        visit.get_by_text('Download JSON').first.click()
    assert download.value.suggested_filename == 'people_poses.json'
    assert len(json.loads(Path(download.value.path()).read_text())['poses']) == 1
    assert visit.evaluate('document.documentElement.scrollWidth') <= width
    assert not [url for url in loaded if not url.startswith((server.url, 'data:', 'blob:'))]
    visit.close()


@pytest.mark.slow
def test_visitor_sees_what_is_wrong_with_a_file(server, tmp_path, browser):
    path = tmp_path / 'a.jpg'
    path.write_text('no image')
    visit = browser.new_page()
    visit.goto(server.url)
    visit.set_input_files('input[type=file] >> nth=0', path)
    visit.wait_for_selector('text=a.jpg cannot be read as an image')
    visit.close()


@pytest.mark.slow
def test_visitor_predicts_a_video(server, make_video, browser):
    visit = browser.new_page()
    visit.goto(server.url)
    visit.get_by_role('tab', name='Video').click()
    visit.locator('.upload input[type=file]').last.set_input_files(make_video(frames=20))
    visit.wait_for_selector('.upload video')
    visit.get_by_text('Predict video', exact=True).click()
    visit.wait_for_selector('text=20 of 20 frames')
    length = visit.locator('.result video').evaluate(
        'video => new Promise(done => {'
        'if (video.duration) done(video.duration);'
        'else video.onloadedmetadata = () => done(video.duration)})'
    )
    assert length == pytest.approx(0.8, abs=0.05)  # s
    visit.close()
