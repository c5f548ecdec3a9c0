# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws the figures of the tools."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from kapao_mm.datasets.annotations.instances import Instances, box_sides
from kapao_mm.datasets.annotations.statistics import instances_per_image
from kapao_mm.utils.atomic_file import atomic_path

COLORS = colormaps['tab20']
POINTS = 2000  # approximate maximum number of drawn keypoints of each type


def write_dataset_figure(
    path: Path, title: str, metainfo: dict, instances: Instances, statistics: dict
) -> None:
    """Plots box sizes, label rates, instances per image, and keypoint positions in the boxes.

    Args:
        path: File to write; its suffix is the format.
        title: Title of the figure.
        metainfo: Metainfo of the dataset.
        instances: The annotations.
        statistics: Their statistics, see :func:`compute_statistics`.

    Raises:
        InputError: If the file cannot be written.
    """
    with rc_context({'text.parse_math': False}), atomic_path(path) as temporary:  # $ in names
        figure = _draw_dataset(metainfo, instances, statistics)
        figure.suptitle(title)
        figure.savefig(temporary)


def _draw_dataset(metainfo: dict, instances: Instances, statistics: dict) -> Figure:
    categories = [entry for entry in metainfo['categories'] if entry['keypoint_ids']]
    rows = 1 + (len(categories) + 2) // 2
    height = max(5 * rows, 0.25 * metainfo['num_keypoints'] * rows)
    figure = Figure(figsize=(13, height), layout='constrained')
    sizes, rates, counts, *positions = figure.subplots(rows, 2).flat
    _draw_sizes(sizes, box_sides(instances, statistics['input_size']), statistics['input_size'])
    _draw_rates(rates, statistics['label_rates'])
    _draw_counts(counts, instances_per_image(instances, statistics['images']))
    for axes, category in zip(positions, categories, strict=False):
        _draw_positions(axes, metainfo, category, instances)
    for unused in positions[len(categories) :]:
        unused.remove()
    return figure


def _draw_sizes(axes: Axes, sides: np.ndarray, input_size: int) -> None:
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


def _draw_rates(axes: Axes, rates: dict[str, float]) -> None:
    """Plots how often each keypoint type is labeled."""
    axes.barh(list(rates), list(rates.values()))
    axes.set(title='label rate (of instances with keypoints)', xlim=(0, 1))
    axes.invert_yaxis()


def _draw_counts(axes: Axes, per_image: np.ndarray) -> None:
    """Plots a histogram of the number of instances of each image, (n,) int."""
    axes.hist(per_image, bins=np.arange(per_image.max(initial=0) + 2) - 0.5)
    axes.set(title='instances per image', ylabel='images')
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)


def _draw_positions(axes: Axes, metainfo: dict, category: dict, instances: Instances) -> None:
    """Plots the keypoints of a category relative to their boxes, and the median of each type."""
    axes.set(title=f'keypoints in the box: {category["name"]}', xlim=(-0.2, 1.2), ylim=(1.2, -0.2))
    axes.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color='k', linewidth=1)
    sides = instances.boxes[:, 2:] - instances.boxes[:, :2]
    valid = (sides > 0).all(1) & ~instances.crowd
    with np.errstate(divide='ignore', invalid='ignore'):
        relative = (instances.keypoints - instances.boxes[:, None, :2]) / sides[:, None]
    for i, number in enumerate(category['keypoint_ids']):
        labeled = relative[valid & (instances.visible[:, number] > 0), number]  # (n, 2)
        if len(labeled):
            color = COLORS(i % COLORS.N)
            name = metainfo['keypoint_id2name'][number].removeprefix(f'{category["name"]}/')
            axes.scatter(*labeled[:: 1 + len(labeled) // POINTS].T, s=4, color=color, alpha=0.5)
            axes.scatter(
                *np.median(labeled, 0), s=80, color=color, edgecolor='k', zorder=2, label=name
            )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=8, title='medians')
