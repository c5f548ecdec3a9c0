# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
from mmengine.logging import MessageHub
from mmpose.evaluation import CocoMetric

from kapao_mm.datasets.metainfo import read_metainfo
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric, read_results


@pytest.fixture
def people(tmp_path):
    """An annotation file of one image with two people, and their keypoints."""
    keypoints = np.stack((np.arange(17) * 5.0, np.arange(17) * 7.0 % 50), 1)
    keypoints = np.stack((keypoints + 10, keypoints + 100))
    annotations = [
        dict(
            id=i + 1,  # COCO evaluation takes an id of 0 for "no match"
            image_id=7,
            category_id=1,
            bbox=[0, 0, 200, 200],
            area=9000,
            iscrowd=0,
            num_keypoints=17,
            keypoints=np.c_[points, np.full(17, 2)].ravel().tolist(),
        )
        for i, points in enumerate(keypoints)
    ]
    path = tmp_path / 'people.json'
    categories = [dict(id=1, name='person')]
    images = [dict(id=7, width=300, height=300)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path, keypoints


def evaluate(path, keypoints, scores, keypoint_scores=0):
    metric = KAPAOMetric(ann_file=str(path))
    metric.dataset_meta = dict(
        dataset_name='people', num_keypoints=17, sigmas=np.full(17, 0.05), CLASSES=[]
    )
    sample = dict(
        id=[0, 1],
        img_id=7,
        gt_instances={},
        pred_instances=dict(
            keypoints=keypoints,
            keypoint_scores=np.full(
                keypoints.shape[:2], keypoint_scores, dtype=float
            ),  # 0: nothing fused
            bboxes=np.zeros((len(keypoints), 4)),
            bbox_scores=np.array(scores),
            labels=np.zeros(len(keypoints), int),
        ),
    )
    metric.process([], [sample])
    return metric.evaluate(1)


def test_poses_without_fused_keypoints_count(people):
    assert evaluate(*people, [0.9, 0.8])['coco/AP'] == pytest.approx(1)


def test_two_people_of_one_image_both_count(people):
    path, keypoints = people
    assert evaluate(path, keypoints[:1], [0.9])['coco/AP'] == pytest.approx(0.5, abs=0.02)


def test_near_duplicates_are_not_suppressed_again(people):
    path, keypoints = people
    found = evaluate(path, np.concatenate((keypoints[:1] + 0.01, keypoints)), [0.9, 0.8, 0.7])
    assert found['coco/AP'] < 0.9


def test_no_pose_at_all_is_an_ap_of_zero(people):
    path, keypoints = people
    assert evaluate(path, keypoints[:0], [])['coco/AP'] == 0


def test_fused_keypoints_do_not_change_the_order(people):
    path, keypoints = people
    wrong = np.concatenate((keypoints, keypoints[:1] + 500))
    fused = np.array([[0.0], [0.0], [0.9]]).repeat(17, 1)
    assert evaluate(path, wrong, [0.9, 0.8, 0.3], fused)['coco/AP'] == pytest.approx(1)


CROWD = dict(iou_type='keypoints_crowd', use_area=False)
FOURTEEN = [(i, i - 3) for i in range(3, 17)]  # of COCO's keypoints all but nose and eyes


def run(metric, metainfo, samples):
    metric.dataset_meta = metainfo
    metric.process([], samples)
    return metric.evaluate(len(samples))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'options', 'converters'),
    [
        ('coco', {}, {}),
        ('crowdpose', CROWD, {}),
        ('coco', {}, {key: FOURTEEN for key in ('gt_converter', 'pred_converter')}),
    ],
)
def test_one_category_has_the_metrics_of_mmpose(sample_file, shaken, name, options, converters):
    path, metainfo = sample_file(name)
    samples = shaken(json.loads(path.read_text()))
    converters = {k: dict(num_keypoints=14, mapping=m) for k, m in converters.items()}
    options = dict(ann_file=str(path), **options, **converters)
    theirs = CocoMetric(score_mode='bbox', nms_mode='none', **options)
    expected = run(theirs, dict(metainfo), samples)
    ours = KAPAOMetric(**options)
    found = run(ours, dict(metainfo), samples)
    assert list(found)[: len(expected)] == list(expected)
    assert {key: found[key] for key in expected} == expected
    assert 0.1 < found['coco/AP'] < 0.9
    assert [key for key in found if key not in expected] == [
        f'coco/box {key}' for key in ('AP', 'AP .5', 'AP .75', 'AR')
    ]
    ours.process([], samples)
    assert ours.evaluate(len(samples)) == found  # the ground truth is not converted once more


def test_who_loses_all_keypoints_in_a_conversion_is_not_to_be_found(people):
    """MMPose's conversion takes all its keypoints for labelled ones."""
    path, keypoints = people
    content = json.loads(path.read_text())
    content['images'][0]['crowdIndex'] = 0.5
    content['annotations'][1]['keypoints'][9:] = [0] * 42  # nose and eyes are left
    path.write_text(json.dumps(content))
    converters = ('gt_converter', 'pred_converter')
    converters = {key: dict(num_keypoints=14, mapping=FOURTEEN) for key in converters}
    metric = KAPAOMetric(ann_file=str(path), **CROWD, **converters)
    metainfo = dict(dataset_name='people', num_keypoints=17, sigmas=np.full(17, 0.05))
    poses = dict(
        keypoints=keypoints[:1],
        keypoint_scores=np.ones((1, 17)),
        bboxes=np.zeros((1, 4)),
        bbox_scores=np.ones(1),
        labels=np.zeros(1, int),
    )
    found = run(metric, metainfo, [dict(img_id=7, pred_instances=poses)])
    assert found['coco/AR'] == pytest.approx(1)
    assert len(metainfo['sigmas']) == 17  # shared by all metrics of an evaluator


def test_species_of_a_file_are_one_category(sample_file, shaken):
    path, metainfo = sample_file('ap10k')
    samples = shaken(json.loads(path.read_text()), seed=1)
    for sample in samples:
        assert len(sample['pred_instances']['labels'])
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, samples)
    assert found['coco/AP'] > 0 and found['coco/AR'] > 0.2


@pytest.fixture
def both(two_categories, tmp_path):
    """The annotation file of people and wheels, and metainfo."""
    content, metainfo = two_categories
    path = tmp_path / 'both.json'
    path.write_text(json.dumps(content))
    return path, dict(metainfo)


@pytest.fixture
def both_samples(two_categories, shaken):
    return shaken(two_categories[0], categories=[[2], [5, 9]])


def test_several_categories_have_metrics_of_their_own_in_a_table(both, both_samples, log):
    path, metainfo = both
    found = run(KAPAOMetric(ann_file=str(path), prefix='x'), metainfo, both_samples)
    assert next(iter(found)) == 'x/AP'
    assert found['x/AP'] == pytest.approx((found['x/person/AP'] + found['x/wheel/AP']) / 2)
    assert found['x/box AP'] > 0.1
    (row,) = (line for line in log.text.splitlines() if line.strip().startswith('AP  '))
    values = [found[f'x/{name}'] for name in ('AP', 'person/AP', 'wheel/AP')]
    assert row.split()[1:] == [f'{value:.4f}' for value in values]


def test_a_result_file_evaluates_to_the_metrics_of_its_run(both, both_samples, tmp_path):
    path, metainfo = both
    prefix = tmp_path / 'out/a'
    metric = KAPAOMetric(ann_file=str(path), outfile_prefix=str(prefix))
    found = run(metric, metainfo, both_samples)
    results = read_results(tmp_path / 'out/a.keypoints.json')
    again = KAPAOMetric(ann_file=str(path))
    again.dataset_meta = metainfo
    assert {f'coco/{key}': value for key, value in again.score(results, 'a').items()} == found


def test_results_alone_need_no_ground_truth(both, both_samples, tmp_path):
    path, metainfo = both
    content = json.loads(path.read_text())
    del content['annotations']
    path.write_text(json.dumps(content))
    options = dict(ann_file=str(path), outfile_prefix=str(tmp_path / 'a'))
    assert run(KAPAOMetric(format_only=True, **options), metainfo, both_samples) == {}
    found = read_results(tmp_path / 'a.keypoints.json')
    assert len(found) == sum(len(s['pred_instances']['labels']) for s in both_samples)
    assert {(r['category_id'], len(r['keypoints'])) for r in found} == {(2, 9), (5, 6)}


def test_box_metrics_can_be_left_out(both, both_samples):
    found = run(KAPAOMetric(ann_file=str(both[0]), box_ap=False), both[1], both_samples)
    assert 'coco/person/AP' in found and not any('box' in key for key in found)


def test_nothing_predicted_is_told(people, log):
    path, keypoints = people
    found = evaluate(path, keypoints[:0], [])
    assert found['coco/AP'] == found['coco/box AP'] == 0
    assert 'no pose in 1 images scored above model.test_cfg.pose_score_thr' in log.text


def test_a_category_that_the_file_lacks_is_told_and_left_out(both, both_samples, log):
    path, metainfo = both
    content = json.loads(path.read_text())
    content['categories'] = content['categories'][:1]
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] == 2]
    path.write_text(json.dumps(content))
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, both_samples)
    assert f'annotation file {path} has no category wheel: not evaluated' in log.text
    assert found['coco/AP'] == found['coco/person/AP'] > 0.1
    assert found['coco/wheel/AP'] == -1


def test_metainfo_of_mmposes_datasets_means_one_category(people):
    path, keypoints = people
    metric = KAPAOMetric(ann_file=str(path))
    metainfo = read_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))
    metric.dataset_meta = {k: v for k, v in metainfo.items() if k != 'categories'}
    (category,) = metric.dataset_meta['categories']
    assert category == dict(name='coco', keypoint_ids=list(range(17)))


def test_the_annotation_file_is_that_of_the_dataset(people):
    path, _ = people
    MessageHub.get_current_instance().update_info('strangers_ann_file', str(path))
    metric = KAPAOMetric()
    metric.dataset_meta = dict(dataset_name='strangers', num_keypoints=17)
    assert sorted(metric.coco.anns) == [1, 2]
    with pytest.raises(InputError, match="dataset 'unheard of' is not known: .*ann_file"):
        KAPAOMetric().dataset_meta = dict(dataset_name='unheard of', num_keypoints=17)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(iou_type='segm'), "iou_type is one of keypoints, keypoints_crowd, not 'segm'"),
        (dict(format_only=True), 'format_only needs outfile_prefix'),
        (dict(ann_file='/no/such.json'), 'annotation file /no/such.json does not exist'),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        KAPAOMetric(**options)


def test_annotations_are_needed_to_evaluate(people):
    path, _ = people
    content = json.loads(path.read_text())
    del content['annotations']
    path.write_text(json.dumps(content))
    MessageHub.get_current_instance().update_info('testdev_ann_file', str(path))
    for metric in (KAPAOMetric, lambda: KAPAOMetric(ann_file=str(path))):
        with pytest.raises(InputError, match=f'{path} has no annotations .*--format-only'):
            metric().dataset_meta = dict(dataset_name='testdev', num_keypoints=17)


@pytest.mark.parametrize('value', [True, '1', 1])
def test_crowds_that_are_written_otherwise_are_crowds(people, value, log):
    path, keypoints = people
    content = json.loads(path.read_text())
    content['annotations'][1]['iscrowd'] = value
    path.write_text(json.dumps(content))
    assert evaluate(path, keypoints[:1], [0.9])['coco/AR'] == pytest.approx(1)
    said = "people.json: 1 annotations whose 'iscrowd' is true, false, null or text (2): read as"
    assert (said in log.text) == (value != 1 or value is True)


@pytest.mark.parametrize(
    'change', [dict(iscrowd=1), dict(keypoints=[0] * 51, num_keypoints=0), None]
)
def test_nothing_to_find_is_told_before_the_predictions(people, change, log):
    path, keypoints = people
    content = json.loads(path.read_text())
    content['annotations'] = [ann | change for ann in content['annotations'] if change]
    path.write_text(json.dumps(content))
    metric = KAPAOMetric(ann_file=str(path))
    metric.dataset_meta = dict(dataset_name='people', num_keypoints=17, sigmas=np.full(17, 0.05))
    assert f'{path} has no object of people with labelled keypoints that is no crowd' in log.text
    assert 'there is no keypoint AP, and no checkpoint becomes the best' in log.text
    assert evaluate(path, keypoints, [0.9, 0.8])['coco/AP'] == -1


def test_a_category_without_keypoints_to_find_is_told(both, log):
    path, metainfo = both
    content = json.loads(path.read_text())
    for ann in content['annotations']:
        ann['iscrowd'] = int(ann['category_id'] != 2)
    path.write_text(json.dumps(content))
    KAPAOMetric(ann_file=str(path)).dataset_meta = metainfo
    assert 'has no object of wheel with labelled keypoints' in log.text
    assert 'no checkpoint' not in log.text


def with_fusion(samples, shift):
    """The samples, and their keypoints before fusion: as they are after it, shifted by some px."""
    return [
        sample
        | dict(
            pred_instances=sample['pred_instances']
            | dict(pose_keypoints=sample['pred_instances']['keypoints'] + shift)
        )
        for sample in samples
    ]


@pytest.mark.parametrize('options', [{}, CROWD])
def test_the_ap_without_fusion_is_that_of_the_keypoints_before_it(both, both_samples, options):
    path, metainfo = both
    plain = run(KAPAOMetric(ann_file=str(path), **options), metainfo, both_samples)
    moved = with_fusion(both_samples, 10)
    found = run(KAPAOMetric(ann_file=str(path), **options), metainfo, moved)
    assert {key: found[key] for key in plain} == plain
    names = [
        'coco/AP without fusion',
        *(f'coco/{c}/AP without fusion' for c in ('person', 'wheel')),
    ]
    assert [key for key in found if key not in plain] == names
    before = [
        sample | dict(pred_instances=s | dict(keypoints=s['pose_keypoints']))
        for sample in moved
        for s in (sample['pred_instances'],)
    ]
    expected = run(
        KAPAOMetric(ann_file=str(path), compare_fusion=False, **options), metainfo, before
    )
    assert not any('fusion' in key for key in expected)
    for name in names:
        assert found[name] == pytest.approx(expected[name.removesuffix(' without fusion')])
    assert found['coco/AP without fusion'] < found['coco/AP']


def test_the_log_says_which_is_better_and_what_to_set(both, both_samples, log):
    path, metainfo = both
    run(KAPAOMetric(ann_file=str(path)), metainfo, with_fusion(both_samples, 10))
    assert 'without; fusion helps on these images' in log.text
    worse = [
        s | dict(pred_instances=p | dict(keypoints=p['keypoints'] + 10))
        for s in with_fusion(both_samples, 0)
        for p in (s['pred_instances'],)
    ]
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, worse)
    numbers = (found['coco/AP'], found['coco/AP without fusion'])
    assert 'AP {:.4f} with fusion, {:.4f} without; better without: '.format(*numbers) in log.text
    assert 'set model.test_cfg.fusion_distance=0' in log.text


def test_where_nothing_was_fused_there_is_nothing_to_compare(both, both_samples, log):
    path, metainfo = both
    found = run(KAPAOMetric(ann_file=str(path)), metainfo, with_fusion(both_samples, 0))
    assert not any('fusion' in key for key in found)
    assert 'without' not in log.text


def test_keypoints_before_fusion_are_converted_too(people):
    path, keypoints = people
    options = {
        key: dict(num_keypoints=14, mapping=FOURTEEN) for key in ('gt_converter', 'pred_converter')
    }
    poses = dict(
        keypoints=keypoints + 500,
        pose_keypoints=keypoints,
        keypoint_scores=np.ones((2, 17)),
        bboxes=np.zeros((2, 4)),
        bbox_scores=np.ones(2),
        labels=np.zeros(2, int),
    )
    metainfo = dict(dataset_name='people', num_keypoints=17, sigmas=np.full(17, 0.05))
    found = run(
        KAPAOMetric(ann_file=str(path), **options),
        metainfo,
        [dict(img_id=7, pred_instances=poses)],
    )
    assert (found['coco/AP'], found['coco/AP without fusion']) == (0, pytest.approx(1))


def test_a_missing_area_is_told_before_the_predictions(people):
    path, _ = people
    content = json.loads(path.read_text())
    del content['annotations'][1]['area']
    path.write_text(json.dumps(content))
    meta = dict(dataset_name='people', num_keypoints=17, sigmas=np.full(17, 0.05))
    with pytest.raises(InputError, match="annotations without 'area', .*: 2; .*use_area=False"):
        KAPAOMetric(ann_file=str(path)).dataset_meta = meta
    KAPAOMetric(ann_file=str(path), use_area=False).dataset_meta = meta
    KAPAOMetric(ann_file=str(path), format_only=True, outfile_prefix='x').dataset_meta = meta


def test_a_file_without_any_category_of_the_metainfo_is_refused(both):
    path, metainfo = both
    content = json.loads(path.read_text())
    content['categories'] = [dict(id=1, name='dog')]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match='has none of the categories person, wheel'):
        KAPAOMetric(ann_file=str(path)).dataset_meta = metainfo


def test_converters_are_refused_with_several_categories(both):
    path, metainfo = both
    for key in ('gt_converter', 'pred_converter'):
        converter = {key: dict(num_keypoints=5, mapping=[(i, i) for i in range(5)])}
        with pytest.raises(InputError, match='are for one category'):
            KAPAOMetric(ann_file=str(path), **converter).dataset_meta = metainfo


def test_predictions_with_another_number_of_keypoints_are_refused(people):
    path, keypoints = people
    with pytest.raises(InputError, match="predictions have 14 keypoints, .*'people' has 17"):
        evaluate(path, keypoints[:, :14], [0.9, 0.8])


def test_predictions_of_an_image_that_the_file_lacks_are_refused(people, tmp_path):
    path, keypoints = people
    content = json.loads(path.read_text())
    for ann in content['annotations']:
        ann['image_id'] = 8
    content['images'][0]['id'] = 8
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match='result 0 of the predictions .image 7.: .* no image'):
        evaluate(path, keypoints, [0.9, 0.8])
