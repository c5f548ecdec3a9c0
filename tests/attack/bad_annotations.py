# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Gives mutated annotation and result files to everything that reads them."""

import contextlib
import copy
import io
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _helpers import REPO, entries, load
from mmpose.registry import DATASETS

from kapao_mm import register_all_modules
from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric
from kapao_mm.utils.config import load_config

KEYPOINTS = ['top', 'left_end', 'right_end']
METAINFO = dict(
    dataset_name='triples',
    keypoint_info={
        0: dict(name='top', swap=''),
        1: dict(name='left_end', swap='right_end'),
        2: dict(name='right_end', swap='left_end'),
    },
    skeleton_info={},
    joint_weights=[1.0] * 3,
    sigmas=[0.05] * 3,
)
SIZE = (64, 48)  # of the images, px
CONFIG = f"""
_base_ = [
    '{REPO}/configs/_base_/default_runtime.py',
    '{REPO}/configs/_base_/models/kapao_n.py',
    '{REPO}/configs/_base_/datasets/keypoint_loaders.py',
    '{REPO}/configs/_base_/schedules/kapao_short.py',
]
from kapao_mm.utils.config import set_everywhere

set_everywhere(_base_, input_size=64)
model = dict(head=dict(num_keypoints=3))
metainfo = {METAINFO!r}
train_dataloader = dict(
    dataset=dict(metainfo=metainfo, ann_file='bad.json', data_prefix=dict(img='images'))
)
val_dataloader = dict(
    dataset=dict(metainfo=metainfo, ann_file='bad.json', data_prefix=dict(img='images'))
)
test_dataloader = val_dataloader
val_evaluator = dict(type='KAPAOMetric')
test_evaluator = val_evaluator
"""
NESTED = [[]]
for _ in range(200):
    NESTED = [NESTED]
VALUES = [
    *(None, True, False, 0, 1, 2, -1, 0.5, 1.0, 7.0, float('nan'), float('inf'), -float('inf')),
    *(1e300, 1e10, -1e10, 2**31, 2**63, -(2**63), 10**400, '', '0', '1', '12'),
    *('nan', 'x', '/', '..', 'a/b.png', 'a\0b', '\ud800', 'é', '$a_{', '{{a}}', 'x' * 300, '\n'),
    *([], {}, [[]], [None], [1], [1, 2, 3, 4], [1, 2, 2] * 3, ['a', 'b', 'c']),
    *([[1, 2]], [[1, 99]], dict(id=1), NESTED),
]


def make_content() -> dict[str, Any]:
    """Makes a correct file with three images and six objects, one of them a crowd region."""
    annotations = [
        dict(
            id=i,
            image_id=1 + i % 2,
            category_id=1,
            bbox=[4 + 2 * i, 5, 24, 30],
            area=500,
            iscrowd=int(i == 6),
            keypoints=[14 + 2 * i, 6, 2, 6 + 2 * i, 30, 1, 22 + 2 * i, 31, 2 * (i % 3 > 0)],
            num_keypoints=2 + (i % 3 > 0),
        )
        for i in range(1, 7)
    ]
    images = [
        dict(id=i, file_name=f'{i}.png', width=SIZE[0], height=SIZE[1], crowdIndex=i / 4)
        for i in (1, 2, 3)
    ]
    category = dict(id=1, name='triple', keypoints=KEYPOINTS, skeleton=[[1, 2], [1, 3]])
    return dict(images=images, annotations=annotations, categories=[category])


def make_results(content: dict[str, Any]) -> list[dict]:
    """Returns the labels as result records."""
    return [
        dict(
            image_id=a['image_id'], category_id=1, keypoints=a['keypoints'], bbox=a['bbox'], score=1
        )
        for a in content['annotations']
        if not a.get('iscrowd')
    ]


def mutate(content: Any, rng: random.Random) -> tuple[str, Any]:
    """Changes one to three entries of a JSON value; returns a description and the value."""
    content, done = copy.deepcopy(content), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        owner, key = rng.choice(list(entries(content)) or [([0], 0)])
        action = rng.choice(('value', 'value', 'value', 'delete', 'double', 'add'))
        if action == 'delete':
            del owner[key]
        elif action == 'double' and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[key]))
        elif action == 'add' and isinstance(owner, dict):
            keys = ('extra', 'not_exhaustive_category_ids', 'iscrowd', 'area', 'segmentation')
            owner[rng.choice(keys)] = rng.choice(VALUES)
        else:
            owner[key] = copy.deepcopy(rng.choice(VALUES))
        done.append(f'{action} {key!r}')
    return ', '.join(done), content


def spoil(text: str, rng: random.Random) -> tuple[str, bytes | None]:
    """Turns the text of a file into a bad or unusual one; None means a folder."""
    kinds = dict(
        empty=b'',
        blank=b' \n',
        folder=None,
        cut=text[: rng.randrange(1, len(text))].encode(),
        twice=(text + text).encode(),
        bom=text.encode('utf-8-sig'),
        utf16=text.encode('utf-16'),
        utf32=text.encode('utf-32-be'),
        latin1=text.replace('triple', 'tripl\u00e9').encode('latin-1'),
        nested=b'[' * 100_000 + b']' * 100_000,
        nested_objects=b'{"a":' * 5000 + b'1' + b'}' * 5000,
        nested_inside=text.replace('"area": 500', f'"area": {"[" * 500}{"]" * 500}').encode(),
        digits=text.replace('500', '5' * 5000).encode(),
        large=text.replace('500', '1e999').encode(),
        nan=text.replace('500', 'NaN').encode(),
        double_key=('{"images": [], ' + text[1:]).encode(),
        comment=('// labels\n' + text).encode(),
        quotes=text.replace('"', "'").encode(),
        comma=(text[:-1] + ',}').encode(),
        value=rng.choice(('null', '3', '"x"', '[]', '{}', '[{}]', 'true')).encode(),
        bytes=bytes(rng.randrange(256) for _ in range(200)),
        flipped=bytes(b ^ (rng.random() < 0.01) for b in text.encode()),
    )
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]


class Attack:
    """Runs everything that reads annotations on files in a folder, and checks the results.

    Args:
        folder: Folder for the files; images and a config are added.
    """

    def __init__(self, folder: Path) -> None:
        register_all_modules()
        self.folder = folder
        self.file, self.results = folder / 'bad.json', folder / 'results.json'
        for name in ('1.png', '2.png', '3.png'):
            for place in ('images', '.'):
                (folder / place).mkdir(exist_ok=True)
                cv2.imwrite(str(folder / place / name), np.zeros((*SIZE[::-1], 3), np.uint8))
        config = CONFIG.replace("'bad.json'", repr(str(self.file)))
        (folder / 'config.py').write_text(config.replace("'images'", repr(str(folder / 'images'))))
        self.cfg = load_config(folder / 'config.py')

    def run_tool(self, path: str, *args: Any) -> str:
        """Runs a tool in this process and returns what it printed.

        Raises:
            InputError: If the tool raises it, or its exit code is not 0.
        """
        tool = load(f'tools/{path}')
        before, sys.argv = sys.argv, [path, *map(str, args)]
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                tool.main()
        except SystemExit as stop:
            if stop.code:
                raise InputError(f'exit code {stop.code}') from stop
        finally:
            sys.argv = before
        printed.getvalue().encode()  # fails if the text cannot be printed
        return printed.getvalue()

    def read(self, needed: tuple[str, ...]) -> dict:
        """Reads the bad file, to check what was made from it."""
        return read_annotations(self.file, needed, say=lambda line: None)

    def train_set(self) -> None:
        """Loads the file for training, and checks every sample."""
        dataset = DATASETS.build({**self.cfg.train_dataloader.dataset, 'pipeline': []})
        content = self.read(('images', 'annotations'))
        assert len(dataset) == len(content['images'])
        for sample in (dataset.get_data_info(i) for i in range(len(dataset))):
            size = next(
                (i['width'], i['height']) for i in content['images'] if i['id'] == sample['img_id']
            )
            assert sample['keypoints'].shape == (len(sample['bbox']), 3, 2)
            assert np.isfinite(sample['keypoints']).all() and np.isfinite(sample['bbox']).all()
            assert (sample['bbox'] >= 0).all() and (sample['bbox'] <= np.float32(size * 2)).all()

    def test_set(self) -> None:
        """Loads the file for testing."""
        dataset = DATASETS.build({**self.cfg.test_dataloader.dataset, 'pipeline': []})
        assert len(dataset) == len(self.read(('images',))['images'])

    def metric(self, **options: Any) -> None:
        """Evaluates the labels as predictions (AP is 1), and shifted ones (AP is 0)."""
        metric = KAPAOMetric(ann_file=str(self.file), **options)
        metric.dataset_meta = read_metainfo(METAINFO)
        content = metric.coco.dataset
        records = make_results(content)
        labeled = [
            a['num_keypoints'] if metric.iou_type != 'keypoints' and 'num_keypoints' in a else
            any(v > 0 for v in a['keypoints'][2::3])
            for a in content['annotations'] if not a.get('iscrowd')
        ]  # fmt: skip
        ids = {c['id'] for c in content['categories']}
        for record in records:
            record['category_id'] = min(ids)
        unlabeled = any('not_exhaustive_category_ids' in image for image in content['images'])
        found = metric.score(records, 'the labels')['AP']
        if any(labeled) and not unlabeled and len(records) < 20:
            assert found > 0.999, found
            shifted = [r | dict(keypoints=[x + 1e6 for x in r['keypoints']]) for r in records]
            assert metric.score(shifted, 'shifted')['AP'] < 0.001
        elif not any(labeled):
            assert found == -1, found

    def metric_by_boxes(self) -> None:
        """Evaluates with the areas of the boxes."""
        self.metric(use_area=False)

    def metric_by_crowds(self) -> None:
        """Evaluates as CrowdPose does."""
        self.metric(iou_type='keypoints_crowd', use_area=False)

    def new_dataset(self) -> None:
        """Makes a config from the file."""
        out = self.folder / 'out'
        self.run_tool(
            'dataset_converters/new_dataset.py',
            *(self.file, '--val', self.file, '--name', 'new', '--out', out, '--force'),
        )
        cfg = load_config(out / 'kapao_n_new.py')
        names = [c for c in self.read(('categories',))['categories']]
        types = read_metainfo(cfg.metainfo)['num_keypoints']
        assert types == np.sum(cfg.model.head.num_keypoints) <= 3 * max(1, len(names))
        assert cfg.model.test_cfg.fusion_distance >= 1

    def split(self) -> None:
        """Makes a config from the file, and splits off validation data."""
        out = self.folder / 'out'
        self.run_tool(
            'dataset_converters/new_dataset.py',
            *(self.file, '--val-fraction', 0.4, '--name', 'new', '--out', out, '--force'),
        )
        content = self.read(('images', 'annotations'))
        parts = [json.loads((self.folder / f'bad_{p}.json').read_text()) for p in ('train', 'val')]
        for key in ('images', 'annotations'):
            assert sum(len(part[key]) for part in parts) == len(content[key])

    def check_dataset(self) -> None:
        """Checks the file."""
        out = self.folder / 'out'
        self.run_tool('misc/check_dataset.py', self.folder / 'config.py', '--out-dir', out)
        report = json.loads((out / 'report.json').read_text())
        content = self.read(('images', 'annotations'))
        for part in report.values():
            assert part['statistics']['annotations'] == len(content['annotations'])

    def merge(self) -> None:
        """Merges the file with a correct one."""
        correct = make_content()
        (self.folder / 'correct.json').write_text(json.dumps(correct))
        sources = [x for name in ('correct.json', 'bad.json') for x in ('--add', name, 'images')]
        self.run_tool('dataset_converters/merge_coco.py', self.folder, 'merged.json', *sources)
        merged, content = json.loads((self.folder / 'merged.json').read_text()), self.read(())
        for key in ('images', 'annotations'):
            ids = [entry['id'] for entry in merged[key]]
            assert ids == list(range(1, 1 + len(correct[key]) + len(content[key])))
        assert {a['image_id'] for a in merged['annotations']} <= {i['id'] for i in merged['images']}

    def subset(self) -> None:
        """Takes two images of the file."""
        target = self.folder / 'subset.json'
        self.run_tool('dataset_converters/subset.py', self.file, target, '--images', 2)
        found, content = json.loads(target.read_text()), self.read(())
        ids = [image['id'] for image in content['images'][:2]]
        assert [image['id'] for image in found['images']] == ids
        count = sum(a['image_id'] in ids for a in content['annotations'])
        assert len(found['annotations']) == count

    def eval_results(self) -> None:
        """Evaluates the result file against the annotation file."""
        out = self.folder / 'metrics.json'
        args = (self.folder / 'config.py', self.results, '--out', out)
        self.run_tool('analysis_tools/eval_results.py', *args)
        for value in json.loads(out.read_text()).values():
            assert value == -1 or 0 <= value <= 1, value

    def check_leftovers(self) -> None:
        """Checks that no partial file is left."""
        assert not list(self.folder.rglob('*.partial')), 'a temporary folder is left'


def attempts(count: int, seed: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields a description and a callable for each attempt.

    Args:
        count: Number of attempts; at least one for each reader.
        seed: Seed of the random generator.
        folder: Folder for the files.
    """
    attack, rng = Attack(folder), random.Random(seed)
    readers = [
        *(attack.train_set, attack.test_set, attack.metric, attack.metric_by_boxes),
        *(attack.metric_by_crowds, attack.new_dataset, attack.split, attack.check_dataset),
        *(attack.merge, attack.subset, attack.eval_results, attack.eval_results),
    ]
    for number, reader in zip(range(max(count, len(readers))), itertools.cycle(readers)):
        content = make_content()
        results = make_results(content)
        files = {attack.file: content, attack.results: results}
        target = attack.results if number % len(readers) == len(readers) - 1 else attack.file
        texts = {path: json.dumps(value).encode() for path, value in files.items()}
        if rng.random() < 0.2:
            what, texts[target] = spoil(json.dumps(files[target]), rng)
        else:
            what, value = mutate(files[target], rng)
            texts[target] = json.dumps(value).encode()

        def attempt(texts: dict = texts, reader: Callable[[], None] = reader) -> None:
            for path, text in texts.items():
                if path.is_dir():
                    path.rmdir()
                path.unlink(missing_ok=True)
                path.mkdir() if text is None else path.write_bytes(text)
            try:
                reader()
            finally:
                attack.check_leftovers()

        yield f'{number} {reader.__name__}, {what}', attempt
