# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checks the datasets of a config before training, and writes statistics and plots.

Reports errors and suspicious entries. The exit code is 1 if there are errors.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_folder
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

from mmengine.config import Config
from mmpose.registry import DATASETS
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from kapao_mm import register_all_modules
from kapao_mm.analysis.figures import write_dataset_figure
from kapao_mm.datasets import KeypointDataset
from kapao_mm.datasets.annotations.checks import (
    categories_by_id,
    fatal_faults,
    without_faulty,
)
from kapao_mm.datasets.annotations.image_sizes import find_image_faults
from kapao_mm.datasets.annotations.instances import gather_instances
from kapao_mm.datasets.annotations.issues import AnnotationIssue, tell
from kapao_mm.datasets.annotations.keypoint_names import order_keypoints
from kapao_mm.datasets.annotations.object_sizes import find_small_objects
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.datasets.annotations.review import review
from kapao_mm.datasets.annotations.statistics import PERCENTILES, compute_statistics
from kapao_mm.utils.config import LOADERS, inner_datasets, load_config

WIDTH = 200  # of tables, also if the output is not a terminal


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


def check(
    names: list[str], dataset: KeypointDataset, args: argparse.Namespace, cfg: Config
) -> dict[str, Any]:
    """Checks a dataset, prints and plots the results, and returns them for the report."""
    folder, title = dataset.data_prefix['img'], f'{", ".join(names)}: {dataset.ann_file}'
    print(f'\n{title}')
    content, faults = read_and_check(dataset)
    if content and not args.skip_images:
        print(f'  reading {len(content["images"]):,} images', flush=True)
        faults += find_image_faults(content['images'], folder)
    print_issues('faults', faults)
    report = dict(
        annotation_file=dataset.ann_file, image_folder=folder, faults=list(map(as_json, faults))
    )
    if not content or not content['images']:
        return report

    metainfo, instances = dataset.metainfo, gather_instances(content, dataset.metainfo)
    suspicious = review(content, metainfo, instances)
    suspicious += find_small_objects(instances, cfg.input_size, cfg.model.head)
    statistics = compute_statistics(metainfo, instances, len(content['images']), cfg.input_size)
    plot = args.out_dir / f'{"_".join(names)}.png'
    write_dataset_figure(plot, title, metainfo, instances, statistics)
    print_issues(f'worth a look{" in the rest" if faults else ""}', suspicious)
    print_statistics(statistics)
    print(f'  plots: {plot}')
    return report | dict(worth_a_look=list(map(as_json, suspicious)), statistics=statistics)


def read_and_check(dataset: KeypointDataset) -> tuple[dict | None, list[AnnotationIssue]]:
    """Reads an annotation file, and prints how much it contains.

    Returns:
        The content without faulty entries, or None if the whole file is faulty, and its errors.
    """

    def say(line: str) -> None:
        print(f'  {line}')

    try:
        content = read_annotations(
            dataset.ann_file,
            say=say,
            images=dataset.data_prefix['img'],
        )
    except InputError as error:
        remedy = 'correct it, or give another one with --cfg-options data_root=DIR'
        return None, [AnnotationIssue('file', str(error), remedy)]
    faults = fatal_faults(content, dataset.metainfo, dataset.test_mode)
    if any(fault.kind == 'file' for fault in faults):
        return None, faults
    counts = (f'{len(content.get(key, []))} {key}' for key in ('images', 'annotations'))
    print(f'  {", ".join(counts)}')
    content = without_faulty(content, faults)
    known = categories_by_id(content, dataset.metainfo)
    tell(dataset.ann_file, order_keypoints(content, dataset.metainfo, known), say)
    return content, faults


def print_statistics(statistics: dict[str, Any]) -> None:
    """Prints counts, and tables of box sizes and label rates."""
    keys = ('annotations', 'without_keypoints', 'crowd_regions', 'only_boxes')
    n, empty, crowd, boxes = (statistics[key] for key in keys)
    mean, most = statistics['instances_per_image']
    print(
        '  statistics of the entries without faults:\n'
        f'    annotations: {n - empty - crowd - boxes} with labeled keypoints, {empty} without, '
        f'{crowd} crowd regions' + (f', {boxes} of categories without keypoints' if boxes else '')
    )
    if len(statistics['of_category']) > 1:
        print(f'    {", ".join(f"{k} {n}" for k, n in statistics["of_category"].items())}')
    print(
        f'    {mean:.1f} instances per image (at most {most}), '
        f'{statistics["keypoints_per_instance"]:.1f} keypoints per instance that has any'
    )
    sizes = {
        f'box {side}, input px': [f'{value:.0f}' for value in statistics[f'box_{side}']]
        for side in ('width', 'height')
    }
    print_table(['percentile', *map(str, PERCENTILES)], sizes)
    rates = {name: [f'{rate:.0%}'] for name, rate in statistics['label_rates'].items()}
    print_table(['keypoint', 'labeled'], rates)


def print_table(header: list[str], rows: dict[str, list[str]]) -> None:
    """Prints a table whose rows have names."""
    table = Table(box=None, pad_edge=False)
    for i, title in enumerate(header):
        table.add_column(title, justify='right' if i else 'left', no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = Console(width=WIDTH, markup=False, highlight=False, emoji=False)
    console.print(Padding.indent(table, 4))


def print_issues(title: str, issues: list[AnnotationIssue]) -> None:
    """Prints issues with their first few ids."""
    print(f'  {title}:{"" if issues else " none"}')
    for issue in issues:
        print(f'    {issue.counted()}')


def as_json(issue: AnnotationIssue) -> dict:
    """Converts an issue with all its ids to a dict."""
    return dict(what=issue.what, remedy=issue.remedy, ids=list(issue.ids))


def main() -> None:
    """Checks each dataset, writes the report, and prints the next step."""
    args = parse_args()
    args.out_dir = args.out_dir or Path('work_dirs', args.config.stem, 'check_dataset')
    register_all_modules()
    cfg = load_config(args.config, args.cfg_options)
    check_folder(args.out_dir)
    reports = {
        '_'.join(names): check(names, dataset, args, cfg) for names, dataset in datasets_of(cfg)
    }
    path = args.out_dir / 'report.json'
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(reports, indent=1))
    print(f'\nall ids: {path}')
    if any(report['faults'] for report in reports.values()):
        print('Next: correct the faults, and check again.')
        sys.exit(1)
    print(f'Next: kapao browse-dataset {args.config}, then kapao train {args.config}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
