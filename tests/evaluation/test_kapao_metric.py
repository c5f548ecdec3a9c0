# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from contextlib import contextmanager

import numpy as np
import pytest
from mmengine.logging import MessageHub
from mmpose.evaluation import CocoMetric

from kapao_mm.datasets.metainfo import read_metainfo
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric, read_results

PEOPLE = dict(dataset_name='people', num_keypoints=17, sigmas=np.full(17, 0.05), CLASSES=[])
CROWD = dict(iou_type='keypoints_crowd', use_area=False)
FOURTEEN = dict(num_keypoints=14, mapping=[(i, i - 3) for i in range(3, 17)])  # no nose and eyes
CONVERTERS = dict(gt_converter=FOURTEEN, pred_converter=FOURTEEN)


@pytest.fixture
def people(tmp_path):
    """An annotation file of one image with two people, and their keypoints."""
    keypoints = np.stack((np.arange(17) * 5.0, np.arange(17) * 7.0 % 50), 1)
    keypoints = np.stack((keypoints + 10, keypoints + 100))
    annotations = [
        dict(
            id=i + 1,  # COCO's evaluation uses an id of 0 for "no match"
            image_id=7,
            category_id=1,
            bbox=[0, 0, 200, 200],
            area=9000,
            iscrowd=0,
            num_keypoints=17,
            keypoints=np.c_[person, np.full(17, 2)].ravel().tolist(),
        )
        for i, person in enumerate(keypoints)
    ]
    path = tmp_path / 'people.json'
    categories = [dict(id=1, name='person')]
    images = [dict(id=7, width=300, height=300)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path, keypoints


@contextmanager
def editing(path):
    """Yields the content of a JSON file, and writes it back."""
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


def sample_of(keypoints, scores=None, keypoint_scores=0, **fields):
    """Returns a predicted image; keypoint scores of 0 mean that nothing was fused."""
    count = len(keypoints)
    poses = dict(
        keypoints=keypoints,
        keypoint_scores=np.full(keypoints.shape[:2], keypoint_scores, dtype=float),
        bboxes=np.zeros((count, 4)),
        bbox_scores=np.array(np.ones(count) if scores is None else scores),
        labels=np.zeros(count, int),
    )
    return dict(id=[0, 1], img_id=7, gt_instances={}, pred_instances=poses | fields)


def run(metric, metainfo, samples):
    metric.dataset_meta = metainfo
    metric.process([], samples)
    return metric.evaluate(len(samples))


def evaluate(path, keypoints, scores, keypoint_scores=0):
    sample = sample_of(keypoints, scores, keypoint_scores)
    return run(KAPAOMetric(ann_file=str(path)), PEOPLE, [sample])


def test_poses_without_fused_keypoints_are_counted(people):
    assert evaluate(*people, [0.9, 0.8])['coco/AP'] == pytest.approx(1)


def test_both_people_of_an_image_are_counted(people):
    path, keypoints = people
    assert evaluate(path, keypoints[:1], [0.9])['coco/AP'] == pytest.approx(0.5, abs=0.02)


def test_near_duplicates_are_not_suppressed_again(people):
    path, keypoints = people
    found = evaluate(path, np.concatenate((keypoints[:1] + 0.01, keypoints)), [0.9, 0.8, 0.7])
    assert found['coco/AP'] < 0.9


def test_ap_without_predictions_is_zero_and_a_warning_is_logged(people, log):
    path, keypoints = people
    found = evaluate(path, keypoints[:0], [])
    assert found['coco/AP'] == found['coco/box AP'] == 0
    assert 'no pose in 1 images scored above model.test_cfg.pose_score_thr' in log.text


def test_fused_keypoints_do_not_change_the_order(people):
    path, keypoints = people
    wrong = np.concatenate((keypoints, keypoints[:1] + 500))
    fused = np.array([[0.0], [0.0], [0.9]]).repeat(17, 1)
    assert evaluate(path, wrong, [0.9, 0.8, 0.3], fused)['coco/AP'] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'options'), [('coco', {}), ('crowdpose', CROWD), ('coco', CONVERTERS)]
)
def test_metrics_of_one_category_equal_those_of_mmpose(sample_file, shaken, name, options):
    path, metainfo = sample_file(name)
    samples = shaken(json.loads(path.read_text()))
    options = dict(ann_file=str(path), **options)
    reference = CocoMetric(score_mode='bbox', nms_mode='none', **options)
    expected = run(reference, dict(metainfo), samples)
    metric = KAPAOMetric(**options)
    found = run(metric, dict(metainfo), samples)
    assert list(found)[: len(expected)] == list(expected)
    assert {key: found[key] for key in expected} == expected
    assert 0.1 < found['coco/AP'] < 0.9
    assert [key for key in found if key not in expected] == [
        f'coco/box {key}' for key in ('AP', 'AP .5', 'AP .75', 'AR')
    ]
    metric.process([], samples)
    assert metric.evaluate(len(samples)) == found  # the ground truth is not converted twice


def test_person_without_keypoints_after_conversion_is_not_expected(people):
    """MMPose's conversion counts all keypoints as labeled."""
    path, keypoints = people
    with editing(path) as content:
        content['images'][0]['crowdIndex'] = 0.5
        content['annotations'][1]['keypoints'][9:] = [0] * 42  # only nose and eyes are labeled
    metric = KAPAOMetric(ann_file=str(path), **CROWD, **CONVERTERS)
    found = run(metric, PEOPLE, [sample_of(keypoints[:1])])
    assert found['coco/AR'] == pytest.approx(1)
    assert len(PEOPLE['sigmas']) == 17  # unchanged, all metrics of an evaluator share it


def test_all_species_of_a_file_are_one_category(sample_file, shaken):
    path, metainfo = sample_file('ap10k')
    samples = shaken(json.loads(path.read_text()), seed=1)
    for sample in samples:
        assert len(sample['pred_instances']['labels'])
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, samples)
    assert found['coco/AP'] > 0 and found['coco/AR'] > 0.2


@pytest.fixture
def both(two_categories, tmp_path):
    """An annotation file of people and wheels, and its metainfo."""
    content, metainfo = two_categories
    path = tmp_path / 'both.json'
    path.write_text(json.dumps(content))
    return path, dict(metainfo)


@pytest.fixture
def both_samples(two_categories, shaken):
    return shaken(two_categories[0], categories=[[2], [5, 9]])


def test_metrics_of_each_category_are_logged_in_a_table(both, both_samples, log):
    path, metainfo = both
    found = run(KAPAOMetric(ann_file=str(path), prefix='x'), metainfo, both_samples)
    assert next(iter(found)) == 'x/AP'
    assert found['x/AP'] == pytest.approx((found['x/person/AP'] + found['x/wheel/AP']) / 2)
    assert found['x/box AP'] > 0.1
    (row,) = (line for line in log.text.splitlines() if line.strip().startswith('AP  '))
    values = [found[f'x/{name}'] for name in ('AP', 'person/AP', 'wheel/AP')]
    assert row.split()[1:] == [f'{value:.4f}' for value in values]


def test_result_file_gives_the_same_metrics_as_its_run(both, both_samples, tmp_path):
    path, metainfo = both
    prefix = tmp_path / 'out/a'
    metric = KAPAOMetric(ann_file=str(path), outfile_prefix=str(prefix))
    found = run(metric, metainfo, both_samples)
    results = read_results(tmp_path / 'out/a.keypoints.json')
    again = KAPAOMetric(ann_file=str(path))
    again.dataset_meta = metainfo
    assert {f'coco/{key}': value for key, value in again.score(results, 'a').items()} == found


def test_format_only_needs_no_ground_truth(both, both_samples, tmp_path):
    path, metainfo = both
    with editing(path) as content:
        del content['annotations']
    options = dict(ann_file=str(path), outfile_prefix=str(tmp_path / 'a'))
    assert run(KAPAOMetric(format_only=True, **options), metainfo, both_samples) == {}
    found = read_results(tmp_path / 'a.keypoints.json')
    assert len(found) == sum(len(s['pred_instances']['labels']) for s in both_samples)
    assert {(r['category_id'], len(r['keypoints'])) for r in found} == {(2, 9), (5, 6)}


def test_box_metrics_can_be_disabled(both, both_samples):
    found = run(KAPAOMetric(ann_file=str(both[0]), box_ap=False), both[1], both_samples)
    assert 'coco/person/AP' in found and not any('box' in key for key in found)


def test_category_that_is_missing_in_the_file_is_logged_and_not_counted(both, both_samples, log):
    path, metainfo = both
    with editing(path) as content:
        content['categories'] = content['categories'][:1]
        content['annotations'] = [a for a in content['annotations'] if a['category_id'] == 2]
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, both_samples)
    assert f'annotation file {path} has no category wheel: not evaluated' in log.text
    assert found['coco/AP'] == found['coco/person/AP'] > 0.1
    assert found['coco/wheel/AP'] == -1


def test_metainfo_of_mmpose_is_one_category(people):
    path, keypoints = people
    metric = KAPAOMetric(ann_file=str(path))
    metainfo = read_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))
    metric.dataset_meta = {k: v for k, v in metainfo.items() if k != 'categories'}
    (category,) = metric.dataset_meta['categories']
    assert category == dict(name='coco', keypoint_ids=list(range(17)))


def test_default_annotation_file_is_that_of_the_dataset(people):
    path, _ = people
    MessageHub.get_current_instance().update_info('known_ann_file', str(path))
    metric = KAPAOMetric()
    metric.dataset_meta = PEOPLE | dict(dataset_name='known')
    assert sorted(metric.coco.anns) == [1, 2]
    with pytest.raises(InputError, match="dataset 'unknown' is not known: .*ann_file"):
        KAPAOMetric().dataset_meta = PEOPLE | dict(dataset_name='unknown')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(iou_type='segm'), "iou_type is 'segm'; set keypoints or keypoints_crowd"),
        (dict(format_only=True), 'format_only needs outfile_prefix'),
        (dict(ann_file='/no/such.json'), 'annotation file /no/such.json does not exist'),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        KAPAOMetric(**options)


def test_evaluation_without_annotations_is_refused(people):
    path, _ = people
    with editing(path) as content:
        del content['annotations']
    MessageHub.get_current_instance().update_info('testdev_ann_file', str(path))
    for metric in (KAPAOMetric, lambda: KAPAOMetric(ann_file=str(path))):
        with pytest.raises(InputError, match=f'{path} has no annotations .*--format-only'):
            metric().dataset_meta = PEOPLE | dict(dataset_name='testdev')


@pytest.mark.parametrize('value', [True, '1', 1])
def test_crowd_regions_with_other_values_are_recognized(people, value, log):
    path, keypoints = people
    with editing(path) as content:
        content['annotations'][1]['iscrowd'] = value
    assert evaluate(path, keypoints[:1], [0.9])['coco/AR'] == pytest.approx(1)
    message = "people.json: 1 annotations whose 'iscrowd' is true, false, null or text (2); read as"
    assert (message in log.text) == (value != 1 or value is True)


@pytest.mark.parametrize(
    'change', [dict(iscrowd=1), dict(keypoints=[0] * 51, num_keypoints=0), None]
)
def test_ground_truth_without_keypoints_is_logged_before_the_predictions(people, change, log):
    path, keypoints = people
    with editing(path) as content:
        content['annotations'] = [ann | change for ann in content['annotations'] if change]
    KAPAOMetric(ann_file=str(path)).dataset_meta = PEOPLE
    assert f'{path} has no labeled keypoints outside crowd regions for people:' in log.text
    assert 'there is no keypoint AP, and no checkpoint becomes the best' in log.text
    assert evaluate(path, keypoints, [0.9, 0.8])['coco/AP'] == -1


def test_category_without_keypoints_in_the_ground_truth_is_logged(both, log):
    path, metainfo = both
    with editing(path) as content:
        for ann in content['annotations']:
            ann['iscrowd'] = int(ann['category_id'] != 2)
    KAPAOMetric(ann_file=str(path)).dataset_meta = metainfo
    assert 'has no labeled keypoints outside crowd regions for wheel' in log.text
    assert 'no checkpoint' not in log.text


def shift_poses(samples, before=0, after=0):
    """Adds keypoints before fusion to samples, and shifts those before and after it by some px."""
    return [
        sample
        | dict(
            pred_instances=poses
            | dict(pose_keypoints=poses['keypoints'] + before, keypoints=poses['keypoints'] + after)
        )
        for sample in samples
        for poses in [sample['pred_instances']]
    ]


@pytest.mark.parametrize('options', [{}, CROWD])
def test_ap_without_fusion_is_that_of_the_keypoints_before_fusion(both, both_samples, options):
    path, metainfo = both
    plain = run(KAPAOMetric(ann_file=str(path), **options), metainfo, both_samples)
    samples = shift_poses(both_samples, before=10)
    found = run(KAPAOMetric(ann_file=str(path), **options), metainfo, samples)
    assert {key: found[key] for key in plain} == plain
    names = [f'coco/{category}AP without fusion' for category in ('', 'person/', 'wheel/')]
    assert [key for key in found if key not in plain] == names
    unfused = KAPAOMetric(ann_file=str(path), compare_fusion=False, **options)
    expected = run(unfused, metainfo, shift_poses(both_samples, after=10))
    assert not any('fusion' in key for key in expected)
    for name in names:
        assert found[name] == pytest.approx(expected[name.removesuffix(' without fusion')])
    assert found['coco/AP without fusion'] < found['coco/AP']


def test_better_choice_of_fusion_is_logged(both, both_samples, log):
    path, metainfo = both
    run(KAPAOMetric(ann_file=str(path)), metainfo, shift_poses(both_samples, before=10))
    assert 'without; fusion helps on these images' in log.text
    worse = shift_poses(both_samples, after=10)
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, worse)
    numbers = (found['coco/AP'], found['coco/AP without fusion'])
    assert 'AP {:.4f} with fusion, {:.4f} without; better without: '.format(*numbers) in log.text
    assert 'set model.test_cfg.fusion_distance=0' in log.text


def test_predictions_without_fusion_are_not_compared(both, both_samples, log):
    path, metainfo = both
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, shift_poses(both_samples))
    assert not any('fusion' in key for key in found)
    assert 'without' not in log.text


def test_keypoints_before_fusion_are_converted(people):
    path, keypoints = people
    sample = sample_of(keypoints + 500, pose_keypoints=keypoints)
    found = run(KAPAOMetric(ann_file=str(path), **CONVERTERS), PEOPLE, [sample])
    assert (found['coco/AP'], found['coco/AP without fusion']) == (0, pytest.approx(1))


def test_missing_area_is_estimated_from_the_boxes_of_all_objects(people, log):
    path, keypoints = people
    samples = [sample_of(keypoints + 3)]
    expected = run(KAPAOMetric(ann_file=str(path), use_area=False), PEOPLE, samples)
    assert expected != run(KAPAOMetric(ann_file=str(path)), PEOPLE, samples)
    with editing(path) as content:
        del content['annotations'][1]['area']
    assert run(KAPAOMetric(ann_file=str(path)), PEOPLE, samples) == expected
    assert log.text.count("1 annotations without 'area' (2); OKS uses 0.53 of the area") == 1
    KAPAOMetric(ann_file=str(path), format_only=True, outfile_prefix='x').dataset_meta = PEOPLE


def test_file_without_any_category_of_the_metainfo_is_refused(both):
    path, metainfo = both
    with editing(path) as content:
        content['categories'] = [dict(id=1, name='dog')]
    with pytest.raises(InputError, match='has none of the categories person, wheel'):
        KAPAOMetric(ann_file=str(path)).dataset_meta = metainfo


@pytest.mark.parametrize('key', CONVERTERS)
def test_converters_are_refused_with_several_categories(both, key):
    path, metainfo = both
    converter = {key: dict(num_keypoints=5, mapping=[(i, i) for i in range(5)])}
    with pytest.raises(InputError, match='work with a single category only'):
        KAPAOMetric(ann_file=str(path), **converter).dataset_meta = metainfo


def test_predictions_with_another_number_of_keypoints_are_refused(people):
    path, keypoints = people
    with pytest.raises(InputError, match="predictions have 14 keypoints, .*'people' has 17"):
        evaluate(path, keypoints[:, :14], [0.9, 0.8])


def test_predictions_for_an_unknown_image_are_refused(people):
    path, keypoints = people
    with editing(path) as content:
        content['images'][0]['id'] = 8
        content['annotations'] = [ann | dict(image_id=8) for ann in content['annotations']]
    with pytest.raises(InputError, match='result 0 of the predictions .image 7.: .* no image'):
        evaluate(path, keypoints, [0.9, 0.8])
