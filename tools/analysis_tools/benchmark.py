# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the time (median and 95th percentile) and memory of inference, part by part.

Each row of the table is one combination of model, backend, precision, input size and batch size,
measured in a separate process. Without --images, synthetic images of people are drawn. Images are
padded so that they fill the input size after resizing.

Without a checkpoint the weights are random and their detections are meaningless. NMS in torch and
fusion then run on synthetic crowds. An exported model contains its NMS.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, NamedTuple

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import PRECISIONS, exit_on_input_error, input_shape, positive

SUFFIXES = {'onnxruntime': '.onnx', 'openvino': '.xml', 'torchscript': '.pt'}
BACKEND_OF = {suffix: backend for backend, suffix in SUFFIXES.items()}
PICTURES = 32  # maximum number of images


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'files',
        nargs='+',
        metavar='FILE',
        help='config files, each followed by what belongs to it: a checkpoint (.pth), exported '
        f'models ({", ".join(BACKEND_OF)}) that are measured instead of being made here',
    )
    parser.add_argument(
        '--input-sizes',
        nargs='+',
        type=input_shape,
        help="px, as 1280 for a square, or 896x1280 (h x w) [the config's, a square]",
    )
    parser.add_argument('--batch-sizes', nargs='+', type=positive, default=[1], help='[1]')
    parser.add_argument(
        '--precisions', nargs='+', choices=PRECISIONS, default=['float32'], help='[float32]'
    )
    parser.add_argument(
        '--backends',
        nargs='+',
        choices=['torch', 'torch-compile', *SUFFIXES],
        default=['torch'],
        help='[torch]',
    )
    parser.add_argument('--images', help=f'a folder, of which the first {PICTURES} are taken')
    parser.add_argument(
        '--people', type=positive, default=10, help='in an image of a synthetic crowd [%(default)s]'
    )
    parser.add_argument(
        '--use',
        choices=['evaluation', 'pictures'],
        default='evaluation',
        help='whose thresholds apply [%(default)s]',
    )
    parser.add_argument('--runs', type=positive, default=20, help='measured runs [%(default)s]')
    parser.add_argument('--threads', type=positive, help="of the CPU [each library's choice]")
    parser.add_argument(
        '--out', type=Path, help='write figures here (.json), and a plot (.png) of input sizes'
    )
    parser.add_argument('--job', type=json.loads, help=argparse.SUPPRESS)  # job of a subprocess
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor

from kapao_mm import register_all_modules
from kapao_mm.analysis.synthetic_crowd import confident, make_crowds
from kapao_mm.analysis.timing import (
    Part,
    describe_machine,
    find_device,
    memory,
    peak,
    run_alone,
    summarise,
    time_parts,
    write_report,
)
from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.deploy.metadata import ModelMetadata
from kapao_mm.deploy.runtime import BACKENDS, Network, split_by_image
from kapao_mm.engine import load_weights
from kapao_mm.functional.letterbox import PAD_VALUE, letterbox, resize_and_pad
from kapao_mm.functional.prediction import DetectedObjects, predict_from_letterbox
from kapao_mm.models.kapao import KAPAO
from kapao_mm.models.task_modules.candidates import decode_candidates
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.utils.config import load_config
from kapao_mm.utils.image_files import find_images, read_image

IN_GRAPH = 'forward + NMS'  # part of an exported model
COLOURS = {'pre-processing': 'C0', 'forward': 'C1', IN_GRAPH: 'C4', 'NMS': 'C2', 'fusion': 'C3'}


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


class Predictor(NamedTuple):
    """The steps of a backend between letterbox and fusion.

    Attributes:
        prepare: Function that finishes the pre-processing of a batch (N, H, W, 3) uint8.
        detect: Function that returns the objects of each image, and times its parts.
        settings: Inference settings for fusion.
        keypoint_counts: Number of keypoint types of each category.
    """

    prepare: Callable[[np.ndarray], Any]
    detect: Callable[[Any, Part], list[DetectedObjects]]
    settings: Mapping[str, float]
    keypoint_counts: list[int]


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


def build_model(config: str, checkpoint: str | None) -> KAPAO:
    """Builds a model, with random weights if there is no checkpoint."""
    model = MODELS.build(load_config(config).model)
    if checkpoint:
        load_weights(model, checkpoint)
    else:
        model.init_weights()
    return model


def torch_predictor(job: dict, args: argparse.Namespace, device: torch.device) -> Predictor:
    """Returns the steps of a model in torch; without a checkpoint they find synthetic crowds."""
    model = build_model(job['config'], job['checkpoint'])
    prepare_for_inference(model, job['precision'], job['backend'] == 'torch-compile')
    model.to(device)
    head, settings = model.head, model.settings[args.use]
    score_thr = min(settings['pose_score_thr'], settings['keypoint_score_thr'])
    crowds = None
    if not job['checkpoint']:
        crowds = make_crowds(args.people, job['batch_size'], head.keypoint_counts, job['input_hw'])
        crowds = confident(crowds, settings, device)

    def prepare(batch: np.ndarray) -> Tensor:
        inputs = list(torch.from_numpy(batch).permute(0, 3, 1, 2))
        samples = [PoseDataSample() for _ in inputs]
        return model.data_preprocessor(dict(inputs=inputs, data_samples=samples))['inputs']

    def detect(inputs: Tensor, part: Part) -> list[DetectedObjects]:
        with part('forward'):
            grids = head(model.extract_feat(inputs))
        if crowds:
            make_confident(grids, len(crowds.scores))
        with part('NMS'):
            candidates = decode_candidates(
                grids, head.anchors, head.strides, head.num_keypoints, score_thr
            )
            return head.detect(crowds or candidates, len(inputs), settings)

    return Predictor(prepare, detect, settings, head.keypoint_counts)


def make_confident(grids: list[Tensor], count: int) -> None:
    """Makes ``count`` outputs of the finest grid confident and all others not, in place."""
    for grid in grids:
        grid[..., 4] = -20.0  # objectness, before the sigmoid
    places = torch.randperm(grids[0][..., 0].numel(), device=grids[0].device)[:count]
    index = np.unravel_index(places.cpu().numpy(), grids[0].shape[:4])
    grids[0][(*index, slice(4, 6))] = 20.0  # objectness and the first class


def exported_predictor(job: dict, args: argparse.Namespace) -> Predictor:
    """Returns the steps of an exported model.

    Raises:
        InputError: If the backend is not installed or does not support the precision, or the file
            was exported with the thresholds for another use.
    """
    path = Path(job['file'])
    load = BACKENDS.get(path.suffix, load_torchscript)
    text, network = load(path, job['precision'], args.threads)
    metadata = ModelMetadata.from_json(text, str(path))
    if metadata.use != args.use:
        raise InputError(f'{path} was exported for {metadata.use}; give --use {metadata.use}')

    def detect(batch: np.ndarray, part: Part) -> list[DetectedObjects]:
        with part(IN_GRAPH):
            return split_by_image(network(batch), len(batch))

    return Predictor(np.asarray, detect, metadata.settings, metadata.keypoint_counts)


def load_torchscript(path: Path, precision: str, threads: int | None) -> tuple[str, Network]:
    """Reads a TorchScript file, with the same interface as the loaders in ``BACKENDS``.

    ``threads`` is not used; torch has a global setting.

    Raises:
        InputError: If the precision is not float32.
    """
    if precision != 'float32':
        raise InputError(f'torchscript has float32 only, not {precision}')
    from kapao_mm.deploy.export import open_torchscript  # needs ONNX, see export

    return open_torchscript(path)


def export(args: argparse.Namespace) -> dict[str, str]:
    """Exports a model in a subprocess, and returns the path of the file as ``file``."""
    from kapao_mm.deploy import export  # needs ONNX, which rows in torch do not

    write = dict(
        onnxruntime=export.write_onnx,
        openvino=export.write_openvino,
        torchscript=export.write_torchscript,
    )
    job = args.job
    model = build_model(job['config'], job['checkpoint'])
    metadata = export.make_metadata(load_config(job['config']), model, args.use)
    prepare_for_inference(model)
    path = Path(tempfile.mkdtemp(dir=job['folder']), f'model{SUFFIXES[job["backend"]]}')
    write[job['backend']](model, metadata, path)
    return dict(file=str(path))


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures one row of the table in a subprocess."""
    job = args.job
    exported = job['backend'] in SUFFIXES
    device = torch.device('cpu') if exported else find_device()  # its memory is measured
    stream = cycle([pad_to_shape(read_image(Path(p)), job['input_hw']) for p in job['images']])
    before = 0 if device.type == 'cuda' else memory('VmRSS')
    predictor = exported_predictor(job, args) if exported else torch_predictor(job, args, device)

    def run(part: Part) -> None:
        images = list(islice(stream, job['batch_size']))
        with part('pre-processing'):
            boxes = [letterbox(image.shape[1::-1], max(job['input_hw'])) for image in images]
            batch = np.stack([resize_and_pad(*pair) for pair in zip(images, boxes, strict=True)])
            inputs = predictor.prepare(batch)
        objects = predictor.detect(inputs, part)
        with part('fusion'):
            for found, box in zip(objects, boxes, strict=True):
                predict_from_letterbox(found, box, predictor.keypoint_counts, predictor.settings)

    seconds = time_parts(run, args.runs, device)
    total = np.sum(list(seconds.values()), axis=0)
    return dict(
        parts={name: summarise(values) for name, values in seconds.items()},
        total=summarise(total),
        images_per_s=job['batch_size'] / float(np.median(total)),
        peak_bytes=peak(device) - before,
    )


def list_images(folder: str) -> list[str]:
    """Returns the paths of the first images of a folder.

    Raises:
        InputError: If the folder has no images.
    """
    images = list(islice(find_images([folder]), PICTURES))
    for error in (image for image in images if isinstance(image, InputError)):
        raise error
    return [str(image) for image in images]


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


def measure_models(
    models: list[Model], args: argparse.Namespace, images: list[str], folder: str
) -> list[dict]:
    """Measures and prints all rows; exported files are written to ``folder``."""
    rows = []
    for model in models:
        exported = {backend: dict(file=file) for backend, file in model.exported.items()}
        for backend, precision, input_hw, batch_size in product(
            dict.fromkeys([*args.backends, *exported]),
            args.precisions,
            args.input_sizes or [(model.input_size, model.input_size)],
            args.batch_sizes,
        ):
            row = dict(
                config=model.config,
                checkpoint=model.checkpoint,
                file=model.exported.get(backend),
                backend=backend,
                precision=precision,
                input_hw=input_hw,
                batch_size=batch_size,
            )
            if backend in SUFFIXES and backend not in exported:
                exported[backend] = run_alone(__file__, row | dict(folder=folder))
            found = exported.get(backend, {})
            if 'error' not in found:
                found = run_alone(__file__, row | found | dict(images=images))
            rows.append(row | found)
            print(format_row(rows[-1]), flush=True)
    return rows


HEADER = (
    f'{"config":<20}{"backend":<15}{"precision":<10}{"input":>10}{"batch":>6}{"prepare":>9}'
    f'{"forward":>9}{"NMS":>7}{"fusion":>8}{"total":>9}{"p95":>9}{"images/s":>10}{"peak GB":>9}'
)


def format_row(row: dict) -> str:
    """Formats a row of the table."""
    height, width = row['input_hw']
    line = f'{Path(row["config"]).stem:<20}{row["backend"]:<15}{row["precision"]:<10}'
    line += f'{f"{height}x{width}":>10}{row["batch_size"]:>6}'
    if 'error' in row:
        return f'{line}  {row["error"]}'
    medians = {name: part['median_ms'] for name, part in row['parts'].items()}
    inside = IN_GRAPH in medians
    line += f'{medians["pre-processing"]:>9.1f}{medians[IN_GRAPH if inside else "forward"]:>9.1f}'
    line += f'{"+":>7}' if inside else f'{medians["NMS"]:>7.1f}'
    line += f'{medians["fusion"]:>8.1f}{row["total"]["median_ms"]:>9.1f}'
    line += f'{row["total"]["p95_ms"]:>9.1f}{row["images_per_s"]:>10.2f}'
    return f'{line}{row["peak_bytes"] / 1e9:>9.3f}'


def draw(rows: list[dict], title: str) -> Figure:
    """Plots the time of the parts by input size.

    There is a panel for each combination of config, backend, precision and batch size.
    """
    panels: dict[tuple, list[dict]] = {}
    for row in rows:
        if 'error' not in row:
            key = (row['config'], row['backend'], row['precision'], row['batch_size'])
            panels.setdefault(key, []).append(row)
    columns = min(4, len(panels)) or 1
    lines = math.ceil(len(panels) / columns) or 1
    figure = Figure(figsize=(max(7, 3 * columns), 1.5 + 3 * lines), layout='constrained')
    figure.suptitle(title)
    labels = {}
    for axes, ((config, backend, precision, batch), found) in zip(
        figure.subplots(lines, columns, squeeze=False).flat, panels.items(), strict=False
    ):
        names = ['x\n'.join(map(str, row['input_hw'])) for row in found]
        bottom = np.zeros(len(found))
        for part in found[0]['parts']:
            heights = np.array([row['parts'][part]['median_ms'] for row in found])
            bars = axes.bar(names, heights, bottom=bottom, color=COLOURS[part])
            labels[part] = bars
            bottom += heights
        axes.bar_label(bars, [f'{total:.1f}' for total in bottom], padding=2)
        axes.set_title(f'{Path(config).stem}\n{backend}, {precision}, batch {batch}')
        axes.set_ylabel('ms a batch, medians')
        axes.margins(y=0.15)
    figure.legend(labels.values(), labels, loc='outside lower center', ncols=len(labels) or 1)
    return figure


def main() -> None:
    """Measures and prints all rows, or runs the job of a subprocess."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
        cv2.setNumThreads(args.threads)
    if args.job:
        register_all_modules()
        print(json.dumps((export if 'folder' in args.job else measure)(args)))
        return
    if args.out:
        check_writable(args.out, ['.json'])
    models = group_files(args.files)
    machine = describe_machine('numpy', 'cv2', 'torchvision', 'mmpose', 'onnxruntime', 'openvino')
    with tempfile.TemporaryDirectory() as folder:
        if not args.images:
            make_toy_dataset(folder, 'crowd', num_train=PICTURES, num_val=1)
        images = list_images(args.images or f'{folder}/train2017')
        print(f'\n{machine}')
        print(f'{len(images)} pictures, thresholds for {args.use}')
        if not all(model.checkpoint for model in models):
            print(
                f'no checkpoint: random weights; NMS and fusion of {args.people} synthetic people'
            )
        print(
            f'ms a batch: medians of {args.runs} runs, and p95; NMS +: in the graph, with forward'
        )
        memory_kind = 'GPU memory' if torch.cuda.is_available() else 'RAM'
        print(f'peak: {memory_kind} that came with the model; of exported models RAM\n\n{HEADER}')
        rows = measure_models(models, args, images, folder)
    if args.out:
        settings = {key: getattr(args, key) for key in ('use', 'runs', 'people')}
        write_report(dict(machine=machine, **settings, rows=rows), args.out)
        if len({tuple(row['input_hw']) for row in rows}) > 1:
            picture = args.out.with_suffix('.png')
            figure = draw(rows, machine.partition(';')[0])
            with atomic_path(picture) as temporary:
                figure.savefig(temporary)
            print(f'plot: {picture}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
