# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import shutil

import numpy as np
import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.utils.config import load_config

CONFIG = 'configs/kapao/kapao_n_toy.py'
TOOL = 'analysis_tools/eval_results.py'
METRICS = ('coco/AP', 'coco/AR (M)', 'coco/box AP', 'coco/box AR')


@pytest.fixture
def data(toy, tmp_path):
    """The annotations of the toy dataset, without images."""
    return shutil.copytree(toy / 'annotations', tmp_path / 'data/annotations').parent


@pytest.fixture
def truth(data):
    return json.loads((data / 'annotations/person_keypoints_val.json').read_text())


@pytest.fixture
def evaluate(run_tool, data, tmp_path):
    """Makes a function that runs the tool on records, or on a file that exists already."""

    def run(results=None, *flags, **options):
        path = tmp_path / 'a.json'
        if results is not None:
            path.write_text(json.dumps(results))
        pairs = [f'{key.replace("__", ".")}={value}' for key, value in options.items()]
        return run_tool(TOOL, CONFIG, path, *flags, '--cfg-options', f'data_root={data}', *pairs)

    return run


def records(truth, shift=0.0):
    """Converts annotations to result records, shifted by some px."""
    return [
        dict(
            image_id=ann['image_id'],
            category_id=1,
            keypoints=[x + shift * (i % 3 == 0) for i, x in enumerate(ann['keypoints'])],
            bbox=[ann['bbox'][0] + shift, *ann['bbox'][1:]],
            score=0.5,
        )
        for ann in truth['annotations']
    ]


@pytest.mark.slow
def test_the_annotations_score_1_and_shifted_ones_less(evaluate, truth, tmp_path, capsys):
    assert evaluate(records(truth), '--out', tmp_path / 'm.json') is None
    found = json.loads((tmp_path / 'm.json').read_text())
    assert [found[name] for name in METRICS] == pytest.approx([1] * 4)
    lines = [line for line in capsys.readouterr().out.splitlines() if ' - INFO - ' not in line]
    count = len(truth['annotations'])
    path = tmp_path / 'a.json'
    assert lines[0].startswith(f'{path}: {count} poses in 2 images, against {tmp_path}/data/')
    assert lines[1].split() == ['AP', '1.0000']
    assert lines[-1] == f'metrics: {tmp_path}/m.json'

    assert evaluate(records(truth, shift=4), '--out', tmp_path / 'm.json') is None
    found = json.loads((tmp_path / 'm.json').read_text())
    assert all(0.1 < found[name] < 0.99 for name in METRICS)


@pytest.fixture
def run_test(run_tool, repo, toy, tmp_path):
    """Makes a function that tests weights which find a person in each cell of stride 16."""
    options = {'input_size': 128, 'test_dataloader.num_workers': 0, 'data_root': str(toy)}
    model = MODELS.build(load_config(repo / CONFIG, options).model)
    for conv in model.head.head_module.convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, -10)
    bias = model.head.head_module.convs[1].bias.detach().view(3, -1)
    bias[1, :6] = 0  # the anchor's box, objectness, class of pose objects
    bias[1, 2:4] = -0.46  # 0.6 of the anchor
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')

    def run(*flags, **more):
        pairs = [f'{key.replace("__", ".")}={value}' for key, value in (options | more).items()]
        args = [CONFIG, tmp_path / 'a.pth', '--work-dir', tmp_path / 'work', *flags]
        return run_tool('test.py', *args, '--cfg-options', *pairs)

    return run


@pytest.mark.slow
def test_a_result_file_has_the_metrics_of_the_run_that_wrote_it(run_test, evaluate, tmp_path):
    flags = ('--out', tmp_path / 'run.json')
    assert run_test(*flags, test_evaluator__outfile_prefix=str(tmp_path / 'run')) is None
    (tmp_path / 'run.keypoints.json').rename(tmp_path / 'a.json')
    assert evaluate(None, '--out', tmp_path / 'file.json') is None
    found = json.loads((tmp_path / 'run.json').read_text())
    assert json.loads((tmp_path / 'file.json').read_text()) == found
    assert found['coco/box AR'] > 0


@pytest.mark.slow
def test_results_can_be_written_without_annotations(run_test, toy, truth, tmp_path):
    """The file lists images and all categories, like that of COCO test-dev."""
    del truth['annotations']
    truth['categories'] += [dict(id=i, name=f'thing {i}') for i in (2, 3, 90)]
    data = shutil.copytree(toy, tmp_path / 'test-dev')
    (data / 'annotations/person_keypoints_val.json').write_text(json.dumps(truth))
    assert run_test('--format-only', tmp_path / 'out/dev', data_root=str(data)) is None
    found = json.loads((tmp_path / 'out/dev.keypoints.json').read_text())
    assert {record['image_id'] for record in found} == {im['id'] for im in truth['images']}
    for record in found:
        assert record['category_id'] == 1
        assert len(record['keypoints']) == 51 and len(record['bbox']) == 4
    (log,) = (tmp_path / 'work').glob('*/*.log')
    where = f'results: {tmp_path}/out/dev.keypoints.json, {len(found)} poses in 2 images'
    assert where in log.read_text()


def test_format_only_has_no_metrics_to_write(run_test, tmp_path, capsys):
    assert run_test('--format-only', tmp_path / 'dev', '--out', tmp_path / 'm.json') == 2
    assert 'not allowed with argument --format-only' in capsys.readouterr().err


def test_a_config_without_the_metric_is_refused(run_test, evaluate, repo, tmp_path):
    message = run_test('--format-only', tmp_path / 'a', test_evaluator__type='CocoMetric')
    assert message == 'error: --format-only needs one test_evaluator, a KAPAOMetric'
    message = evaluate([], test_evaluator__type='CocoMetric')
    assert message == f'error: test_evaluator of {CONFIG} must have one KAPAOMetric, but has 0'


@pytest.mark.parametrize(
    ('loader', 'found'),
    [
        ("dict(dataset=dict(type='CombinedDataset', datasets=[]))", 'CombinedDataset'),
        ('{}', 'none'),
    ],
)
def test_a_config_without_a_single_test_dataset_is_refused(run_tool, tmp_path, loader, found):
    config = tmp_path / 'config.py'
    config.write_text(f"test_evaluator = dict(type='KAPAOMetric')\ntest_dataloader = {loader}\n")
    message = run_tool(TOOL, config, tmp_path / 'a.json')
    assert message == (
        f'error: {config} must have a single test dataset with ann_file, but has {found}'
    )


def test_a_missing_annotation_file_is_reported_with_its_path(evaluate, data):
    (data / 'annotations/person_keypoints_val.json').unlink()
    message = evaluate([])
    assert message.startswith(
        f'error: annotation file {data}/annotations/person_keypoints_val.json'
    )
    assert 'does not exist' in message and 'data_root=' in message


@pytest.mark.slow
def test_a_missing_result_file_is_reported_with_its_path(evaluate, tmp_path):
    assert evaluate() == f'error: result file {tmp_path}/a.json: No such file or directory'


@pytest.mark.slow
def test_a_result_that_does_not_fit_is_reported_with_its_index(evaluate, truth, tmp_path):
    results = records(truth)
    results[1]['image_id'] = 5
    where = f'error: result 1 of {tmp_path}/a.json'
    message = evaluate(results)
    assert message == f'{where} (image 5): the annotation file has no image with that id'
    results[1] = dict(results[0], category_id=3)
    assert ' has category_id 3, but annotation file and metainfo share' in evaluate(results)


@pytest.mark.slow
def test_results_without_boxes_have_only_keypoint_metrics(evaluate, truth, tmp_path):
    results = records(truth)
    for result in results:
        del result['bbox']
    assert "has no 'bbox'; evaluate without boxes: test_evaluator.box_ap=False" in evaluate(results)
    out = tmp_path / 'm.json'
    assert evaluate(results, '--out', out, test_evaluator__box_ap=False) is None
    found = json.loads(out.read_text())
    assert found['coco/AP'] == pytest.approx(1) and 'coco/box AP' not in found


@pytest.mark.slow
@pytest.mark.parametrize('text', ['', '{}', '[3]', '[' * 100_000, '[{"image_id": []}]', '[[]]'])
def test_a_file_of_other_content_is_refused(evaluate, tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    assert f'{tmp_path}/a.json' in evaluate()


@pytest.mark.slow
@pytest.mark.parametrize('change', [dict(area=float('nan')), dict(area=-1), dict(iscrowd='yes')])
def test_annotations_that_would_change_the_metrics_are_refused(evaluate, data, truth, change):
    truth['annotations'][1] |= change
    (data / 'annotations/person_keypoints_val.json').write_text(json.dumps(truth))
    (key,) = change
    message = evaluate(records(truth))
    assert f"annotations whose '{key}' is not" in message
    assert f': {truth["annotations"][1]["id"]}; ' in message


@pytest.mark.parametrize('name', ['m.txt', 'm'])
def test_a_wrong_suffix_of_the_metrics_is_reported_first(evaluate, tmp_path, name):
    message = evaluate(None, '--out', tmp_path / name)
    assert message.startswith(f'error: {tmp_path / name} must end in .json')


@pytest.mark.slow
def test_annotations_in_another_order_score_the_same(evaluate, data, truth, tmp_path):
    results = records(truth)
    category = truth['categories'][0]
    category['keypoints'] = category['keypoints'][::-1]
    for annotation in truth['annotations']:
        triples = np.reshape(annotation['keypoints'], (-1, 3))
        annotation['keypoints'] = triples[::-1].ravel().tolist()
    (data / 'annotations/person_keypoints_val.json').write_text(json.dumps(truth))
    assert evaluate(results, '--out', tmp_path / 'm.json') is None
    assert json.loads((tmp_path / 'm.json').read_text())['coco/AP'] == pytest.approx(1)
    category['keypoints'][0] = 'heel'
    (data / 'annotations/person_keypoints_val.json').write_text(json.dumps(truth))
    assert '(heel instead of right_ankle)' in evaluate(results)
