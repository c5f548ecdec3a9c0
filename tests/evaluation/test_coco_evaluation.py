# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import contextlib
import copy
import io
import json

import pycocotools.coco
import pycocotools.cocoeval
import pytest

from kapao_mm.evaluation import evaluate_results
from kapao_mm.evaluation.coco_evaluation import count_truths, format_metrics, metric_names

IDS = [[2], [5, 9]]  # category ids of two_categories


def take_category(metainfo, index, name):
    """Returns the metainfo of one category."""
    ids = metainfo['categories'][index]['keypoint_ids']
    return dict(
        dataset_name=name,
        num_keypoints=len(ids),
        sigmas=metainfo['sigmas'][ids],
        categories=[dict(name=name, keypoint_ids=list(range(len(ids))))],
        CLASSES=[entry for entry in metainfo['CLASSES'] if entry['name'] == name],
    )


def select(entries, ids):
    return [entry for entry in entries if entry['category_id'] in ids]


@pytest.mark.parametrize('name', ['coco', 'crowdpose'])
def test_box_metrics_equal_those_of_pycocotools(sample_file, tmp_path, name, records):
    path, metainfo = sample_file(name)
    content = json.loads(path.read_text())
    results = records(content, metainfo)
    found = evaluate_results(content, results, metainfo, use_area=name == 'coco')
    boxes = [{key: r[key] for key in r if key != 'keypoints'} for r in results]
    for ann in content['annotations']:  # CrowdPose has no area
        ann.setdefault('area', ann['bbox'][2] * ann['bbox'][3])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = pycocotools.coco.COCO(str(tmp_path / 'a.json'))
        evaluation = pycocotools.cocoeval.COCOeval(truth, truth.loadRes(boxes), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = evaluation.stats[[0, 1, 2, 8]].tolist()
    assert [found[f'box {key}'] for key in ('AP', 'AP .5', 'AP .75', 'AR')] == expected
    assert 0.1 < expected[0] < 0.9


def one_person(**changes):
    content = dict(
        images=[dict(id=1)],
        categories=[dict(id=1, name='person')],
        annotations=[
            dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 50, 50], area=2500, iscrowd=0)
            | dict(keypoints=[5, 5, 2, 40, 30, 2])
        ],
    )
    other = dict(id=2, bbox=[100, 100, 50, 50], keypoints=[0] * 6) | changes
    content['annotations'].append(content['annotations'][0] | other)
    metainfo = dict(
        sigmas=[0.1, 0.1],
        categories=[dict(name='person', keypoint_ids=[0, 1])],
        CLASSES=content['categories'],
    )
    return content, metainfo


def result(**changes):
    found = dict(image_id=1, category_id=1, keypoints=[5, 5, 0.5, 40, 30, 0.5], score=0.5)
    return found | dict(bbox=[0, 0, 50, 50]) | changes


def test_people_without_keypoints_count_for_box_metrics():
    found = evaluate_results(one_person()[0], [result()], one_person()[1])
    assert found['AP'] == pytest.approx(1)
    assert found['box AR'] == pytest.approx(0.5)
    both = [result(), result(bbox=[100, 100, 50, 50], keypoints=[100, 100, 1, 140, 140, 1])]
    found = evaluate_results(one_person()[0], both, one_person()[1])
    assert found['AP'] == pytest.approx(1)
    assert found['box AP'] == pytest.approx(1)


def test_boxes_in_crowd_regions_are_ignored():
    wrong = result(bbox=[110, 110, 10, 10], score=0.9)
    crowd, metainfo = one_person(iscrowd=1)
    assert evaluate_results(crowd, [wrong, result()], metainfo)['box AP'] == pytest.approx(1)
    assert evaluate_results(crowd, [result()], metainfo)['box AR'] == pytest.approx(1)
    person = one_person()[0]
    assert evaluate_results(person, [wrong, result()], metainfo)['box AP'] < 0.3


def test_crowdpose_uses_num_keypoints_of_the_file():
    """It counts visible keypoints instead of labeled ones."""
    content, metainfo = one_person(keypoints=[110, 110, 1, 140, 140, 1])
    content['images'][0]['crowdIndex'] = 0.5
    options = dict(iou_type='keypoints_crowd')
    assert evaluate_results(content, [result()], metainfo, **options)['AR'] == pytest.approx(0.5)
    content['annotations'][1]['num_keypoints'] = 0
    assert evaluate_results(content, [result()], metainfo, **options)['AR'] == pytest.approx(1)


def test_poses_with_keypoint_scores_of_0_are_counted():
    unfused = result(keypoints=[5, 5, 0, 40, 30, 0])
    assert evaluate_results(one_person()[0], [unfused], one_person()[1])['AP'] == pytest.approx(1)


def test_results_without_boxes_have_keypoint_metrics():
    bare = result()
    del bare['bbox']
    found = evaluate_results(one_person()[0], [bare], one_person()[1], box_ap=False)
    assert found['AP'] == pytest.approx(1)
    assert not any('box' in name for name in found)


@pytest.mark.parametrize('iou_type', ['keypoints', 'keypoints_crowd'])
def test_all_ids_of_a_category_are_pooled(two_categories, iou_type, records):
    content, metainfo = two_categories
    wheels = content | dict(annotations=select(content['annotations'], IDS[1]))
    metainfo = take_category(metainfo, 1, 'wheel')
    metainfo['CLASSES'] = [dict(id=i) for i in (1, 5, 9, 80)]  # with gaps, some unused
    results = records(wheels, metainfo)
    for i, record in enumerate(results):
        record['category_id'] = (1, 5, 9, 80)[i % 4]  # independent of the annotations
    pooled = evaluate_results(wheels, results, metainfo, iou_type=iou_type)

    same = copy.deepcopy(wheels)
    for entry in (*same['annotations'], *(results := copy.deepcopy(results))):
        entry['category_id'] = 1
    metainfo['CLASSES'] = [dict(id=1)]
    assert pooled == evaluate_results(same, results, metainfo, iou_type=iou_type)
    assert 0.1 < pooled['AP'] < 0.9 and 0.1 < pooled['box AP'] < 0.9


@pytest.mark.parametrize('iou_type', ['keypoints', 'keypoints_crowd'])
def test_categories_are_evaluated_separately_and_averaged(two_categories, iou_type, records):
    content, metainfo = two_categories
    results = records(content, metainfo, IDS)
    found = evaluate_results(content, results, metainfo, iou_type=iou_type)
    alone = {}
    for index, name in enumerate(('person', 'wheel')):
        part = content | dict(annotations=select(content['annotations'], IDS[index]))
        own, meta = select(results, IDS[index]), take_category(metainfo, index, name)
        alone[name] = evaluate_results(part, own, meta, iou_type=iou_type)
    assert next(iter(found)) == 'AP'
    names = [*alone['person'], *(f'{c}/{name}' for c in alone for name in alone[c])]
    assert list(found) == names
    for category, metrics in alone.items():
        assert {name: found[f'{category}/{name}'] for name in metrics} == metrics
    assert 0.1 < alone['person']['AP'] != alone['wheel']['AP'] > 0.1
    for name in ('AP', 'AP .5', 'box AP', 'box AR'):
        assert found[name] == pytest.approx((alone['person'][name] + alone['wheel'][name]) / 2)


def test_category_without_ground_truth_is_not_averaged(two_categories, records):
    content, metainfo = two_categories
    results = records(content, metainfo, IDS)
    people = content | dict(annotations=select(content['annotations'], IDS[0]))
    found = evaluate_results(people, results, metainfo)
    assert found['wheel/AP'] == found['wheel/box AP'] == -1
    assert found['AP'] == found['person/AP'] > 0
    empty = evaluate_results(content | dict(annotations=[]), results, metainfo)
    assert set(empty.values()) == {-1}


@pytest.mark.parametrize('iou_type', ['keypoints', 'keypoints_crowd'])
def test_category_without_predictions_has_an_ap_of_0(two_categories, iou_type, records):
    content, metainfo = two_categories
    results = select(records(content, metainfo, IDS), IDS[0])
    found = evaluate_results(content, results, metainfo, iou_type=iou_type)
    assert found['wheel/AP'] == found['wheel/AR'] == found['wheel/box AP'] == 0
    assert found['AP'] == found['person/AP'] / 2 > 0
    nothing = evaluate_results(content, [], metainfo, iou_type=iou_type)
    assert nothing['AP'] == nothing['box AR'] == nothing['person/AP .5'] == 0


def test_images_not_labeled_for_a_category_are_left_out(two_categories, records):
    content, metainfo = copy.deepcopy(two_categories)
    results = records(content, metainfo, IDS)
    empty = next(image for image in content['images'] if image['id'] == 7)
    wheel = next(r for r in results if r['category_id'] == 5)
    person = next(r for r in results if r['category_id'] == 2)
    before = evaluate_results(content, results, metainfo)
    results += [record | dict(image_id=7, score=1.0) for record in (wheel, person)]
    empty['not_exhaustive_category_ids'] = [9]
    found = evaluate_results(content, results, metainfo)
    for kind in ('AP', 'box AP'):
        assert found[f'wheel/{kind}'] == before[f'wheel/{kind}']
        assert found[f'person/{kind}'] < before[f'person/{kind}']


def test_crowdpose_leaves_out_images_that_were_not_labeled(two_categories, records):
    content, metainfo = copy.deepcopy(two_categories)
    results = records(content, metainfo, IDS)
    for image in content['images']:
        image['not_exhaustive_category_ids'] = [5] if image['crowdIndex'] < 0.2 else []
    found = evaluate_results(content, results, metainfo, iou_type='keypoints_crowd')
    assert found['wheel/AP(E)'] == -1 < found['wheel/AP(M)']
    assert found['AP(E)'] == found['person/AP(E)'] > 0


def test_inputs_are_not_changed(two_categories, records):
    content, metainfo = two_categories
    results = records(content, metainfo, IDS)
    before = copy.deepcopy((content, results))
    first = evaluate_results(content, results, metainfo)
    assert (content, results) == before
    assert evaluate_results(content, results, metainfo) == first


def test_evaluation_prints_nothing(two_categories, capsys):
    evaluate_results(two_categories[0], [], two_categories[1])
    assert capsys.readouterr().out == ''


def test_table_of_one_category():
    table = format_metrics({'AP': 0.5, 'AP .5': 1.0, 'box AP': -1.0}, ['person'])
    assert table.splitlines() == ['    AP  0.5000', ' AP .5  1.0000', 'box AP       -']


def test_table_of_several_categories():
    metrics = {'AP': 0.75, 'person/AP': 0.5, 'motor-wheel/AP': 1.0}
    assert format_metrics(metrics, ['person', 'motor-wheel']).splitlines() == [
        '      mean  person  motor-wheel',
        'AP  0.7500  0.5000       1.0000',
    ]


@pytest.fixture
def with_balls(two_categories, records):
    """The two categories, and balls (id 3) without keypoints or area, and their results."""
    content, metainfo = copy.deepcopy(two_categories)
    results = records(content, metainfo, IDS)
    for number in range(4):
        ball = dict(image_id=number, category_id=3, bbox=[50, 60, 70 + number, 80], keypoints=[])
        content['annotations'].append(ball | dict(id=100 + number))
        results.append(ball | dict(score=0.5 + number / 10))
    content['categories'].append(dict(id=3, name='ball'))
    metainfo['categories'].append(dict(name='ball', keypoint_ids=[]))
    return content, metainfo, results


def test_category_without_keypoints_has_box_metrics_only(two_categories, with_balls):
    content, metainfo, results = with_balls
    found = evaluate_results(content, results, metainfo, unfused=results)
    boxes = {key for key in found if key.startswith('ball/')}
    assert boxes == {'ball/box AP', 'ball/box AP .5', 'ball/box AP .75', 'ball/box AR'}
    assert found['ball/box AP'] == 1
    before = evaluate_results(content, results, two_categories[1], unfused=results)
    assert {k: found[k] for k in before if 'box' not in k or '/' in k} == {
        k: before[k] for k in before if 'box' not in k or '/' in k
    }
    assert found['box AP'] == pytest.approx((2 * before['box AP'] + 1) / 3)
    assert list(found) == [
        *metric_names(metainfo['categories'], 'keypoints', True)[:14],
        'AP without fusion',
        *(key for key in found if '/' in key),
    ]
    table = format_metrics(found, ['person', 'wheel', 'ball']).splitlines()
    assert table[1].split()[0] == 'AP' and table[1].split()[-1] == '-'
    assert next(line for line in table if 'box AP ' in line).split()[-1] == '1.0000'


def test_missed_boxes_of_a_category_without_keypoints_count(with_balls):
    content, metainfo, results = with_balls
    found = evaluate_results(content, results[:-2], metainfo)
    assert 0.4 < found['ball/box AP'] < 0.6
    assert count_truths(content, metainfo, 'keypoints', True) == {'person': 20, 'wheel': 40}


def test_a_category_without_keypoints_and_boxes_has_no_metrics(with_balls):
    content, metainfo, results = with_balls
    found = evaluate_results(content, results, metainfo, box_ap=False)
    assert found['AP'] > 0 and not any(key.startswith('ball/') for key in found)
    assert list(found) == metric_names(metainfo['categories'], 'keypoints', False)
    assert format_metrics(found, ['person', 'wheel', 'ball']).splitlines()[1].endswith('-')
