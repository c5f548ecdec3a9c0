# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import threading
import tracemalloc
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kapao_mm.errors import InputError
from kapao_mm.functional.postprocess import filter_detections


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


def test_a_result_is_in_px_of_the_original_image(predictor, make_image):
    image = cv2.resize(make_image(), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    (result,) = predictor.predict(image)
    np.testing.assert_allclose(result.keypoints[0, 0], [120, 90])  # the keypoint object
    np.testing.assert_allclose(result.prediction.pose_keypoints[0, 0], [129, 90])
    assert np.shares_memory(result.image, image) and result.frame is None


def test_inputs_of_all_kinds_are_predicted_alike(predictor, make_image, tmp_path):
    image = make_image()
    path = write(tmp_path / 'in/a.png', image)
    (tmp_path / 'in/README.md').write_text('no image')
    kinds = [
        image,
        str(path),
        path,
        path.parent,
        str(path.parent / '*.png'),
        [path],
        (image for _ in range(1)),
        image[..., 0],
        np.dstack([image, image[..., 0]]),
        image.astype(np.uint16) * 257,
        image.astype(np.float32),
        Image.fromarray(image),
    ]
    for kind in kinds:
        (result,) = predictor.predict(kind)
        np.testing.assert_array_equal(result.image, image)
        np.testing.assert_allclose(result.keypoints[0, 0], [40, 30])


def test_a_stream_holds_only_the_images_that_are_in_work(predictor, make_image):
    made = count()

    def images():
        while True:
            next(made)
            yield make_image()

    results = predictor.predict(images(), stream=True, batch_size=2)
    assert len(list(islice(results, 6))) == 6
    assert next(made) <= 6 + 2 * 2 + 3
    before = threading.active_count()
    results.close()
    assert threading.active_count() < before


def test_images_of_one_shape_are_a_batch(predictor, make_image):
    shapes = [(128, 64), (64, 128), (128, 64), (128, 60)]
    results = predictor.predict([make_image(size) for size in shapes], batch_size=4)
    assert sorted(predictor.batches) == [(1, 128, 64, 3), (3, 64, 128, 3)]
    assert [result.image.shape[1::-1] for result in results] == shapes


def test_settings_hold_for_a_call(predictor, make_image):
    image = make_image(value=200)  # score 0.78
    assert len(predictor.predict(image)[0]) == 1
    assert len(predictor.predict(image, pose_score_thr=0.9)[0]) == 0
    assert len(predictor.predict(image, categories='car')[0]) == 0
    assert len(predictor.predict(image, categories=['cat'])[0]) == 1
    assert not predictor.predict(image, fusion_distance=0)[0].keypoints_fused.any()
    predictor.predict(image, input_size=256)
    assert predictor.batches[-1] == (1, 128, 256, 3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(pose_score=0.3), 'pose_score is not a setting; did you mean pose_score_thr'),
        (dict(pose_score_thr=2), 'pose_score_thr must be a number from 0 to 1, got 2'),
        (dict(pose_score_thr=float('nan')), 'must be a number from 0 to 1, got nan'),
        (dict(max_objects=1.5), 'max_objects must be a whole number, 1 or more, got 1.5'),
        (dict(categories='dog'), "the model has no category 'dog', only cat, car"),
        (dict(input_size=100), 'multiple of 64, got 100'),
        (dict(batch_size=0), 'batch_size must be at least 1, got 0'),
        (dict(smooth=True), 'smooth needs track'),
    ],
)
def test_wrong_options_are_named(predictor, make_image, options, message):
    with pytest.raises(InputError, match=message):
        predictor.predict(make_image(), **options)


def test_a_broken_file_of_a_folder_is_logged_and_one_of_a_list_is_an_error(
    predictor, make_image, tmp_path, caplog
):
    write(tmp_path / 'b.png', make_image())
    (tmp_path / 'a.png').write_text('no image')
    results = predictor.predict(tmp_path)
    assert [Path(result.name).name for result in results] == ['b.png']
    assert 'a.png cannot be read as an image' in caplog.text
    assert '1 of 2 images could not be predicted' in caplog.text
    with pytest.raises(InputError, match=r'a\.png cannot be read as an image'):
        predictor.predict([tmp_path / 'b.png', tmp_path / 'a.png'])
    (tmp_path / 'b.png').unlink()
    with pytest.raises(InputError, match=r'a\.png cannot be read as an image'):
        predictor.predict(tmp_path)


def test_a_moving_cat_is_tracked(predictor, make_image):
    pytest.importorskip('trackers', reason='the package trackers is optional')
    frames = [make_image(spot=(30 + 2 * i, 30)) for i in range(8)]
    results = predictor.track(frames)
    assert {int(result.track_ids[0]) for result in results[2:]} == {1}


def test_filtering_keeps_what_suppression_with_these_thresholds_would(predictor, make_image):
    options = predictor.options()
    ((found, _),) = predictor.detect([make_image(value=200)], options)
    stricter = replace(options.settings, pose_score_thr=0.9)
    kept = filter_detections(found, stricter, [2, 1])
    assert (len(kept.pose_objects.bboxes), len(kept.keypoint_objects.bboxes)) == (0, 1)
    kept = filter_detections(found, options.settings, [2, 1], categories=[1])
    assert (len(kept.pose_objects.bboxes), len(kept.keypoint_objects.bboxes)) == (0, 0)


def test_memory_does_not_grow_with_the_length_of_a_stream(predictor, make_image):
    results = predictor.predict((make_image() for _ in range(400)), stream=True)
    for _ in islice(results, 100):
        pass
    tracemalloc.start()
    for _ in islice(results, 250):
        pass
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 20 * make_image().nbytes
