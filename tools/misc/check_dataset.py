# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checks the datasets of a config before training, and writes statistics and plots.

Reports errors and suspicious entries. The exit code is 1 if there are errors.
"""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument(
        '--out-dir', type=Path, help='where plots and ids go [work_dirs/CONFIG/check_dataset]'
    )
    parser.add_argument(
        '--skip-images', action='store_true', help='do not read the images, which takes longest'
    )
    add_config_options(parser, 'data_root=DIR input_size=640')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from mmengine.config import Config
from mmpose.registry import DATASETS

from kapao_mm import register_all_modules
from kapao_mm.datasets import KeypointDataset
from kapao_mm.datasets.annotations.checks import (
    Finding,
    fatal_faults,
    find_entries,
    without_faulty,
)
from kapao_mm.datasets.annotations.object_sizes import find_small_objects
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.datasets.annotations.review import (
    Instances,
    box_sides,
    gather_instances,
    things_to_look_at,
)
from kapao_mm.datasets.transforms import CheckedLoadImage
from kapao_mm.utils.config import LOADERS, inner_datasets, load_config

COLORS = colormaps['tab20']
PERCENTILES = (5, 50, 95)
POINTS = 2000  # approximate maximum number of drawn keypoints of each type


def datasets_of(cfg: Config) -> Iterable[tuple[list[str], KeypointDataset]]:
    """Returns the datasets of a config, each once and not loaded, with their purposes.

    A purpose is 'train', 'val' or 'test', with a number if there are several datasets.

    Raises:
        InputError: If a dataset is not a KeypointDataset.
    """
    found = {}
    for loader in LOADERS:
        purpose = loader.removesuffix('_dataloader')
        inner = inner_datasets(cfg[loader].dataset) if cfg.get(loader) else ()
        for number, (config, _) in enumerate(inner, 1):
            if not issubclass(DATASETS.get(config['type']) or object, KeypointDataset):
                raise InputError(f'{loader}: the type of its dataset must be KeypointDataset')
            dataset = DATASETS.build({**config, 'pipeline': [], 'lazy_init': True})
            key = (dataset.ann_file, dataset.data_prefix['img'], dataset.metainfo['dataset_name'])
            name = purpose if number == 1 else f'{purpose}_{number}'
            found.setdefault(key, ([], dataset))[0].append(name)
    return found.values()


def check_images(images: list[dict], folder: str) -> list[Finding]:
    """Finds images that are missing, cannot be decoded or have another size than annotated.

    Images are fully decoded, because only this reveals truncated files and applies the EXIF
    orientation.
    """
    faults = dict(
        missing=(f'images missing in {folder}', 'copy them there, or correct file_name'),
        unreadable=('images that cannot be read', 'copy them anew'),
        size=(
            "images whose size is not their 'width' and 'height'",
            'correct these, or save images upright that are rotated by EXIF',
        ),
    )

    def look(image: dict) -> str | None:
        """Returns the error of an image, a key of ``faults``, or None."""
        path = Path(folder, image['file_name'])
        try:
            pixels = CheckedLoadImage().transform(dict(img_path=str(path)))['img']
        except InputError:
            return 'unreadable' if os.path.exists(path) else 'missing'  # Path.exists may raise
        return None if pixels.shape[:2] == (image['height'], image['width']) else 'size'

    print(f'  reading {len(images):,} images', flush=True)
    with ThreadPoolExecutor() as pool:
        ids = [image['id'] for image in images]
        found = dict(zip(ids, pool.map(look, images), strict=True))
    return [
        find_entries('images', images, *texts, lambda image, key=key: found[image['id']] == key)
        for key, texts in faults.items()
        if key in found.values()
    ]


def measure(
    metainfo: dict, instances: Instances, num_images: int, input_size: int
) -> dict[str, Any]:
    """Computes statistics of the annotations without crowd regions.

    Args:
        metainfo: Metainfo of the dataset.
        instances: The annotations.
        num_images: Number of images of the dataset.
        input_size: Longer side of the network input, px; box sizes are in px of the network input.
    """
    shown = ~instances.crowd
    labelled = (instances.visible > 0)[shown]  # (n, K)
    counts, categories = labelled.sum(1), instances.categories[shown]
    sides = box_sides(instances, input_size)
    per_image = np.bincount(instances.images[shown], minlength=num_images)
    rates = {}
    for index, category in enumerate(metainfo['categories']):
        people = labelled[(categories == index) & (counts > 0)]
        for number in category['keypoint_ids']:
            name = metainfo['keypoint_id2name'][number]
            rates[name] = float(people[:, number].mean()) if len(people) else 0.0
    return dict(
        images=num_images,
        annotations=len(instances.ids),
        crowd_regions=int(instances.crowd.sum()),
        without_keypoints=int((counts == 0).sum()),
        of_category={
            category['name']: int((categories == index).sum())
            for index, category in enumerate(metainfo['categories'])
        },
        input_size=input_size,
        percentiles=PERCENTILES,
        box_width=percentiles(sides[:, 0]),
        box_height=percentiles(sides[:, 1]),
        instances_per_image=[float(per_image.mean()), int(per_image.max(initial=0))],
        keypoints_per_instance=float(counts[counts > 0].mean()) if counts.any() else 0.0,
        label_rates=rates,
    )


def percentiles(values: np.ndarray) -> list[float]:
    """Returns the percentiles of n values; zeros without values."""
    return np.percentile(values, PERCENTILES).tolist() if len(values) else [0.0] * len(PERCENTILES)


def draw(title: str, metainfo: dict, instances: Instances, statistics: dict) -> Figure:
    """Plots box sizes, label rates, instances per image, and keypoint positions in the boxes."""
    categories = metainfo['categories']
    rows = 1 + (len(categories) + 2) // 2
    height = max(5 * rows, 0.25 * metainfo['num_keypoints'] * rows)
    figure = Figure(figsize=(13, height), layout='constrained')
    figure.suptitle(title)
    sizes, rates, people, *places = figure.subplots(rows, 2).flat

    draw_sizes(sizes, box_sides(instances, statistics['input_size']), statistics['input_size'])
    names = list(statistics['label_rates'])
    rates.barh(names, list(statistics['label_rates'].values()))
    rates.set(title='label rate (of instances with keypoints)', xlim=(0, 1))
    rates.invert_yaxis()
    per_image = np.bincount(instances.images[~instances.crowd], minlength=statistics['images'])
    people.hist(per_image, bins=np.arange(per_image.max(initial=0) + 2) - 0.5)
    people.set(title='instances per image', ylabel='images')
    for axis in (people.xaxis, people.yaxis):
        axis.get_major_locator().set_params(integer=True)
    for index, category in enumerate(categories):
        draw_places(places[index], metainfo, category, instances)
    for unused in places[len(categories) :]:
        unused.remove()
    return figure


def draw_sizes(axes: Axes, sides: np.ndarray, input_size: int) -> None:
    """Plots a histogram of box widths and heights, (n, 2) px of the network input."""
    axes.set(title=f'boxes in an input of {input_size} px', xlabel='width', ylabel='height')
    if len(sides):
        bins = np.geomspace(max(1, sides.min()), input_size + 1, 60)
        axes.hist2d(*sides.clip(1).T, bins=[bins, bins], norm=LogNorm(), cmin=1)
        axes.set(xscale='log', yscale='log')
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(2))
            axis.set_major_formatter('{x:g}')
            axis.set_minor_locator(NullLocator())


def draw_places(axes: Axes, metainfo: dict, category: dict, instances: Instances) -> None:
    """Plots the keypoints of a category relative to their boxes, and the median of each type."""
    axes.set(title=f'keypoints in the box: {category["name"]}', xlim=(-0.2, 1.2), ylim=(1.2, -0.2))
    axes.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color='k', linewidth=1)
    sides = instances.boxes[:, 2:] - instances.boxes[:, :2]
    sound = (sides > 0).all(1) & ~instances.crowd
    with np.errstate(divide='ignore', invalid='ignore'):
        points = (instances.keypoints - instances.boxes[:, None, :2]) / sides[:, None]
    for place, number in enumerate(category['keypoint_ids']):
        own = points[sound & (instances.visible[:, number] > 0), number]  # (n, 2)
        if len(own):
            color = COLORS(place % COLORS.N)
            axes.scatter(*own[:: 1 + len(own) // POINTS].T, s=4, color=color, alpha=0.5)
            name = metainfo['keypoint_id2name'][number].removeprefix(f'{category["name"]}/')
            axes.scatter(*np.median(own, 0), s=80, color=color, edgecolor='k', zorder=2, label=name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=8, title='medians')


def check(
    names: list[str], dataset: KeypointDataset, args: argparse.Namespace, cfg: Config
) -> dict:
    """Checks a dataset, prints and plots the results, and returns them for the report."""
    metainfo, folder = dataset.metainfo, dataset.data_prefix['img']
    report = dict(annotation_file=dataset.ann_file, image_folder=folder)
    title = f'{", ".join(names)}: {dataset.ann_file}'
    print(f'\n{title}')
    try:
        annotations = read_annotations(dataset.ann_file, say=print_wrapped)
        faults = fatal_faults(annotations, metainfo, dataset.test_mode)
    except InputError as error:
        remedy = 'mend it, or point at another with --cfg-options data_root=DIR'
        faults = [Finding('file', str(error), remedy)]
    if any(fault.kind == 'file' for fault in faults):
        print_findings('faults', faults)
        return report | dict(faults=as_json(faults))

    counts = (f'{len(annotations.get(key, []))} {key}' for key in ('images', 'annotations'))
    print(f'  {", ".join(counts)}')
    sound = without_faulty(annotations, faults)
    if not args.skip_images:
        faults += check_images(sound['images'], folder)
    print_findings('faults', faults)
    if not sound['images']:
        return report | dict(faults=as_json(faults))

    instances = gather_instances(sound, metainfo)
    to_look_at = things_to_look_at(sound, metainfo, instances)
    to_look_at += find_small_objects(instances, cfg.input_size, cfg.model.head)
    statistics = measure(metainfo, instances, len(sound['images']), cfg.input_size)
    plot = args.out_dir / f'{"_".join(names)}.png'
    with rc_context({'text.parse_math': False}), atomic_path(plot) as temporary:  # $ in names
        draw(title, metainfo, instances, statistics).savefig(temporary)
    print_findings(f'worth a look{" in the rest" if faults else ""}', to_look_at)
    print_statistics(statistics)
    print(f'  plots: {plot}')
    return report | dict(
        faults=as_json(faults), worth_a_look=as_json(to_look_at), statistics=statistics
    )


def print_statistics(statistics: dict) -> None:
    """Prints counts, box sizes and label rates."""
    n, empty, crowd = (statistics[k] for k in ('annotations', 'without_keypoints', 'crowd_regions'))
    people = n - empty - crowd
    print('  statistics of what has no faults:')
    print_wrapped(
        f'annotations: {people} with labelled keypoints, {empty} without, {crowd} crowd regions'
    )
    if len(statistics['of_category']) > 1:
        print_wrapped(', '.join(f'{k} {n}' for k, n in statistics['of_category'].items()))
    sides = (
        f'{side} {" / ".join(f"{value:.0f}" for value in statistics[f"box_{side}"])}'
        for side in ('width', 'height')
    )
    shares = ' / '.join(f'{p} %' for p in PERCENTILES)
    print_wrapped(f'boxes ({shares} are below), input px: {", ".join(sides)}')
    mean, most = statistics['instances_per_image']
    print_wrapped(
        f'an image has {mean:.1f} instances (at most {most}); an instance with keypoints has '
        f'{statistics["keypoints_per_instance"]:.1f} of them'
    )
    rates = (f'{name} {rate:.0%}' for name, rate in statistics['label_rates'].items())
    print_wrapped(f'label rates: {", ".join(rates)}')


def print_findings(title: str, findings: list[Finding]) -> None:
    """Prints findings with their first few ids."""
    print(f'  {title}:{"" if findings else " none"}')
    for finding in findings:
        ids = f': {len(finding.ids)} ({finding.first_ids()})' if finding.ids else ''
        print_wrapped(f'{finding.what}{ids}; {finding.remedy}')


def print_wrapped(text: str) -> None:
    """Prints a wrapped paragraph, without breaks inside paths and names."""
    print(
        textwrap.fill(
            text,
            width=100,
            initial_indent=' ' * 4,
            subsequent_indent=' ' * 6,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def as_json(findings: list[Finding]) -> list[dict]:
    """Converts findings with all their ids to dicts."""
    return [dict(what=f.what, remedy=f.remedy, ids=list(f.ids)) for f in findings]


def main() -> None:
    """Checks each dataset, writes the report, and prints the next step."""
    args = parse_args()
    args.out_dir = args.out_dir or Path('work_dirs', args.config.stem, 'check_dataset')
    register_all_modules()
    cfg = load_config(args.config, args.cfg_options)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    reports = {
        '_'.join(names): check(names, dataset, args, cfg) for names, dataset in datasets_of(cfg)
    }
    ids = args.out_dir / 'report.json'
    with atomic_path(ids) as temporary:
        temporary.write_text(json.dumps(reports, indent=1))
    print(f'\nall ids: {ids}')
    if any(report['faults'] for report in reports.values()):
        print('Next: mend the faults, and check again.')
        sys.exit(1)
    print(f'Next: kapao browse-dataset {args.config}, then kapao train {args.config}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
