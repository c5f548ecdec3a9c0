# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Makes the parts of the page in the browser: uploads, controls, results."""

from pathlib import Path
from typing import Any, TypeVar

from kapao_mm.apis.predictor import Predictor
from kapao_mm.errors import InputError
from kapao_mm.functional.drawing_style import Style
from kapao_mm.functional.letterbox import INPUT_DIVISOR
from kapao_mm.structures import Metainfo

from .session import (
    IMAGE_BYTES,
    MB,
    VIDEO_BYTES,
    VideoProgress,
    can_change,
    lowest_score,
    table_columns,
)

try:
    import gradio as gr
except ImportError as error:
    raise InputError("gradio is not installed: pip install 'kapao-mm[web]'") from error

Upload = TypeVar('Upload', bound=gr.components.Component)

MAX_INPUT_SIZE = 1920  # px, unless the model's own is larger
MAX_FUSION_DISTANCE = 200  # px of the original image
LAYERS = {  # label on the page: layer of the picture
    'boxes': 'boxes',
    'skeleton': 'skeleton',
    'keypoints': 'keypoints',
    'scores': 'scores',
    'track ids': 'ids',
    'keypoint names': 'names',
    'pose objects': 'pose_objects',
    'keypoint objects': 'keypoint_objects',
    'legend': 'legend',
    'hide faces': 'hide_faces',
}
SHOWN = ['boxes', 'skeleton', 'keypoints', 'scores', 'track ids']  # layers at first
EXPLANATION = (
    '**Filled** keypoints are fused from a keypoint object, **hollow** ones come from the pose '
    'object alone.'
)


def image_upload() -> gr.Image:
    """Makes the upload of an image, whose value is the path of the file."""
    upload = gr.Image(
        type='filepath',
        sources=['upload', 'webcam', 'clipboard'],
        label=f'Image, up to {IMAGE_BYTES // MB} MB',
        height=240,
        buttons=[],
    )
    return _pass_on_path(upload)


def video_upload() -> gr.Video:
    """Makes the upload of a video, whose value is the path of the file."""
    upload = gr.Video(
        sources=['upload'], label=f'Video, up to {VIDEO_BYTES // MB} MB', height=240, buttons=[]
    )
    return _pass_on_path(upload)


def threshold_controls(predictor: Predictor) -> dict[str, gr.Slider]:
    """Makes the sliders of thresholds that need no run of the network, by name of the setting."""
    settings = predictor.settings

    def score(name: str, label: str) -> gr.Slider:
        low = lowest_score(predictor, name)
        return _slider(low, 1, getattr(settings, name), 0.01, label)

    return dict(
        pose_score_thr=score('pose_score_thr', 'Score of poses'),
        keypoint_score_thr=score('keypoint_score_thr', 'Score of keypoint objects'),
        fusion_score_thr=_slider(
            0, 1, settings.fusion_score_thr, 0.01, 'Score of poses that are fused'
        ),
        fusion_distance=_slider(
            0,
            max(MAX_FUSION_DISTANCE, settings.fusion_distance),
            settings.fusion_distance,
            1,
            'Fusion distance, px (0: no fusion)',
        ),
    )


def network_controls(predictor: Predictor) -> dict[str, gr.Slider]:
    """Makes the sliders of settings for which the network runs again, by name of the setting."""
    size = predictor.input_size

    def overlap(name: str, label: str) -> gr.Slider:
        value = getattr(predictor.settings, name)
        return _slider(0, 1, value, 0.01, label, can_change(predictor, **{name: value / 2}))

    return dict(
        pose_iou_thr=overlap('pose_iou_thr', 'IoU of poses'),
        keypoint_iou_thr=overlap('keypoint_iou_thr', 'IoU of keypoint objects'),
        input_size=_slider(
            INPUT_DIVISOR, max(MAX_INPUT_SIZE, size), size, INPUT_DIVISOR, 'Network input, px'
        ),
    )


def category_control(metainfo: Metainfo) -> gr.CheckboxGroup:
    """Makes the choice of categories, which is hidden if there is one only."""
    names = metainfo.category_names
    return gr.CheckboxGroup(names, value=names, label='Categories', visible=len(names) > 1)


def layer_control(metainfo: Metainfo) -> gr.CheckboxGroup:
    """Makes the choice of layers; faces can be hidden if the model knows where they are."""
    has_faces = bool(Style.from_metainfo(metainfo).face_types)
    labels = [label for label in LAYERS if has_faces or label != 'hide faces']
    return gr.CheckboxGroup(labels, value=SHOWN, show_label=False, container=False)


def image_outputs(metainfo: Metainfo) -> list[gr.components.Component]:
    """Makes the parts that show the result of an image: picture, line, table, JSON, download."""
    picture = gr.Image(
        label='Poses',
        show_label=False,
        interactive=False,
        height=480,
        elem_classes='picture',
        buttons=['download', 'fullscreen'],
    )
    line = gr.Markdown('Upload or paste an image, or take one with the webcam.')
    gr.Markdown(EXPLANATION, elem_classes='note')
    with gr.Tab('Table'):
        columns = table_columns(metainfo)
        table = gr.Dataframe(
            headers=columns, show_label=False, interactive=False, max_height=280, buttons=[]
        )
    with gr.Tab('JSON'):
        numbers = gr.JSON(show_label=False, max_height=400)
    download = gr.DownloadButton('Download JSON', interactive=False, size='sm')
    return [picture, line, table, numbers, download]


def video_outputs() -> list[gr.components.Component]:
    """Makes the parts that show a video: current frame, result, progress, download."""
    frame = gr.Image(
        label='Frame',
        show_label=False,
        interactive=False,
        height=480,
        elem_classes='picture',
        visible=False,
        buttons=[],
    )
    video = gr.Video(
        label='Poses',
        show_label=False,
        interactive=False,
        height=480,
        elem_classes='picture',
        buttons=['download'],
    )
    progress = gr.HTML('Upload a video, then predict it.', padding=False)
    gr.Markdown(EXPLANATION, elem_classes='note')
    download = gr.DownloadButton('Download JSON', interactive=False, size='sm')
    return [frame, video, progress, download]


def show_progress(state: VideoProgress) -> list[Any]:
    """Returns the values of :func:`video_outputs`."""
    total = f' of {state.total}' if state.total else ''
    line = f'<b>{state.done}{total} frames</b> · {state.poses / state.done:.1f} poses in each'
    if state.video is None:
        bar = f'<progress value="{state.done}" max="{state.total or ""}"></progress>'
        frame = gr.Image(state.preview, visible=True)
        return [frame, gr.Video(None, visible=False), line + bar, gr.skip()]
    download = gr.DownloadButton(value=state.numbers, interactive=True)
    return [gr.Image(None, visible=False), gr.Video(state.video, visible=True), line, download]


def _slider(
    low: float, high: float, value: float, step: float, label: str, interactive: bool = True
) -> gr.Slider:
    fixed = '' if interactive else ' (fixed in the exported model)'
    return gr.Slider(
        low, high, value, step=step, label=label + fixed, interactive=interactive, buttons=[]
    )


def _pass_on_path(upload: Upload) -> Upload:
    """Lets an upload pass on the path of the file, which Gradio would open, and take nothing else.

    A request may name any path or URL instead of an upload. This changes the object instead of
    deriving a class, for which Gradio would write a file into the package.
    """
    into_cache = upload.async_move_resource_to_block_cache

    async def take_uploads_only(path: str | Path | None) -> str | None:
        if path is not None and not Path(path).resolve().is_relative_to(upload.GRADIO_CACHE):
            raise gr.Error('Upload a file.', print_exception=False)
        return await into_cache(path)

    upload.async_move_resource_to_block_cache = take_uploads_only
    upload.preprocess = lambda payload: payload.path if payload else None
    return upload
