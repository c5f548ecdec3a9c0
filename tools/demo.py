# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts poses in images: tools/demo.py IMAGE... --config CONFIG --checkpoint CHECKPOINT."""

import argparse
import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import mmcv
import mmengine
import torch

from kapao_mm.apis import KAPAOInferencer
from kapao_mm.configuration import add_config_options, load_config
from kapao_mm.errors import InputError, exit_on_input_error

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Predict poses in images: a picture and a JSON file for each'
    )
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='images, folders or patterns')
    parser.add_argument('--config', required=True, help='config file')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file')
    parser.add_argument(
        '--out-dir', default='outputs/demo', help='where pictures and JSON go [%(default)s]'
    )
    parser.add_argument('--device', help='cpu, cuda:0 ... [a GPU if there is one]')
    parser.add_argument(
        '--objects', action='store_true', help='draw pose objects and keypoint objects as well'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        help="least score of a pose [the config's model.test_cfg.pictures.pose_score_thr]",
    )
    add_config_options(parser, 'input_size=640 model.test_cfg.pictures.keypoint_score_thr=0.3')
    return parser.parse_args()


def find_images(given: list[str]) -> Iterator[Path | InputError]:
    """The images of files, folders and patterns; an error stands for one that names none."""
    for name in given:
        path = Path(name)
        if path.is_dir():
            fault = f'folder {path.absolute()} has no images ({" ".join(IMAGE_SUFFIXES)})'
            yield from _only_images(path.iterdir()) or [InputError(fault)]
        elif path.exists():
            yield path
        else:
            fault = f'image {path.absolute()} does not exist'
            yield from _only_images(map(Path, glob.glob(name, recursive=True))) or [
                InputError(fault)
            ]


def _only_images(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)


def name_outputs(images: list[Path]) -> dict[str, Path]:
    """Images by their name without suffix, numbered where another has the same."""
    named: dict[str, Path] = {}
    for image in images:
        name, number = image.stem, 1
        while name in named:
            number += 1
            name = f'{image.stem}_{number}'
        named[name] = image
    return named


def build_inferencer(args: argparse.Namespace) -> KAPAOInferencer:
    """The inferencer that the command line asks for."""
    options = dict(args.cfg_options)
    if args.score_thr is not None:
        if not 0 <= args.score_thr <= 1:
            raise InputError(f'--score-thr {args.score_thr} is not between 0 and 1')
        options['model.test_cfg.pictures.pose_score_thr'] = args.score_thr
    if args.device:
        try:
            torch.empty(1, device=args.device)
        except (AssertionError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f'--device {args.device} cannot be used: {reason}') from error
    cfg = load_config(args.config, options)
    inferencer = KAPAOInferencer(cfg, args.checkpoint, device=args.device)
    inferencer.visualizer.draw_objects = args.objects
    return inferencer


def predict(inferencer: KAPAOInferencer, image: Path, output: Path) -> str:
    """Writes the picture and the JSON of an image; returns what was found and where it is."""
    result = next(inferencer([str(image)], return_vis=True, draw_bbox=True))
    prediction, picture = result['predictions'][0], result['visualization'][0]
    mmengine.dump(prediction, f'{output}.json')
    mmcv.imwrite(mmcv.rgb2bgr(picture), f'{output}.jpg')
    fused = sum(sum(pose['fused']) for pose in prediction['poses'])
    return (
        f'{image}: {len(prediction["poses"])} poses, '
        f'{len(prediction["keypoint_objects"])} keypoint objects, {fused} fused -> {output}.jpg'
    )


def main() -> None:
    """Predicts image by image; one that cannot be read does not stop the others."""
    args = parse_args()
    out_dir = Path(args.out_dir)
    found = list(dict.fromkeys(find_images(args.images)))
    images = [item for item in found if isinstance(item, Path)]
    errors = [item for item in found if isinstance(item, InputError)]
    for error in errors:
        print(f'error: {error}', file=sys.stderr)
    if out_dir.resolve() in {image.resolve().parent for image in images}:
        raise InputError(f'--out-dir {out_dir} is where images come from, and would overwrite them')
    if not images:
        sys.exit(1)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'--out-dir {out_dir} cannot be made: {error.strerror}') from error
    inferencer = build_inferencer(args)
    for name, image in name_outputs(images).items():
        try:
            print(predict(inferencer, image, out_dir / name), flush=True)
        except InputError as error:
            print(f'error: {error}', file=sys.stderr)
            errors.append(error)
    print(f'pictures and JSON are in {out_dir.absolute()}')
    if errors:
        sys.exit(1)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
