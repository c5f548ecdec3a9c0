# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Dataset class for all keypoint datasets in COCO format."""

import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.datasets.transforms import LoadImage, Mosaic
from mmpose.registry import DATASETS

from kapao_mm.errors import InputError

from .annotations.checks import categories_by_id, fatal_faults
from .annotations.image_sizes import SizeCheck
from .annotations.issues import tell
from .annotations.keypoint_names import order_keypoints
from .annotations.reader import raise_faults, read_annotations
from .image_cache import ImageCache
from .metainfo import read_metainfo

# Keys that training and MMPose's Mosaic need. Others (segmentation, raw annotation) would slow down
# Mosaic, and `id`, `iscrowd` and the like would be those of only one of its four images.
TRAINING_KEYS = (
    'img_id',
    'img_path',
    'bbox',
    'bbox_score',
    'category_id',
    'keypoints',
    'keypoints_visible',
)


@DATASETS.register_module()
class KeypointDataset(BaseCocoStyleDataset):
    """Keypoint dataset in COCO format (COCO, CrowdPose, ...) with all instances of each image.

    With several categories (:func:`read_metainfo`), the category of an annotation is found by its
    name in the annotation file, and it has the keypoints of that category, or none if that has
    none. With a single category,
    all annotations belong to it, whatever their category is called. Samples have the K keypoint
    types of all categories, and ``category_id`` (n,) int, 0..C-1. A file that names the keypoints
    in another order than the metainfo is read in the order of the metainfo.

    Otherwise test samples are those of MMPose. Training samples differ from MMPose's:

    - Images without instances are kept as negative examples.
    - Instances without labeled keypoints are kept, because KAPAO learns their boxes.
    - Crowd regions are removed (docs/method.md, Objects).
    - Boxes are clipped to the edge of the image (w, h) instead of (w - 1, h - 1).
    - Boxes without area inside the image are removed. The numbers of removed annotations are
      logged.
    - A sample has only the keys that training needs: ``bbox`` (n, 4) xyxy and ``keypoints``
      (n, K, 2), both in px of the original image, ``keypoints_visible`` (n, K) in {0, 1},
      ``bbox_score`` (n,), all float32, and ``category_id``; n may be 0.

    Args:
        metainfo: Metainfo of the keypoints, such as ``dict(from_file='...')``, see
            :func:`read_metainfo`. Paths of MMPose's own files
            (``configs/_base_/datasets/coco.py``) are found inside MMPose.
        keypoints_outside: Treatment of keypoints that are labeled outside the image, in training:
            ``'keep'``, or ``'clip'`` to its edge (CrowdPose, docs/method.md, Objects).
        image_cache: Place to cache decoded images for training: ``'ram'``, a folder, or None for
            no cache. If the pipeline starts with Mosaic, images and labels are shrunk to its
            ``img_scale`` as Mosaic would do, so that the samples stay the same. See
            :class:`ImageCache`.
        on_size_mismatch: Reaction to an image whose size differs from the annotation file:
            ``'stop'``, or ``'warn'`` once and continue. With ``image_cache`` it is always an error.
        **kwargs: Further arguments of MMPose's BaseCocoStyleDataset, except ``data_mode``, which is
            always 'bottomup'.

    Attributes:
        relative_sides: Sides (w, h) of all training instances, relative to the longer side of their
            image, (n, 2) float32.

    Raises:
        InputError: If an argument is invalid, files are missing, or annotations and metainfo do not
            fit. Also when a sample is loaded, see ``on_size_mismatch``.
    """

    def __init__(
        self,
        *,
        metainfo: dict,
        keypoints_outside: str = 'keep',
        image_cache: str | None = None,
        on_size_mismatch: str = 'stop',
        **kwargs,
    ) -> None:
        if keypoints_outside not in ('keep', 'clip'):
            raise InputError(f"keypoints_outside is 'keep' or 'clip', not {keypoints_outside!r}")
        if on_size_mismatch not in ('stop', 'warn'):
            raise InputError(f"on_size_mismatch is 'stop' or 'warn', not {on_size_mismatch!r}")
        if image_cache and kwargs.get('test_mode'):
            raise InputError('image_cache is for training; leave it out of test datasets')
        self.keypoints_outside = keypoints_outside
        self.image_cache = image_cache
        self._images = None
        self.relative_sides = np.zeros((0, 2), np.float32)
        self._left_out = Counter()  # reason -> number of annotations
        super().__init__(metainfo=metainfo, data_mode='bottomup', **kwargs)
        self._size_check = SizeCheck(self.ann_file, on_size_mismatch)

    def full_init(self) -> None:
        """Loads the annotations, and fills the image cache."""
        if self._fully_initialized:
            return
        super().full_init()
        if self.image_cache:
            samples = map(partial(BaseDataset.get_data_info, self), range(len(self)))
            sizes = {sample['img_path']: sample['annotated_size'] for sample in samples}
            self._images = ImageCache(
                list(sizes),
                np.array(list(sizes.values())),  # (n, 2)
                self.image_cache,
                self._mosaic_size(),
                Path(self.ann_file).stem,
            )

    def _mosaic_size(self) -> tuple[int, int] | None:
        """Returns ``img_scale`` (w, h) of the Mosaic that starts the pipeline, or None."""
        match self.pipeline.transforms:
            case [
                LoadImage(),
                Mosaic(prob=1, pre_transform=Compose(transforms=[LoadImage()])) as mosaic,
                *_,
            ]:
                return tuple(mosaic.img_scale)
        return None

    def get_data_info(self, idx: int) -> dict:
        """Returns a sample.

        If images are cached, the sample contains its image, and the labels are in px of that image.
        ``size_check`` and ``annotated_size`` (w, h) px are used by :class:`CheckedLoadImage`.
        """
        info = super().get_data_info(idx)
        info['size_check'] = self._size_check
        if self._images is not None:
            info['img'], scale = self._images[info['img_path']]
            info['bbox'] *= scale
            info['keypoints'] *= scale
        return info

    @classmethod
    def _load_metainfo(cls, metainfo: dict) -> dict:
        return read_metainfo(metainfo)

    def _load_annotations(self) -> tuple[list[dict], list[dict]]:
        """Loads instances and images, and logs the numbers of those kept and removed."""
        self.check_paths()
        content = read_annotations(self.ann_file, images=self.data_prefix['img'])
        faults = fatal_faults(content, self._metainfo, self.test_mode)
        raise_faults(self.ann_file, faults, '; kapao check-dataset lists all')
        self._metainfo['CLASSES'] = content.get('categories', [])
        self._category_of = categories_by_id(content, self._metainfo)
        tell(self.ann_file, order_keypoints(content, self._metainfo, self._category_of))
        images = [
            self._image_info(image)
            for image in content['images']
            if image['id'] % self.sample_interval == 0
        ]
        instances = list(self._parse_instances(images, content.get('annotations', [])))
        if not self.test_mode:
            self.relative_sides = _relative_sides(instances, images)
            categories = self._metainfo['categories']
            unlabeled = sum(
                not instance['keypoints_visible'].any()
                and bool(categories[int(instance['category_id'])]['keypoint_ids'])
                for instance in instances
            )
            left_out = ', '.join(f'{n} {reason}' for reason, n in self._left_out.items())
            print_log(
                f'{self.ann_file}: {len(images)} images, {len(instances)} instances, {unlabeled} '
                f'of them without labeled keypoints; left out: {left_out or "nothing"}',
                logger='current',
            )
        return instances, images

    def _image_info(self, image: dict) -> dict:
        path = osp.join(self.data_prefix['img'], image['file_name'])
        return {**image, 'img_id': image['id'], 'img_path': path}

    def _parse_instances(self, images: list[dict], annotations: list[dict]) -> Iterator[dict]:
        """Yields the instances of images, image by image."""
        of_image = defaultdict(list)
        for ann in annotations:
            of_image[ann['image_id']].append(ann)
        for image in images:
            for ann in of_image[image['id']]:
                instance = self.parse_data_info(dict(raw_ann_info=ann, raw_img_info=image))
                if instance is not None:
                    yield instance

    def check_paths(self) -> None:
        """Raises InputError if the data root, the annotation file or the images are missing."""
        for name, path in (
            ('data root', self.data_root),
            ('annotation file', self.ann_file),
            ('image folder', self.data_prefix['img']),
        ):
            if path and not osp.exists(path):
                raise InputError(
                    f'{name} {osp.abspath(path)} does not exist; give the path of your data with '
                    '--cfg-options data_root=/path/to/data (if files have other names, also '
                    "train_ann, train_img, val_ann, val_img and others; MMPose's own tools need "
                    'the full keys, train_dataloader.dataset.data_root)'
                )

    def parse_data_info(self, raw_data_info: dict) -> dict | None:
        """Converts an annotation to arrays; returns None if it is not used for training."""
        ann, image = raw_data_info['raw_ann_info'], raw_data_info['raw_img_info']
        # Not used here. MMPose fails if one instance has polygons and another none.
        light = {**raw_data_info, 'raw_ann_info': {**ann, 'segmentation': None}}
        if self.test_mode:
            return self._in_category(super().parse_data_info(light))
        if ann.get('iscrowd'):
            self._left_out['crowd regions'] += 1
            return None

        edge = (image['width'], image['height'])
        x, y, width, height = ann['bbox']
        bbox = np.clip([[x, y, x + width, y + height]], 0, edge * 2)  # (1, 4)
        if not (bbox[:, 2:] > bbox[:, :2]).all():
            self._left_out['boxes without area inside the image'] += 1
            return None

        info = self._in_category(super().parse_data_info(light))
        info['bbox'] = bbox.astype(np.float32)
        if self.keypoints_outside == 'clip':
            info['keypoints'] = info['keypoints'].clip(0, np.float32(edge))
        return {key: info[key] for key in TRAINING_KEYS}

    def _in_category(self, info: dict) -> dict:
        """Moves keypoints (1, K_c, ...) of a category to their indices among all K types."""
        categories = self._metainfo['categories']
        index = self._category_of[int(info['category_id'])]
        info['category_id'] = np.array(index)
        for key in ('keypoints', 'keypoints_visible'):
            values = info[key]
            shape = (1, self._metainfo['num_keypoints'], *values.shape[2:])
            info[key] = np.zeros(shape, values.dtype)
            info[key][:, categories[index]['keypoint_ids']] = values
        return info

    def _get_bottomup_data_infos(self, instances: list[dict], images: list[dict]) -> list[dict]:
        """Groups instances by image; in training, images without instances are added at the end."""
        samples = super()._get_bottomup_data_infos(instances, images)
        if not self.test_mode:
            for sample in samples:
                del sample['invalid_segs']
            samples += self._empty_samples(samples, images)
        sizes = {image['img_id']: (image['width'], image['height']) for image in images}
        for sample in samples:
            sample['annotated_size'] = sizes[sample['img_id']]
        return samples

    def _empty_samples(self, samples: list[dict], images: list[dict]) -> list[dict]:
        """Returns a sample for each image that has no instances."""
        used = {sample['img_id'] for sample in samples}
        count = self._metainfo['num_keypoints']
        empty = dict(
            bbox=np.zeros((0, 4), np.float32),
            bbox_score=np.zeros(0, np.float32),
            category_id=np.zeros(0, int),
            keypoints=np.zeros((0, count, 2), np.float32),
            keypoints_visible=np.zeros((0, count), np.float32),
        )
        return [
            dict(img_id=image['img_id'], img_path=image['img_path'], **empty)
            for image in images
            if image['img_id'] not in used
        ]


def _relative_sides(instances: list[dict], images: list[dict]) -> np.ndarray:
    """Returns the sides (w, h) of boxes relative to the longer side of the image, (n, 2)."""
    longer = {image['img_id']: max(image['width'], image['height']) for image in images}
    boxes = np.array([instance['bbox'][0] for instance in instances], np.float32).reshape(-1, 4)
    sizes = np.array([longer[instance['img_id']] for instance in instances], np.float32)
    return (boxes[:, 2:] - boxes[:, :2]) / sizes[:, None]
