# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Shows or saves samples of a dataset as network inputs, with their pose and keypoint objects."""

import argparse
import math
import os
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line, which has the flags of MMPose's tools/misc/browse_dataset.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--phase', choices=['train', 'val', 'test'], default='train', help='[train]'
    )
    parser.add_argument(
        '--mode',
        choices=['transformed', 'original'],
        default='transformed',
        help='as the network gets the images, or as they are on disk [transformed]',
    )
    parser.add_argument('--num', type=int, default=20, help='how many, spread evenly [20]')
    parser.add_argument(
        '--out-dir',
        '--output-dir',
        type=Path,
        help='save the pictures there [work_dirs/CONFIG/browse_dataset where none is shown]',
    )
    parser.add_argument('--not-show', action='store_true', help='save only, also with a display')
    parser.add_argument('--show-interval', type=float, default=2, help='seconds a picture [2]')
    add_config_options(parser, 'data_root=DIR input_size=640')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.registry import DATASETS, MODELS
from mmpose.structures import PoseDataSample
from torchvision.ops import box_convert

from kapao_mm import register_all_modules
from kapao_mm.models.heads import KAPAOHead
from kapao_mm.models.task_modules.objects import make_objects
from kapao_mm.utils.config import load_config
from kapao_mm.visualization import KAPAOVisualizer

MIN_SIDE = 800  # px; smaller images are enlarged so that labels are readable
# Transforms that neither change the image nor move labels.
NEUTRAL = ('CheckedLoadImage', 'LoadImage', 'KeypointConverter', 'PackKAPAOInputs')


class ObjectVisualizer(KAPAOVisualizer):
    """Visualizer of ground-truth objects, which are stored as predictions of the samples."""

    def _draw_prediction(
        self,
        image: np.ndarray,
        data_sample: PoseDataSample,
        draw_bbox: bool,
        show_kpt_idx: bool,
        kpt_thr: float,
    ) -> dict[str, np.ndarray]:
        """Returns one panel with the pose objects and one with the keypoint objects."""
        poses, points = data_sample.pred_instances, data_sample.pred_keypoint_objects
        return {
            f'pose objects: {len(poses)}': self._draw_poses(image, poses, draw_bbox, show_kpt_idx),
            f'keypoint objects: {len(points)}': self._draw_keypoint_objects(image, points),
        }


def prepare(dataset: dict[str, Any], mode: str) -> dict[str, Any]:
    """Adapts the config of a dataset or a wrapper to a ``--mode``.

    The image cache is disabled, and labels are moved with the image, also in test pipelines, whose
    labels otherwise stay in px of the original image.
    """
    prepared = dict(dataset)
    if 'image_cache' in prepared:
        prepared['image_cache'] = None
    if 'dataset' in prepared:
        prepared['dataset'] = prepare(prepared['dataset'], mode)
    if 'datasets' in prepared:
        prepared['datasets'] = [prepare(inner, mode) for inner in prepared['datasets']]
    if 'pipeline' in prepared:
        prepared['pipeline'] = [
            step | dict(move_labels=True) if step['type'] == 'Letterbox' else step
            for step in map(dict, prepared['pipeline'])
            if mode == 'transformed' or step['type'] in NEUTRAL
        ]
    return prepared


def with_objects(
    sample: PoseDataSample, image_hw: tuple[int, int], head: KAPAOHead
) -> PoseDataSample:
    """Adds the objects that ``head`` is trained on to a sample, for :class:`ObjectVisualizer`.

    Crowd regions, which only test samples contain, are left out.

    Args:
        sample: Sample of the dataset; changed in place.
        image_hw: Size (h, w) of the network input, px.
        head: Head of the model.

    Returns:
        The sample.
    """
    labels = sample.gt_instance_labels
    if 'bboxes' not in labels:  # a test image without annotations
        labels = InstanceData(
            bboxes=torch.zeros(0, 4),
            keypoints=torch.zeros(0, head.num_keypoints, 2),
            keypoints_visible=torch.zeros(0, head.num_keypoints),
            labels=torch.zeros(0, dtype=torch.long),
        )
    elif 'raw_ann_info' in sample:
        labels = labels[torch.tensor([not a.get('iscrowd') for a in sample.raw_ann_info])]
    objects = make_objects(
        [labels.bboxes],
        [labels.keypoints],
        [labels.keypoints_visible],
        [labels.labels],
        head.num_categories,
        head.keypoint_sizes * max(image_hw),
        image_hw,
    )
    is_pose = objects.label < head.num_categories
    boxes = box_convert(objects.boxes, 'cxcywh', 'xyxy')
    sample.pred_instances = InstanceData(
        bboxes=boxes[is_pose].numpy(),
        keypoints=objects.keypoints[is_pose].numpy(),
        keypoints_visible=objects.visible[is_pose].numpy(),
        labels=objects.label[is_pose].numpy(),
    )
    types = objects.label[~is_pose] - head.num_categories
    sample.pred_keypoint_objects = InstanceData(
        bboxes=boxes[~is_pose].numpy(), labels=types.numpy(), scores=np.ones(len(types))
    )
    return sample


def enlarge(image: np.ndarray, sample: PoseDataSample) -> np.ndarray:
    """Returns an image (h, w, 3) enlarged by an integer factor if it is small.

    The objects of the sample are scaled in place.
    """
    zoom = math.ceil(MIN_SIDE / max(image.shape))
    sample.pred_instances.bboxes *= zoom
    sample.pred_instances.keypoints *= zoom
    sample.pred_keypoint_objects.bboxes *= zoom
    return image.repeat(zoom, 0).repeat(zoom, 1)


def destination(args: argparse.Namespace) -> tuple[bool, Path | None]:
    """Returns whether to show images, and the folder to save them in or None."""
    display = os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')
    show = bool(display) and not args.not_show
    if args.out_dir or show:
        return show, args.out_dir
    return show, Path('work_dirs', Path(args.config).stem, 'browse_dataset')


def main() -> None:
    """Draws the samples, and prints where the images are."""
    args = parse_args()
    register_all_modules()
    cfg = load_config(args.config, args.cfg_options)
    loader = cfg.get(f'{args.phase}_dataloader')
    if not loader:
        raise InputError(f'{args.config} has no {args.phase}_dataloader: give another --phase')
    dataset = DATASETS.build(prepare(loader.dataset, args.mode))
    metainfo = dataset.metainfo
    head = MODELS.build(cfg.model.head)
    if head.num_keypoints != metainfo['num_keypoints']:
        raise InputError(
            f'model.head.num_keypoints is {head.num_keypoints}, but the dataset '
            f'({metainfo["dataset_name"]}) has {metainfo["num_keypoints"]} keypoints: correct it'
        )
    visualizer = ObjectVisualizer()
    visualizer.set_dataset_meta(metainfo)
    show, folder = destination(args)

    count = min(max(args.num, 1), len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    poses = points = 0
    for index in indices:
        item = dataset[index]
        image = item['inputs'].permute(1, 2, 0).numpy()[..., ::-1]  # RGB
        sample = with_objects(item['data_samples'], image.shape[:2], head)
        poses += len(sample.pred_instances)
        points += len(sample.pred_keypoint_objects)
        name = f'{args.phase}_{index:06d}_{Path(sample.img_path).stem}'
        visualizer.add_datasample(
            name,
            enlarge(image, sample),
            sample,
            draw_gt=False,
            show=show,
            wait_time=args.show_interval,
            out_file=str(folder / f'{name}.jpg') if folder else None,
        )
    print(
        f'{args.phase}: {len(indices)} of {len(dataset)} samples, with {poses} pose objects and '
        f'{points} keypoint objects'
    )
    if folder:
        print(f'pictures: {folder}')
    print(f'Next: kapao train {args.config}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
