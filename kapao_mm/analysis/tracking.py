# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how well and how fast people are tracked, on videos whose identities are known."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmpose.datasets import CocoDataset
from scipy.optimize import linear_sum_assignment

from kapao_mm.apis.tracking import Tracker
from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.reader import read_json
from kapao_mm.datasets.toy.video import VIDEO_LEVELS, draw_video
from kapao_mm.errors import InputError
from kapao_mm.structures import Metainfo, Prediction
from kapao_mm.utils.image_files import read_image

from .report import live_table, print_table
from .timing import summarize
from .tracking_data import Detector, Frame, Truth, pan_over_photo, read_truth

MIN_IOU = 0.5  # of a person and a pose that show the same
MIN_PEOPLE, MIN_KEYPOINTS = 4, 4  # in a photo, and labeled of each of them
CROWDS = (1, 10, 60)  # numbers of people whose tracking is timed
COLUMNS = ('people', 'tracks', 'IDF1', 'best_IDF1', 'MOTA', 'id_switches')

Detect = Callable[[np.ndarray, Truth], Prediction]  # of a frame and its people


def benchmark(
    model: str | None,
    config: str | None,
    photos: tuple[Path, Path] | None,
    videos: int,
    frames: int,
) -> tuple[dict[str, Any], None]:
    """Measures tracking, and prints two tables: how well, and how fast.

    The sources are toy videos, with labels that are disturbed as by a network, videos of a camera
    that moves over photos, with such labels, and toy videos with a real network.

    Args:
        model: Checkpoint or exported model that finds the people of toy videos (``easy``).
        config: Config of the checkpoint; None takes the one inside.
        photos: Annotation file in COCO's format, and the folder of its photos.
        videos: Number of videos of each source.
        frames: Number of frames of a video.

    Returns:
        The figures, and None for the plot.

    Raises:
        InputError: If a file cannot be read, or the package trackers is not installed.
    """
    metainfo = Metainfo.from_dataset_meta(read_metainfo(CocoDataset.METAINFO))

    def disturbed(number: int) -> Detect:
        imitate = Detector(np.random.default_rng(number), metainfo.sigmas)
        return lambda image, truth: imitate(truth, image.shape[1::-1])

    def toys(level: str) -> list[Iterable[Frame]]:
        return [draw_video(seed, level, frames) for seed in range(videos)]

    sources = {f'toy {level}, labels': (toys(level), disturbed, metainfo) for level in VIDEO_LEVELS}
    if photos:
        panned = list(photo_videos(*photos, videos, frames))
        sources['photos, labels'] = panned, disturbed, metainfo
    if model:
        detect, known = network_detector(model, config)
        sources['toy easy, network'] = toys('easy'), lambda number: detect, known

    quality = {}
    with live_table('videos', *(column.replace('_', ' ') for column in COLUMNS)) as add:
        for name, (clips, detector, known) in sources.items():
            figures = [
                score_tracks(*track_video(clip, detector(number), known))
                for number, clip in enumerate(clips)
            ]
            quality[name] = summarize_videos(figures)
            add(name, *(f'{quality[name][column]:.3g}' for column in COLUMNS))
    speed = [
        dict(people=people, smooth=smooth, **summarize(time_tracking(metainfo, people, smooth)))
        for people in CROWDS
        for smooth in (False, True)
    ]
    print()
    print_table(
        ['people', 'smooth', 'ms a frame, median', 'p95'],
        [
            [str(row['people']), 'yes' if row['smooth'] else 'no']
            + [f'{row[key]:.2f}' for key in ('median_ms', 'p95_ms')]
            for row in speed
        ],
    )
    return dict(quality=quality, speed=speed), None


def summarize_videos(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the means of ratios and the sums of counts of several videos."""
    return {
        key: sum(row[key] for row in figures)
        / (len(figures) if key in ('IDF1', 'best_IDF1', 'MOTA') else 1)
        for key in COLUMNS
    }


def track_video(
    frames: Iterable[Frame], detect: Detect, metainfo: Metainfo, **options: Any
) -> tuple[list[Truth], list[Prediction]]:
    """Tracks the people of a video of 30 frames per second.

    Args:
        frames: Frames and their annotations.
        detect: Function that returns the poses of a frame.
        metainfo: Metainfo of the poses.
        **options: Other arguments of :class:`Tracker`.

    Returns:
        The truth and the tracked poses of each frame.
    """
    tracker = Tracker(metainfo, **options)
    truths, tracked = [], []
    for image, annotations in frames:
        truths.append(read_truth(annotations, len(metainfo.keypoint_names)))
        tracked.append(tracker.update(detect(image, truths[-1])))
    return truths, tracked


def score_tracks(truths: Sequence[Truth], tracked: Sequence[Prediction]) -> dict[str, float]:
    """Compares tracks with the truth, by the IoU of boxes.

    Args:
        truths: People of each frame.
        tracked: Poses of each frame with ``track_ids``. Those without a track are left out.

    Returns:
        A dict with ``people`` and ``tracks`` (their numbers), ``IDF1``, ``best_IDF1`` (of the same
        poses with their true identities), ``MOTA`` and ``id_switches``.

    Raises:
        InputError: If the package trackers, which has the metrics, is not installed.
    """
    try:
        from trackers.eval import box_iou, compute_clear_metrics, compute_identity_metrics
    except ImportError as error:
        raise InputError("trackers is not installed: pip install 'trackers>=2.6,<3'") from error
    true_ids = [truth.ids for truth in truths]
    ids = [poses.track_ids[poses.track_ids > 0] for poses in tracked]
    every, known = [], []  # similarities of people and poses: all poses, and those with a track
    for truth, poses in zip(truths, tracked, strict=True):
        every.append(box_iou(truth.prediction.bboxes, poses.bboxes))
        known.append(every[-1][:, poses.track_ids > 0])
    right, perfect = zip(*map(_true_poses, true_ids, every), strict=True)
    clear = compute_clear_metrics(true_ids, ids, known, MIN_IOU)
    people, tracks = (len(np.unique(np.concatenate(numbers))) for numbers in (true_ids, ids))
    return dict(
        people=people,
        tracks=tracks,
        IDF1=compute_identity_metrics(true_ids, ids, known, MIN_IOU)['IDF1'],
        best_IDF1=compute_identity_metrics(true_ids, perfect, right, MIN_IOU)['IDF1'],
        MOTA=clear['MOTA'],
        id_switches=clear['IDSW'],
    )


def _true_poses(true_ids: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the similarities of the right poses of a frame, and whom they show."""
    people, poses = linear_sum_assignment(similarity, maximize=True)
    right = similarity[people, poses] >= MIN_IOU
    return similarity[:, poses[right]], true_ids[people[right]]


def network_detector(model: str, config: str | None) -> tuple[Detect, Metainfo]:
    """Loads a model as the detector of :func:`track_video`, with its metainfo."""
    from kapao_mm.apis.load import load_predictor

    predictor = load_predictor(model, config)
    return lambda image, truth: predictor.predict(image)[0].prediction, predictor.metainfo


def photo_videos(file: Path, folder: Path, videos: int, frames: int) -> Iterator[Iterable[Frame]]:
    """Makes videos of the first photos with several people, see :func:`pan_over_photo`."""
    content = read_json(file, 'annotation file')
    people = defaultdict(list)
    for annotation in content['annotations']:
        if not annotation['iscrowd'] and annotation['num_keypoints'] >= MIN_KEYPOINTS:
            people[annotation['image_id']].append(annotation)
    photos = [info for info in content['images'] if len(people[info['id']]) >= MIN_PEOPLE]
    if not photos:
        raise InputError(f'{file} has no photo with {MIN_PEOPLE} people with keypoints')
    for info in photos[:videos]:
        image = read_image(folder / info['file_name'])
        yield pan_over_photo(image, people[info['id']], frames)


def time_tracking(
    metainfo: Metainfo, people: int, smooth: bool, num_frames: int = 100
) -> list[float]:
    """Returns the seconds that tracking takes in each frame of a crowd that walks about."""
    rng = np.random.default_rng(0)
    count, size = len(metainfo.keypoint_names), np.array([100, 250])
    corners = rng.uniform(0, 4000, (people, 1, 2))
    keypoints = rng.uniform(0, 1, (people, count, 2)) * size
    velocity = rng.normal(0, 4, (people, 1, 2))  # px per frame
    annotations = [
        dict(bbox=[0, 0, *size], keypoints=[0] * 3 * count, track_id=number)
        for number in range(people)
    ]
    poses = read_truth(annotations, count).prediction
    tracker = Tracker(metainfo, smooth=smooth)
    seconds = []
    for number in range(num_frames):
        moved = corners + velocity * number + rng.normal(0, 1, (people, 1, 2))
        prediction = replace(
            poses,
            bboxes=poses.bboxes + np.tile(moved[:, 0], 2),
            keypoints=keypoints + moved,
            keypoints_visible=np.ones((people, count), bool),
        )
        start = time.perf_counter()
        tracker.update(prediction)
        seconds.append(time.perf_counter() - start)
    return seconds
