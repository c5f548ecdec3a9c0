# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the time (median and 95th percentile) and memory of inference, part by part.

Each row of the table is one combination of model, backend, precision, input size and batch size,
measured in a separate process. Images are padded so that they fill the input size after resizing.
Without a checkpoint the weights are random and their detections are meaningless; NMS in torch and
fusion then run on synthetic crowds. An exported model contains its NMS.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.deploy.formats import FORMATS
from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import PAD_VALUE, letterbox, resize_and_pad
from kapao_mm.functional.postprocess import predict_from_letterbox
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.utils.config import load_config
from kapao_mm.utils.image_files import find_images, read_image

from . import timing
from .predictors import IN_GRAPH, build_model, exported_predictor, torch_predictor
from .report import live_table

NUM_IMAGES = 32  # maximum number of images
EXPORTS = {  # backend: format of its files
    'onnxruntime': 'onnx',
    'openvino': 'openvino',
    'torchscript': 'torchscript',
}
BACKEND_OF = {FORMATS[name].suffix: backend for backend, name in EXPORTS.items()}
COLORS = {'pre-processing': 'C0', 'forward': 'C1', IN_GRAPH: 'C4', 'NMS': 'C2', 'fusion': 'C3'}
COLUMNS = (
    *('config', 'backend', 'precision', 'input', 'batch', 'threads', 'prepare', 'forward', 'NMS'),
    *('fusion', 'total', 'p95', 'images/s', 'peak GB'),
)


class Model(NamedTuple):
    """A model to measure.

    Attributes:
        config: Config file.
        input_size: Input size of the config, px.
        checkpoint: Checkpoint file; None for random weights.
        exported: Exported files by backend.
    """

    config: str
    input_size: int
    checkpoint: str | None
    exported: dict[str, str]


class Options(NamedTuple):
    """Settings that all rows of the table share.

    Attributes:
        use: Use whose inference settings apply.
        people: Number of people in an image of a synthetic crowd.
        runs: Number of measured runs.
        images: Image files.
    """

    use: str
    people: int
    runs: int
    images: list[str]


def benchmark(
    files: list[str],
    input_sizes: Sequence[tuple[int, int]] | None,
    batch_sizes: Sequence[int],
    precisions: Sequence[str],
    backends: Sequence[str],
    images: str | None,
    people: int,
    use: str,
    runs: int,
    threads: Sequence[int | None],
) -> tuple[dict[str, Any], Figure | None]:
    """Measures all combinations, and prints a table.

    Arguments are those of ``benchmark.py predict``.

    Returns:
        The figures, and a plot of them if there are several input sizes.

    Raises:
        InputError: If the files make no models, or there are no images.
    """
    models = group_files(files)
    with tempfile.TemporaryDirectory() as folder:
        if not images:
            make_toy_dataset(folder, 'crowd', num_train=NUM_IMAGES, num_val=1)
        options = Options(use, people, runs, list_images(images or f'{folder}/train2017'))
        machine = timing.describe_machine(
            'numpy', 'cv2', 'torchvision', 'mmpose', 'onnxruntime', 'openvino'
        )
        print_settings(models, options, machine)

        @cache
        def exported(
            config: str, checkpoint: str | None, backend: str, images: tuple[str, ...]
        ) -> dict[str, str]:
            return timing.run_alone(export, config, checkpoint, backend, use, folder, images)

        rows = []
        with live_table(*COLUMNS) as add:
            choices = (backends, precisions, input_sizes, batch_sizes, threads)
            for row in combinations(models, *choices):
                found = dict(file=row['file'])
                if row['backend'] in EXPORTS and not row['file']:
                    quantized = (row['backend'], row['precision']) == ('openvino', 'int8')
                    photos = tuple(options.images) if quantized else ()
                    found = exported(row['config'], row['checkpoint'], row['backend'], photos)
                if 'error' not in found:
                    found = timing.run_alone(measure, row | found, options)
                rows.append(row | found)
                add(*cells(rows[-1]))
                if 'error' in found:
                    print(f'{" ".join(cells(rows[-1])[:6])} failed: {found["error"]}')
    sizes = {tuple(row['input_hw']) for row in rows}
    plot = draw(rows, machine.partition(';')[0]) if len(sizes) > 1 else None
    return dict(machine=machine, use=use, runs=runs, people=people, rows=rows), plot


def print_settings(models: Sequence[Model], options: Options, machine: str) -> None:
    """Prints what the numbers of the table mean."""
    memory_kind = 'GPU memory' if torch.cuda.is_available() else 'RAM'
    print(f'\n{machine}\n{len(options.images)} images, thresholds for {options.use}')
    if not all(model.checkpoint for model in models):
        print(f'no checkpoint: random weights; NMS and fusion of {options.people} synthetic people')
    print(f'ms a batch: medians of {options.runs} runs, and p95; NMS +: in the graph, with forward')
    print(f'peak: {memory_kind} that came with the model; of exported models RAM\n')


def group_files(files: list[str]) -> list[Model]:
    """Groups the files of the command line into models.

    Raises:
        InputError: If the first file is not a config, a file is missing, or a config has two
            checkpoints.
    """
    models: list[Model] = []
    for file in files:
        suffix = Path(file).suffix
        if suffix == '.py':
            models.append(Model(file, load_config(file).input_size, None, {}))
        elif not models:
            raise InputError(f'{file}: give its config before it')
        elif not Path(file).is_file():
            raise InputError(f'file {Path(file).absolute()} does not exist')
        elif suffix in BACKEND_OF:
            models[-1].exported[BACKEND_OF[suffix]] = file
        elif models[-1].checkpoint:
            raise InputError(f'{file}: {models[-1].config} has a checkpoint already')
        else:
            models[-1] = models[-1]._replace(checkpoint=file)
    return models


def list_images(folder: str) -> list[str]:
    """Returns the paths of the first images of a folder.

    Raises:
        InputError: If the folder has no images.
    """
    images = list(islice(find_images([folder]), NUM_IMAGES))
    for error in (image for image in images if isinstance(image, InputError)):
        raise error
    return [str(image) for image in images]


def combinations(
    models: Sequence[Model],
    backends: Sequence[str],
    precisions: Sequence[str],
    input_sizes: Sequence[tuple[int, int]] | None,
    batch_sizes: Sequence[int],
    threads: Sequence[int | None],
) -> Iterator[dict[str, Any]]:
    """Yields the rows to measure.

    Each model is also measured with the backends of its own exported files. Without input sizes it
    is measured with that of its config.
    """
    for model in models:
        for backend, precision, input_hw, batch_size, num_threads in product(
            dict.fromkeys([*backends, *model.exported]),
            precisions,
            input_sizes or [(model.input_size, model.input_size)],
            batch_sizes,
            threads,
        ):
            yield dict(
                config=model.config,
                checkpoint=model.checkpoint,
                file=model.exported.get(backend),
                backend=backend,
                precision=precision,
                input_hw=input_hw,
                batch_size=batch_size,
                threads=num_threads,
            )


def cells(row: dict) -> list[str]:
    """Formats a row of the table."""
    size = 'x'.join(map(str, row['input_hw']))
    name = [Path(row['config']).stem, row['backend'], row['precision'], size]
    name += [str(row['batch_size']), str(row['threads'] or '-')]
    if 'error' in row:
        return [*name, 'failed']
    medians = {part: f'{times["median_ms"]:.1f}' for part, times in row['parts'].items()}
    inside = IN_GRAPH in medians
    return [
        *name,
        medians['pre-processing'],
        medians[IN_GRAPH if inside else 'forward'],
        '+' if inside else medians['NMS'],
        medians['fusion'],
        *(f'{row["total"][key]:.1f}' for key in ('median_ms', 'p95_ms')),
        f'{row["images_per_s"]:.2f}',
        f'{row["peak_bytes"] / 1e9:.3f}',
    ]


def export(
    config: str,
    checkpoint: str | None,
    backend: str,
    use: str,
    folder: str,
    images: Sequence[str] = (),
) -> dict[str, str]:
    """Exports a model into a folder, and returns the path of the file as ``file``.

    With images it is quantized to int8, and calibrated on them.
    """
    from kapao_mm.deploy.export import WRITERS, make_metadata  # need ONNX, which torch does not
    from kapao_mm.deploy.quantize import quantize

    name = EXPORTS[backend]
    model = build_model(config, checkpoint)
    metadata = make_metadata(load_config(config), model, use)
    prepare_for_inference(model)
    path = Path(tempfile.mkdtemp(dir=folder), f'model{FORMATS[name].suffix}')
    WRITERS[name](model, metadata, path)
    if images:
        source, path = path, path.with_stem('int8')
        quantize(source, path, [Path(image) for image in images])
    return dict(file=str(path))


@torch.no_grad()
def measure(row: dict[str, Any], options: Options) -> dict[str, Any]:
    """Measures a row of the table; that of an exported model has the path of its ``file``."""
    if row['threads']:
        torch.set_num_threads(row['threads'])
        cv2.setNumThreads(row['threads'])
    exported = row['backend'] in EXPORTS
    device = torch.device('cpu') if exported else timing.find_device()  # its memory is measured
    stream = cycle([pad_to_shape(read_image(Path(p)), row['input_hw']) for p in options.images])
    before = 0 if device.type == 'cuda' else timing.memory('VmRSS')
    if exported:
        predictor = exported_predictor(row, options.use)
    else:
        predictor = torch_predictor(row, options.use, options.people, device)

    def run(part: timing.Part) -> None:
        images = list(islice(stream, row['batch_size']))
        with part('pre-processing'):
            letterboxes = [letterbox(image.shape[1::-1], max(row['input_hw'])) for image in images]
            batch = np.stack(
                [resize_and_pad(*pair) for pair in zip(images, letterboxes, strict=True)]
            )
            inputs = predictor.prepare(batch)
        detections = predictor.detect(inputs, part)
        with part('fusion'):
            for found, lb in zip(detections, letterboxes, strict=True):
                predict_from_letterbox(found, lb, predictor.keypoint_counts, predictor.settings)

    seconds = timing.time_parts(run, options.runs, device)
    total = np.sum(list(seconds.values()), axis=0)
    return dict(
        parts={name: timing.summarize(values) for name, values in seconds.items()},
        total=timing.summarize(total),
        images_per_s=row['batch_size'] / float(np.median(total)),
        peak_bytes=timing.peak(device) - before,
    )


def pad_to_shape(image: np.ndarray, input_hw: tuple[int, int]) -> np.ndarray:
    """Pads an image (h, w, 3) so that :func:`letterbox` resizes it to exactly ``input_hw``."""
    height, width = image.shape[:2]
    long, short = max(input_hw), min(input_hw)
    across, along = (height, width) if input_hw[1] == long else (width, height)
    along = max(along, math.ceil(across * long / short))
    sides = (along * short // long, along)
    bottom, right = sides if input_hw[1] == long else sides[::-1]
    border = (PAD_VALUE,) * 3
    return cv2.copyMakeBorder(
        image, 0, bottom - height, 0, right - width, cv2.BORDER_CONSTANT, value=border
    )


def draw(rows: list[dict], title: str) -> Figure:
    """Plots the time of the parts by input size.

    There is a panel for each combination of config, backend, precision, batch size and threads.
    """
    panels: dict[tuple, list[dict]] = {}
    for row in rows:
        if 'error' not in row:
            names = ('config', 'backend', 'precision', 'batch_size', 'threads')
            key = tuple(row[name] for name in names)
            panels.setdefault(key, []).append(row)
    columns = min(4, len(panels)) or 1
    lines = math.ceil(len(panels) / columns) or 1
    figure = Figure(figsize=(max(7, 3 * columns), 1.5 + 3 * lines), layout='constrained')
    figure.suptitle(title)
    labels = {}
    for axes, ((config, backend, precision, batch, threads), found) in zip(
        figure.subplots(lines, columns, squeeze=False).flat, panels.items(), strict=False
    ):
        names = ['x\n'.join(map(str, row['input_hw'])) for row in found]
        bottom = np.zeros(len(found))
        for part in found[0]['parts']:
            heights = np.array([row['parts'][part]['median_ms'] for row in found])
            bars = axes.bar(names, heights, bottom=bottom, color=COLORS[part])
            labels[part] = bars
            bottom += heights
        axes.bar_label(bars, [f'{total:.1f}' for total in bottom], padding=2)
        limit = f', threads {threads}' if threads else ''
        axes.set_title(f'{Path(config).stem}\n{backend}, {precision}, batch {batch}{limit}')
        axes.set_ylabel('ms a batch, medians')
        axes.margins(y=0.15)
    figure.legend(labels.values(), labels, loc='outside lower center', ncols=len(labels) or 1)
    return figure
