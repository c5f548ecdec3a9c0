# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import errno
import json
import os
import pickle
import signal
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner import Runner
from mmpose.registry import DATASETS
from PIL import Image

from kapao_mm.datasets import image_cache
from kapao_mm.datasets.image_cache import ImageCache, shrunk_sizes
from kapao_mm.errors import InputError
from kapao_mm.utils.image_files import read_image

SIZE = 64  # of the training input
SIZES = np.array([(200, 90), (40, 50), (64, 64), (90, 200), (70, 66), (64, 30)])  # (w, h)
NUM_BYTES = 3 * int(SIZES.prod(1).sum())
LOAD = dict(type='CheckedLoadImage')
MOSAIC = dict(type='Mosaic', img_scale=(SIZE, SIZE), pre_transform=[LOAD])
LETTERBOX = dict(type='Letterbox', input_size=SIZE, square=True)


@pytest.fixture
def paths(tmp_path) -> list[str]:
    """The paths of images of noise, which have the sizes SIZES."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f'{number}.png') for number in range(len(SIZES))]
    for path, (width, height) in zip(paths, SIZES, strict=True):
        cv2.imwrite(path, rng.integers(0, 256, (height, width, 3), np.uint8))
    return paths


@pytest.fixture(params=['ram', 'file'])
def place(request, tmp_path) -> str:
    return 'ram' if request.param == 'ram' else str(tmp_path / 'cache')


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / 'cache'


@pytest.fixture
def build(paths, tmp_path, triples, coco_file):
    """Builds the training dataset of these images, with two people each, none in the last."""
    images = [
        dict(id=i, file_name=Path(path).name, width=int(w), height=int(h))
        for i, (path, (w, h)) in enumerate(zip(paths, SIZES, strict=True), 1)
    ]
    person = coco_file['annotations'][0]
    people = [
        person | dict(id=10 * image['id'] + i, image_id=image['id'], bbox=[3 * i + 0.3, 5, 20, 17])
        for image in images[:-1]
        for i in range(2)
    ]
    ann_file = tmp_path / 'people.json'
    ann_file.write_text(json.dumps(coco_file | dict(images=images, annotations=people)))

    def build(place: str | None, pipeline=(LOAD, MOSAIC), **options):
        config = dict(
            type='KeypointDataset',
            metainfo=triples,
            ann_file=str(ann_file),
            data_prefix=dict(img=str(tmp_path)),
            pipeline=list(pipeline),
            image_cache=place,
        )
        return DATASETS.build(config | options)

    return build


@pytest.mark.slow
@pytest.mark.parametrize('combined', [False, True], ids=['mosaic', 'mosaic and affine'])
def test_mosaics_are_the_same_with_and_without_cache(build, place, combined):
    affine = dict(input_size=SIZE, scale_range=(0.5, 1.5), max_shift=0.1, pre_transform=[LOAD])
    both = dict(type='MosaicScaleTranslate', **affine)
    options = dict(pipeline=[LOAD, both]) if combined else {}
    plain, cached = build(None, **options), build(place, **options)
    assert len(plain) == len(cached) == len(SIZES)
    for index in range(len(SIZES)):
        for seed in range(3):
            np.random.seed(seed)
            expected = plain[index]
            np.random.seed(seed)
            found = cached[index]
            for key in ('img', 'bbox', 'keypoints', 'keypoints_visible', 'bbox_score'):
                np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
                assert found[key].dtype == expected[key].dtype


@pytest.mark.slow
def test_images_are_shrunk_to_training_size_with_their_labels_but_never_enlarged(build):
    dataset = build('ram')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    shapes = [info['img'].shape[1::-1] for info in infos]
    assert shapes == [(64, 28), (40, 50), (64, 64), (28, 64), (64, 60), (64, 30)]
    np.testing.assert_allclose(infos[0]['bbox'][0], np.array([0.3, 5, 20.3, 22]) * 64 / 200)


@pytest.mark.slow
@pytest.mark.parametrize(
    'pipeline',
    [
        [LOAD, LETTERBOX],
        [LOAD, MOSAIC | dict(prob=0.5)],
        [LOAD, MOSAIC | dict(pre_transform=None)],
        [LOAD, dict(type='HorizontalFlip', prob=0.5), MOSAIC],
    ],
    ids=['no mosaic', 'mosaic at times', 'mosaic loads elsewhere', 'flip before'],
)
def test_images_keep_their_size_unless_every_sample_starts_with_a_mosaic(build, pipeline):
    assert build('ram', pipeline=pipeline).get_data_info(0)['img'].shape == (90, 200, 3)


@given(
    st.lists(st.tuples(st.integers(1, 6000), st.integers(1, 6000)), min_size=1),
    st.tuples(st.integers(64, 1280), st.integers(64, 1280)),
)
def test_mosaic_does_not_resize_shrunk_images_again(sizes, limit):
    sizes = np.array(sizes)
    kept, scales = shrunk_sizes(sizes, limit)
    for (w, h), (kept_w, kept_h), scale in zip(sizes.tolist(), kept.tolist(), scales, strict=True):
        mosaic_scale = min(limit[1] / h, limit[0] / w)
        if (kept_w, kept_h) == (w, h):
            assert scale == 1
        else:
            assert scale == mosaic_scale < 1
            mosaic_size = (int(w * mosaic_scale), int(h * mosaic_scale))
            assert (kept_w, kept_h) == mosaic_size or 0 in mosaic_size  # which Mosaic refuses
            assert min(limit[1] / kept_h, limit[0] / kept_w) == 1


@pytest.mark.slow
def test_subsets_and_copies_share_the_cache(build):
    dataset = build('ram')
    subset = dataset.get_subset([3])
    np.testing.assert_array_equal(subset.get_data_info(0)['img'], dataset.get_data_info(3)['img'])
    assert deepcopy(dataset)._images is dataset._images


@pytest.mark.slow
def test_only_images_of_the_dataset_are_read(build, tmp_path):
    (tmp_path / '5.png').unlink()
    build('ram', indices=3)


@pytest.mark.slow
def test_forked_workers_share_the_cache_in_every_epoch(build, paths):
    dataset = build('ram', pipeline=[LOAD, LETTERBOX, dict(type='PackKAPAOInputs')])
    for path in paths:
        os.unlink(path)
    loader = Runner.build_dataloader(
        dict(
            dataset=dataset,
            batch_size=2,
            num_workers=1,
            persistent_workers=False,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        )
    )
    epochs = [[image for batch in loader for image in batch['inputs']] for _ in range(2)]
    assert len(epochs[0]) == len(SIZES)
    assert all(a.equal(b) for a, b in zip(*epochs, strict=True))


def test_cached_images_are_read_only_arrays(paths, place):
    image, _ = ImageCache(paths, SIZES, place)[paths[0]]
    assert type(image) is np.ndarray
    with pytest.raises(ValueError, match='read-only'):
        image[:] = 0


def test_workers_that_are_not_forked_are_an_error(paths):
    with pytest.raises(InputError, match='mp_start_method=fork'):
        pickle.dumps(ImageCache(paths, SIZES, 'ram'))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The images that are read from their files."""
    reads = []
    load = image_cache.CheckedLoadImage.transform
    monkeypatch.setattr(
        image_cache.CheckedLoadImage,
        'transform',
        lambda self, results: reads.append(results['img_path']) or load(self, results),
    )
    return reads


def test_existing_file_is_used_again(paths, folder, reads):
    first = ImageCache(paths, SIZES, str(folder))
    assert sorted(reads) == paths
    second = ImageCache(paths, SIZES, str(folder))
    assert len(reads) == len(paths)
    for path in paths:
        np.testing.assert_array_equal(first[path][0], second[path][0])


@pytest.mark.parametrize('change', ['content', 'time', 'limit', 'images'])
def test_file_of_other_images_or_another_size_is_not_used(paths, folder, reads, change):
    sizes, limit = SIZES, (SIZE, SIZE)
    ImageCache(paths, sizes, str(folder), limit)
    reads.clear()
    if change == 'content':
        stat = os.stat(paths[0])
        cv2.imwrite(paths[0], np.zeros((90, 200, 3), np.uint8))
        os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == 'time':
        os.utime(paths[0], ns=(1, 1))
    elif change == 'limit':
        limit = (32, 32)
    else:
        paths, sizes = paths[1:], sizes[1:]
    cache = ImageCache(paths, sizes, str(folder), limit)
    assert len(reads) == len(paths)
    if change == 'content':
        assert not cache[paths[0]][0].any()


def fill(paths: list[str], folder: Path, reads: list, queue) -> None:
    cache = ImageCache(paths, SIZES, str(folder))
    queue.put((len(reads), int(cache[paths[0]][0].sum())))


def start(count: int, *args) -> list:
    """Starts forked processes that fill the same cache."""
    processes = [get_context('fork').Process(target=fill, args=args) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def test_file_of_a_killed_process_is_removed_and_filled_again(paths, folder, monkeypatch, reads):
    with monkeypatch.context() as patch:
        patch.setattr(ImageCache, '_store', lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        (process,) = start(1, paths, folder, reads, None)
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not list(folder.glob('*/*.npy')) and len(list(folder.glob('*/.*.partial/*'))) == 1
    image, _ = ImageCache(paths, SIZES, str(folder))[paths[1]]
    np.testing.assert_array_equal(image, cv2.imread(paths[1]))
    assert list(folder.glob('*/*.npy')) and not list(folder.glob('*/.*.partial'))


def test_one_of_several_processes_fills_the_file(paths, folder, reads):
    queue = get_context('fork').Queue()
    processes = start(3, paths, folder, reads, queue)
    found = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    total = int(cv2.imread(paths[0]).sum())
    assert found == [(0, total), (0, total), (len(paths), total)]


def test_size_is_logged_and_must_fit(paths, place, reads, log, monkeypatch):
    def set_free(free: int) -> None:
        monkeypatch.setattr(image_cache, 'free_memory', lambda: free)
        usage = type('Usage', (), dict(free=free))
        monkeypatch.setattr(image_cache.shutil, 'disk_usage', lambda _: usage)

    set_free(int(NUM_BYTES / 0.9) - 2)
    name = 'RAM' if place == 'ram' else place
    with pytest.raises(InputError, match=f'6 images, 0.0 GB in {name}; 0.0 GB free.*folder on a'):
        ImageCache(paths, SIZES, place)
    assert not reads
    set_free(int(NUM_BYTES / 0.9) + 2)
    ImageCache(paths, SIZES, place)
    assert f'image cache: 6 images, 0.0 GB in {name}; 0.0 GB free' in log.text
    assert 'image cache: 6 of 6 images read' in log.text


def test_disk_that_fills_up_later_is_an_error_without_remains(paths, folder, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'posix_fallocate', fail)
    with pytest.raises(InputError, match=r'pixels\.npy cannot be written: No space left'):
        ImageCache(paths, SIZES, str(folder))
    assert not list(folder.glob('*/*.npy')) and not list(folder.glob('*/.*'))


@pytest.mark.parametrize(
    ('hosts', 'fits'), [(['here', 'here', 'there', 'there'], True), (['here'] * 3, False)]
)
def test_ram_must_suffice_for_all_processes_of_the_machine(paths, monkeypatch, hosts, fits):
    monkeypatch.setattr(image_cache, 'free_memory', lambda: 3 * NUM_BYTES)
    monkeypatch.setattr(image_cache.socket, 'gethostname', lambda: 'here')
    monkeypatch.setattr(image_cache, 'all_gather_object', lambda _: hosts)
    if fits:
        ImageCache(paths, SIZES, 'ram')
        return
    with pytest.raises(InputError, match='for each of 3 processes'):
        ImageCache(paths, SIZES, 'ram')


def test_16_bit_and_rotated_images_are_cached_as_the_pipeline_reads_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (30, 40, 3), np.uint16)
    deep, rotated = tmp_path / 'a.png', tmp_path / 'b.jpg'
    cv2.imwrite(str(deep), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30), 'red').save(rotated, exif=exif)
    cache = ImageCache([str(deep), str(rotated)], np.array([(40, 30), (30, 40)]), 'ram')
    for path in (deep, rotated):
        np.testing.assert_array_equal(cache[str(path)][0], read_image(path))
    assert cache[str(deep)][0].mean() > 100


def test_free_memory_is_plausible():
    assert 10**8 < image_cache.free_memory() < 10**14


def test_faulty_images_are_reported_with_their_path(paths, place):
    with pytest.raises(InputError, match=r'0\.png is 200 x 90 px, the annotations say 90 x 200'):
        ImageCache(paths, SIZES[:, ::-1], place)
    Path(paths[2]).write_bytes(b'no image')
    with pytest.raises(InputError, match=rf'image {paths[2]} cannot be read as an image'):
        ImageCache(paths, SIZES, place)
    Path(paths[2]).unlink()
    with pytest.raises(InputError, match=rf'image {paths[2]} does not exist'):
        ImageCache(paths, SIZES, place)


def test_cache_of_a_test_dataset_is_an_error(build):
    with pytest.raises(InputError, match='image_cache is for training'):
        build('ram', test_mode=True)


def test_folder_that_cannot_be_written_is_reported(paths):
    with pytest.raises(
        InputError, match=r'image_cache /proc/version/a/.*cannot be used: Not a dir'
    ):
        ImageCache(paths, SIZES, '/proc/version/a')
