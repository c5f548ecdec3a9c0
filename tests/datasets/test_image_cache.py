# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import os
import pickle
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
from kapao_mm.datasets.toy import KEYPOINTS
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config
from kapao_mm.utils.image_files import read_image

SIZE = 64  # of the training input
SIZES = ((200, 90), (40, 50), (64, 64), (90, 200), (70, 66), (64, 30))  # (w, h)


@pytest.fixture
def write_images(tmp_path):
    """Writes images of noise; returns their paths and sizes."""

    def write(sizes=SIZES) -> tuple[list[str], np.ndarray]:
        rng = np.random.default_rng(0)
        paths = []
        for number, (width, height) in enumerate(sizes):
            paths.append(str(tmp_path / f'{number}.png'))
            cv2.imwrite(paths[-1], rng.integers(0, 256, (height, width, 3), np.uint8))
        return paths, np.array(sizes)

    return write


@pytest.fixture
def build(write_images, tmp_path):
    """Builds the training dataset of those images, with two people each, none in the last."""
    paths, sizes = write_images()
    images = [
        dict(id=i + 1, file_name=Path(path).name, width=int(w), height=int(h))
        for i, (path, (w, h)) in enumerate(zip(paths, sizes, strict=True))
    ]
    people = [
        dict(
            id=10 * image['id'] + i,
            image_id=image['id'],
            category_id=1,
            bbox=[3 * i + 0.3, 5, 20, 17.7],
            keypoints=[7.1, 9.7, 2] * len(KEYPOINTS),
            num_keypoints=len(KEYPOINTS),
            area=300,
            iscrowd=0,
        )
        for image in images[:-1]
        for i in range(2)
    ]
    (tmp_path / 'people.json').write_text(
        json.dumps(dict(images=images, annotations=people, categories=[dict(id=1, name='person')]))
    )
    load = dict(type='CheckedLoadImage')
    mosaic = dict(type='Mosaic', img_scale=(SIZE, SIZE), pre_transform=[load])

    def build(where: str | None, pipeline=(load, mosaic), **options):
        config = dict(
            type='KeypointDataset',
            metainfo=dict(from_file='configs/_base_/datasets/coco.py'),
            ann_file=str(tmp_path / 'people.json'),
            data_prefix=dict(img=str(tmp_path)),
            pipeline=list(pipeline),
            image_cache=where,
        )
        return DATASETS.build(config | options)

    return build


def places(tmp_path: Path) -> tuple[str, str]:
    return 'ram', str(tmp_path / 'cache')


@pytest.mark.slow
@pytest.mark.parametrize('in_one_step', [False, True], ids=['mosaic', 'mosaic and affine'])
@pytest.mark.parametrize('where', [0, 1], ids=['ram', 'file'])
def test_mosaics_are_those_without_the_cache(build, tmp_path, where, in_one_step):
    load = dict(type='CheckedLoadImage')
    both = dict(
        type='MosaicScaleTranslate',
        input_size=SIZE,
        scale_range=(0.5, 1.5),
        max_shift=0.1,
        pre_transform=[load],
    )
    options = dict(pipeline=[load, both]) if in_one_step else {}
    plain, cached = build(None, **options), build(places(tmp_path)[where], **options)
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
def test_larger_images_are_kept_at_training_size_and_smaller_ones_as_they_are(build):
    dataset = build('ram')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    shapes = [info['img'].shape[1::-1] for info in infos]
    assert shapes == [(64, 28), (40, 50), (64, 64), (28, 64), (64, 60), (64, 30)]
    np.testing.assert_allclose(infos[0]['bbox'][0], np.array([0.3, 5, 20.3, 22.7]) * 64 / 200)


@pytest.mark.slow
def test_without_mosaic_images_keep_their_size(build):
    letterbox = dict(type='Letterbox', input_size=SIZE)
    dataset = build('ram', pipeline=[dict(type='CheckedLoadImage'), letterbox])
    assert dataset.get_data_info(0)['img'].shape == (90, 200, 3)


@pytest.mark.slow
@pytest.mark.parametrize('change', [dict(prob=0.5), dict(pre_transform=None), 'flip before'])
def test_only_a_mosaic_that_always_comes_first_shrinks(build, change):
    load = dict(type='CheckedLoadImage')
    mosaic = dict(type='Mosaic', img_scale=(SIZE, SIZE), pre_transform=[load])
    if change == 'flip before':
        pipeline = [load, dict(type='HorizontalFlip', prob=0.5), mosaic]
    else:
        pipeline = [load, mosaic | change]
    assert build('ram', pipeline=pipeline).get_data_info(0)['img'].shape == (90, 200, 3)


@given(
    st.lists(st.tuples(st.integers(1, 6000), st.integers(1, 6000)), min_size=1),
    st.tuples(st.integers(64, 1280), st.integers(64, 1280)),
)
def test_mosaic_leaves_shrunk_images_and_their_labels_alone(sizes, limit):
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
def test_samples_of_a_subset_and_of_a_copy_have_their_own_images(build):
    dataset = build('ram')
    subset = dataset.get_subset([3])
    np.testing.assert_array_equal(subset.get_data_info(0)['img'], dataset.get_data_info(3)['img'])
    assert deepcopy(dataset)._images is dataset._images


@pytest.mark.slow
def test_only_the_images_that_are_used_are_kept(build, tmp_path):
    (tmp_path / '5.png').unlink()
    build('ram', indices=3)


@pytest.mark.slow
def test_forked_workers_share_the_cache_in_every_epoch(build, tmp_path):
    load = dict(type='CheckedLoadImage')
    dataset = build(
        'ram',
        pipeline=[
            load,
            dict(type='Letterbox', input_size=64, square=True),
            dict(type='PackKAPAOInputs'),
        ],
    )
    for path in tmp_path.glob('*.png'):
        path.unlink()
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


def test_images_cannot_be_changed(write_images, tmp_path):
    paths, sizes = write_images()
    for place in places(tmp_path):
        image, _ = ImageCache(paths, sizes, place)[paths[0]]
        assert type(image) is np.ndarray
        with pytest.raises(ValueError, match='read-only'):
            image[:] = 0


def test_workers_that_are_not_forked_are_refused(write_images):
    with pytest.raises(InputError, match='mp_start_method=fork'):
        pickle.dumps(ImageCache(*write_images(), 'ram'))


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


def test_a_file_is_found_again(write_images, tmp_path, reads):
    paths, sizes = write_images()
    first = ImageCache(paths, sizes, str(tmp_path / 'cache'))
    assert sorted(reads) == paths
    second = ImageCache(paths, sizes, str(tmp_path / 'cache'))
    assert len(reads) == len(paths)
    for path in paths:
        np.testing.assert_array_equal(first[path][0], second[path][0])


@pytest.mark.parametrize('change', ['content', 'time', 'limit', 'images'])
def test_a_file_of_other_images_or_another_size_is_not_used(write_images, tmp_path, reads, change):
    paths, sizes = write_images()
    folder, limit = str(tmp_path / 'cache'), (SIZE, SIZE)
    ImageCache(paths, sizes, folder, limit)
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
    cache = ImageCache(paths, sizes, folder, limit)
    assert len(reads) == len(paths)
    if change == 'content':
        assert not cache[paths[0]][0].any()


def test_an_interrupted_file_is_filled_again(write_images, tmp_path, monkeypatch):
    paths, sizes = write_images()
    folder = tmp_path / 'cache'
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr(ImageCache, '_store', stop)
        ImageCache(paths, sizes, str(folder))
    assert not list(folder.glob('*.cache')) and list(folder.glob('*.partial'))
    image, _ = ImageCache(paths, sizes, str(folder))[paths[1]]
    np.testing.assert_array_equal(image, cv2.imread(paths[1]))
    assert list(folder.glob('*.cache')) and not list(folder.glob('*.partial'))


def fill(paths: list[str], sizes: np.ndarray, folder: str, reads: list, queue) -> None:
    cache = ImageCache(paths, sizes, folder)
    queue.put((len(reads), int(cache[paths[0]][0].sum())))


def test_of_several_processes_one_fills_the_file(write_images, tmp_path, reads):
    paths, sizes = write_images()
    fork = get_context('fork')
    queue = fork.Queue()
    arguments = (paths, sizes, str(tmp_path / 'cache'), reads, queue)
    processes = [fork.Process(target=fill, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    total = int(cv2.imread(paths[0]).sum())
    assert found == [(0, total), (0, total), (len(paths), total)]


@pytest.mark.parametrize('where', [0, 1], ids=['ram', 'file'])
def test_the_size_is_said_first_and_refused_if_it_does_not_fit(
    write_images, tmp_path, reads, log, monkeypatch, where
):
    paths, sizes = write_images()
    needed = 3 * int(sizes.prod(1).sum())
    place = places(tmp_path)[where]

    def set_free(free: int) -> None:
        monkeypatch.setattr(image_cache, 'free_memory', lambda: free)
        usage = type('Usage', (), dict(free=free))
        monkeypatch.setattr(image_cache.shutil, 'disk_usage', lambda _: usage)

    set_free(int(needed / 0.9) - 2)
    name = 'RAM' if where == 0 else place
    with pytest.raises(InputError, match=f'6 images, 0.0 GB in {name}; 0.0 GB free.*folder on a'):
        ImageCache(paths, sizes, place)
    assert not reads
    set_free(int(needed / 0.9) + 2)
    ImageCache(paths, sizes, place)
    assert f'image cache: 6 images, 0.0 GB in {name}; 0.0 GB free' in log.text
    assert 'image cache: 6 of 6 images read' in log.text


def test_in_ram_every_process_of_the_machine_counts(write_images, monkeypatch):
    paths, sizes = write_images()
    needed = 3 * int(sizes.prod(1).sum())
    monkeypatch.setattr(image_cache, 'free_memory', lambda: 3 * needed)
    monkeypatch.setattr(image_cache.socket, 'gethostname', lambda: 'here')
    for names, fits in ((['here', 'here', 'there', 'there'], True), (['here'] * 3, False)):
        monkeypatch.setattr(image_cache, 'all_gather_object', lambda _, names=names: names)
        if fits:
            ImageCache(paths, sizes, 'ram')
            continue
        with pytest.raises(InputError, match='for each of 3 processes'):
            ImageCache(paths, sizes, 'ram')


def test_deep_and_turned_images_are_cached_as_they_are_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (30, 40, 3), np.uint16)
    deep, turned = tmp_path / 'a.png', tmp_path / 'b.jpg'
    cv2.imwrite(str(deep), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30), 'red').save(turned, exif=exif)
    cache = ImageCache([str(deep), str(turned)], np.array([(40, 30), (30, 40)]), 'ram')
    for path in (deep, turned):
        np.testing.assert_array_equal(cache[str(path)][0], read_image(path))
    assert cache[str(deep)][0].mean() > 100


def test_the_free_memory_is_that_of_the_machine():
    assert 10**8 < image_cache.free_memory() < 10**14


@pytest.mark.parametrize('where', [0, 1], ids=['ram', 'file'])
def test_faulty_images_are_named(write_images, tmp_path, where):
    place = places(tmp_path)[where]
    paths, sizes = write_images()
    with pytest.raises(InputError, match=r'0\.png is 200 x 90 px, the annotations say 90 x 200'):
        ImageCache(paths, sizes[:, ::-1], place)
    Path(paths[2]).write_bytes(b'no image')
    with pytest.raises(InputError, match=rf'image {paths[2]} cannot be read as an image'):
        ImageCache(paths, sizes, place)
    Path(paths[2]).unlink()
    with pytest.raises(InputError, match=rf'image {paths[2]} does not exist'):
        ImageCache(paths, sizes, place)


def test_test_datasets_have_no_cache(build):
    with pytest.raises(InputError, match='image_cache is for training'):
        build('ram', test_mode=True)


def test_a_folder_that_cannot_be_written_is_named(write_images):
    with pytest.raises(
        InputError, match=r'image_cache /proc/version/a/.*cannot be used: Not a dir'
    ):
        ImageCache(*write_images(), '/proc/version/a')


def test_the_config_variable_reaches_training_only(repo):
    cfg = load_config(repo / 'configs/kapao/kapao_s_crowdpose.py', {'image_cache': 'ram'})
    assert cfg.train_dataloader.dataset.image_cache == 'ram'
    assert 'image_cache' not in cfg.test_dataloader.dataset
