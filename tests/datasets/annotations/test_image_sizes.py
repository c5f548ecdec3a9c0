# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Images whose size differs from their annotation file."""

import copy
import json
import logging
import pickle
import re

import cv2
import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmpose.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from kapao_mm.datasets.annotations.image_sizes import SizeCheck, describe_mismatch
from kapao_mm.errors import InputError

LOAD = dict(type='CheckedLoadImage')
PACK = dict(type='PackKAPAOInputs')
MOSAIC = dict(
    type='MosaicScaleTranslate',
    input_size=64,
    scale_range=(0.5, 1.5),
    max_shift=0.1,
    pre_transform=[LOAD],
)
PIPELINES = dict(
    train=dict(pipeline=[LOAD, MOSAIC, PACK]),
    test=dict(
        pipeline=[LOAD, dict(type='Letterbox', input_size=64, move_labels=False), PACK],
        test_mode=True,
    ),
)


@pytest.fixture
def build(triples, coco_file, tmp_path):
    """Makes a function that builds a dataset annotated as 40 x 50 px; images 2 and 3 differ."""
    (tmp_path / 'a.json').write_text(json.dumps(coco_file))
    for number, shape in enumerate([(50, 40, 3), (40, 50, 3), (1, 1, 3)], 1):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.full(shape, 90, np.uint8))

    def build(phase='train', **options):
        config = dict(
            type='KeypointDataset',
            metainfo=triples,
            data_root=str(tmp_path),
            ann_file='a.json',
            data_prefix=dict(img=''),
        )
        return DATASETS.build(config | PIPELINES[phase] | options)

    return build


@pytest.fixture
def written_log(tmp_path):
    """A file that receives the log, also that of worker processes."""
    logger, path = MMLogger.get_current_instance(), tmp_path / 'log.txt'
    handler = logging.FileHandler(path)
    logger.addHandler(handler)
    yield path
    logger.removeHandler(handler)


@pytest.mark.slow
@pytest.mark.parametrize('phase', PIPELINES)
@pytest.mark.parametrize('workers', [0, 2])
def test_other_size_is_an_error_by_default(build, tmp_path, phase, workers):
    loader = DataLoader(build(phase), batch_size=1, num_workers=workers, collate_fn=pseudo_collate)
    message = rf'annotation file {tmp_path}/a\.json, image [23]: .*is (50 x 40|1 x 1) px, the '
    with pytest.raises(InputError, match=message + 'annotations say 40 x 50'):
        list(loader)


@pytest.mark.slow
@pytest.mark.parametrize('phase', PIPELINES)
@pytest.mark.parametrize('workers', [0, 2])
def test_other_size_can_be_a_single_warning(build, written_log, phase, workers):
    dataset = build(phase, on_size_mismatch='warn')
    options = dict(batch_size=1, num_workers=workers, collate_fn=pseudo_collate)
    for _ in range(2):  # workers of each epoch are new
        assert len(list(DataLoader(dataset, **options))) == 3
    assert written_log.read_text().count('annotations say') == 1


@pytest.mark.slow
def test_correct_sizes_give_no_warning(build, tmp_path, written_log):
    for number in (2, 3):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.zeros((50, 40, 3), np.uint8))
    for phase in PIPELINES:
        dataset = build(phase)
        assert len([dataset[i] for i in range(3)]) == 3
    assert 'annotations say' not in written_log.read_text()


@pytest.mark.slow
def test_other_size_is_an_error_with_a_cache(build):
    with pytest.raises(InputError, match='image cache: .*is 50 x 40 px, the annotations say'):
        build(image_cache='ram', on_size_mismatch='warn')


def test_unknown_reaction_is_refused(build):
    with pytest.raises(InputError, match="on_size_mismatch is 'stop' or 'warn', not 'skip'"):
        build(on_size_mismatch='skip')


def test_message_names_exchanged_sides_and_exif(tmp_path):
    path = tmp_path / 'a.jpg'
    exif = Image.Exif()
    for orientation, reason in ((1, r'\(exchanged\)'), (6, r'\(exchanged: its EXIF orientation')):
        exif[0x0112] = orientation
        Image.new('RGB', (50, 40)).save(path, exif=exif)
        assert re.search(f'{reason}', describe_mismatch((50, 40), (40, 50), str(path)))
        assert describe_mismatch((5, 4), (40, 50), str(path)).endswith('say 40 x 50')


def test_copies_give_one_warning_together(log):
    check = SizeCheck('a.json', 'warn')
    assert pickle.loads(pickle.dumps(check)).ann_file == 'a.json'
    for each in (check, copy.deepcopy(check), copy.deepcopy([check])[0]):
        each((5, 4), (4, 5), 'a.jpg', 1)
    assert log.text.count('annotations say') == 1
