# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Serves a page in the browser where visitors upload images and videos, with Gradio.

What the page consists of is in :mod:`kapao_mm.web.parts`, and what it does with images and
videos in :mod:`kapao_mm.web.session`.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from kapao_mm.apis.predictor import Options, Predictor
from kapao_mm.errors import InputError
from kapao_mm.functional.drawing_style import Layers

from .session import (
    VIDEO_BYTES,
    Session,
    describe,
    detect,
    finish,
    hide_folder,
    network_options,
    predict_video,
    read_upload,
    save_result,
    table_rows,
)

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise InputError("gradio is not installed: pip install 'kapao-mm[web]'") from error

from .parts import (
    LAYERS,
    category_control,
    image_outputs,
    image_upload,
    layer_control,
    network_controls,
    show_progress,
    threshold_controls,
    video_outputs,
    video_upload,
)

LOCAL_HOSTS = ('127.0.0.1', 'localhost')
MAX_VISITORS = 20  # the one who was idle for longest is forgotten
UPLOADS_KEPT = 3600  # s, at least; results are removed when the visitor leaves
POLICY = (  # the browser loads nothing from elsewhere, whatever Gradio's page asks for
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; frame-ancestors 'self'"
)
CSS = """
.gradio-container {max-width: 1320px !important; margin: auto;}
.areas {
  display: grid; gap: 16px; align-items: start;
  grid-template: 'upload result' auto 'settings result' 1fr / minmax(0, 2fr) minmax(0, 3fr);
}
.upload {grid-area: upload;} .result {grid-area: result;} .settings {grid-area: settings;}
@media (max-width: 800px) {
  .areas {grid-template: 'upload' auto 'result' auto 'settings' auto / minmax(0, 1fr);}
  .picture {height: 300px !important;}
}
.upload [aria-label^=Trim], .upload [aria-label^=Reset] {display: none;} /* needs other sites */
.note {opacity: 0.75; font-size: 90%;}
progress {width: 100%; height: 6px; appearance: none; border: 0; background: #8884;}
progress::-webkit-progress-bar {background: #8884;}
progress::-webkit-progress-value {background: var(--color-accent);}
progress::-moz-progress-bar {background: var(--color-accent);}
footer {display: none !important;}
"""
FONT, MONO = ['Helvetica Neue', 'Arial', 'sans-serif'], ['Menlo', 'Consolas', 'monospace']
NETWORK = dict(concurrency_id='network', concurrency_limit=1, api_visibility='private')
QUEUED = dict(api_visibility='private')
QUICK = dict(queue=False, api_visibility='private')

logger = logging.getLogger('kapao_mm')


class DemoPage:
    """Page in the browser where visitors upload images and videos to be predicted.

    Args:
        predictor: Predictor, which serves one visitor at a time.
        title: Name of the model, shown on the page.
        folder: Temporary folder for uploads and results.

    Attributes:
        blocks: The page, a ``gradio.Blocks``.
        controls: What a visitor can change, by the name of the option.
        sessions: The visitors, by the name that Gradio gives each.
    """

    def __init__(self, predictor: Predictor, title: str, folder: Path) -> None:
        self.predictor = predictor
        self.folder = folder
        self.sessions: dict[str, Session] = {}
        os.environ['GRADIO_TEMP_DIR'] = str(folder)  # read by the components
        with gr.Blocks(
            title='KAPAO', analytics_enabled=False, delete_cache=(600, UPLOADS_KEPT)
        ) as self.blocks:
            self._build(title)
        self.blocks.queue(default_concurrency_limit=4, max_size=100)

    # Gradio calls these with the request, because of its annotation, and then the inputs.

    def predict_image(self, request: gr.Request, path: str | None, *values: Any) -> list[Any]:
        """Reads an uploaded image, and runs the network on it."""
        session = self._session(request)
        session.detected = None
        if path is None:
            return [None, '', [], None, gr.DownloadButton(value=None, interactive=False)]
        with _errors_on_page(Path(path).parent):
            options, layers = self._options(values)
            session.detected = detect(self.predictor, read_upload(Path(path)), options)
            return self._show(session, options, layers)

    def rerun(self, request: gr.Request, *values: Any) -> list[Any]:
        """Runs the network on the same image again, if an option of the network is another."""
        session = self._session(request)
        with _errors_on_page(session.folder):
            options, layers = self._options(values)
            last = session.detected
            if last is not None and last.network != network_options(options):
                session.detected = detect(self.predictor, last.frame, options)
            return self._show(session, options, layers)

    def redraw(self, request: gr.Request, *values: Any) -> list[Any]:
        """Applies thresholds, categories and layers to the same image, without the network."""
        session = self._session(request)
        with _errors_on_page(session.folder):
            return self._show(session, *self._options(values))

    def predict_video(
        self, request: gr.Request, path: str | None, track: bool, smooth: bool, *values: Any
    ) -> Iterator[list[Any]]:
        """Predicts an uploaded video, and shows its progress."""
        session = self._session(request)
        folder = Path(path).parent if path else session.folder
        with _errors_on_page(folder):
            if path is None:
                raise InputError('upload a video first')
            options, layers = self._options(values, track=track, smooth=track and smooth)
            for state in predict_video(self.predictor, Path(path), session, options, layers):
                if state.fault:
                    gr.Warning(hide_folder(state.fault, folder))
                yield show_progress(state)

    def stop(self, request: gr.Request) -> None:
        """Ends a running video early."""
        self._session(request).stop.set()

    def close(self, request: gr.Request) -> None:
        """Forgets a visitor who left."""
        if session := self.sessions.pop(request.session_hash, None):
            session.close()

    def _session(self, request: gr.Request) -> Session:
        session = self.sessions.pop(request.session_hash, None)
        if session is None:
            session = Session.open(self.folder / 'results')
        self.sessions[request.session_hash] = session  # the last one
        for oldest in list(self.sessions)[:-MAX_VISITORS]:
            self.sessions.pop(oldest).close()
        return session

    def _options(self, values: tuple[Any, ...], **more: bool) -> tuple[Options, Layers]:
        """Converts the values of :attr:`controls`."""
        chosen = dict(zip(self.controls, values, strict=True))
        shown = chosen.pop('layers')
        layers = Layers(**{layer: label in shown for label, layer in LAYERS.items()})
        return self.predictor.options(**chosen, **more), layers

    def _show(self, session: Session, options: Options, layers: Layers) -> list[Any]:
        """Returns the values of :func:`image_outputs`."""
        detected = session.detected
        if detected is None:
            return [gr.skip()] * 5
        result = finish(self.predictor, detected, options)
        picture, numbers = save_result(result, session, layers)
        download = gr.DownloadButton(value=numbers, interactive=True)
        line = describe(result, detected.seconds)
        return [picture, line, table_rows(result), result.to_dict(), download]

    def _build(self, title: str) -> None:
        """Lays out the page, and says which function follows which event."""
        metainfo = self.predictor.metainfo
        gr.Markdown(f'## KAPAO\nKeypoints and poses as objects · model `{title}`')
        with gr.Row(elem_classes='areas'):
            with gr.Column(elem_classes='upload', min_width=0):
                with gr.Tab('Image') as image_tab:
                    image = image_upload()
                with gr.Tab('Video') as video_tab:
                    video = video_upload()
                    with gr.Row():
                        track = gr.Checkbox(True, label='follow people', min_width=120)
                        smooth = gr.Checkbox(False, label='smooth keypoints', min_width=120)
                    with gr.Row():
                        start = gr.Button('Predict video', variant='primary', min_width=120)
                        stop = gr.Button('Stop', min_width=80)
            with gr.Column(elem_classes='result', min_width=0):
                with gr.Column(min_width=0) as image_column:
                    of_image = image_outputs(metainfo)
                with gr.Column(min_width=0, visible=False) as video_column:
                    of_video = video_outputs()
            with gr.Column(elem_classes='settings', min_width=0):
                with gr.Accordion('Picture'):
                    layers = layer_control(metainfo)
                with gr.Accordion('Thresholds'):
                    thresholds = threshold_controls(self.predictor)
                    categories = category_control(metainfo)
                with gr.Accordion('Network', open=False):
                    network = network_controls(self.predictor)

        self.controls = {**thresholds, **network, 'categories': categories, 'layers': layers}
        values = list(self.controls.values())
        image.change(self.predict_image, [image, *values], of_image, **NETWORK)
        for name, control in self.controls.items():
            function, how = (self.rerun, NETWORK) if name in network else (self.redraw, QUEUED)
            control.input(
                function,
                values,
                of_image,
                trigger_mode='always_last',  # while a slider moves, steps in between are left out
                show_progress='hidden',
                **how,
            )
        start.click(
            self.predict_video,
            [video, track, smooth, *values],
            of_video,
            show_progress='hidden',
            **NETWORK,
        )
        stop.click(self.stop, **QUICK)
        columns = [image_column, video_column]
        for tab, column in ((image_tab, image_column), (video_tab, video_column)):
            visible = [gr.Column(visible=each is column) for each in columns]
            tab.select(partial(list, visible), None, columns, **QUICK)
        self.blocks.unload(self.close)


def make_app(page: DemoPage, host: str = LOCAL_HOSTS[0]) -> FastAPI:
    """Makes the web application of a page.

    Args:
        page: The page.
        host: Address that is served. At a local one, requests that name another are refused, so
            that no other site can use the page through the visitor's browser.
    """
    app = FastAPI(openapi_url=None)
    if host in LOCAL_HOSTS:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_HOSTS))
    app.add_middleware(_Policy)
    gr.mount_gradio_app(
        app,
        page.blocks,
        path='/',
        footer_links=[],
        run_history=False,
        show_error=False,  # of the unexpected ones; a gr.Error is shown
        max_file_size=VIDEO_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(primary_hue='teal', neutral_hue='slate', font=FONT, font_mono=MONO),
        css=CSS,
    )
    page.blocks.has_launched = True  # else Gradio reads any file that a request names
    return app


def listen(host: str = LOCAL_HOSTS[0], port: int = 7860) -> socket.socket:
    """Opens the port of the page.

    Args:
        host: Address to serve; others than 127.0.0.1 let other computers in.
        port: Number of the port; 0 takes a free one.

    Raises:
        InputError: If the address or the port cannot be used, for example because it is in use.
    """
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, 'strerror', None) or str(error)).partition(' (')[0].lower()
        raise InputError(
            f'port {port} of {host} cannot be used ({reason}): give another --port or --host'
        ) from error


def serve(predictor: Predictor, title: str, listener: socket.socket) -> None:
    """Serves the page until it is interrupted, then removes all uploads.

    Args:
        predictor: Predictor.
        title: Name of the model, shown on the page.
        listener: From :func:`listen`.
    """
    host, port = listener.getsockname()[:2]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the folder is removed then, too
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix='kapao-') as folder:
        app = make_app(DemoPage(predictor, title, Path(folder).resolve()), host)
        if host not in LOCAL_HOSTS:
            print(
                'warning: everybody who reaches this computer can use the page, which has neither '
                'a password nor encryption',
                file=sys.stderr,
            )
        print(f'http://{host}:{port}  (Ctrl-C ends it)', flush=True)
        config = uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=3)  # s
        uvicorn.Server(config).run(sockets=[listener])


class _Policy:
    """Adds headers that keep the browser from loading anything from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [
                    *message['headers'],
                    (b'content-security-policy', POLICY.encode()),
                    (b'referrer-policy', b'no-referrer'),
                    (b'x-content-type-options', b'nosniff'),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


@contextmanager
def _errors_on_page(folder: Path) -> Iterator[None]:
    """Shows an error as one line on the page, without the folder; logs unexpected ones."""
    try:
        yield
    except InputError as error:
        raise gr.Error(
            hide_folder(str(error), folder), title='Not predicted', print_exception=False
        ) from error
    except Exception as error:
        logger.exception('the page failed')
        text = 'This failed on the server, whose log says why.'
        raise gr.Error(text, print_exception=False) from error
