# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import shutil

import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.utils.config import load_config

CONFIG = 'configs/kapao/kapao_n_toy.py'
TOOL = 'analysis_tools/eval_results.py'
METRICS = ('coco/AP', 'coco/AR (M)', 'coco/box AP', 'coco/box AR')


@pytest.fixture
def data(toy, tmp_path):
    """The annotations of the drawn people, without pictures."""
    return shutil.copytree(toy / 'annotations', tmp_path / 'data/annotations').parent


@pytest.fixture
def truth(data):
    return json.loads((data / 'annotations/person_keypoints_val.json').read_text())


@pytest.fixture
def evaluate(run_tool, data, tmp_path):
    """Runs the tool on records, or on what lies there already."""

    def run(results=None, *flags, **options):
        path = tmp_path / 'a.json'
        if results is not None:
            path.write_text(json.dumps(results))
        pairs = [f'{key.replace("__", ".")}={value}' for key, value in options.items()]
        return run_tool(TOOL, CONFIG, path, *flags, '--cfg-options', f'data_root={data}', *pairs)

    return run


def records(truth, shift=0.0):
    """Annotations as records, shifted by some px."""
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
def test_the_truth_is_perfect_and_a_shift_is_not(evaluate, truth, tmp_path, capsys):
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
def test_run(run_tool, repo, toy, tmp_path):
    """Tests weights that see a person of about the drawn ones' size in each cell of stride 16."""
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
def test_a_file_evaluates_to_the_metrics_of_the_run_that_wrote_it(test_run, evaluate, tmp_path):
    flags = ('--out', tmp_path / 'run.json')
    assert test_run(*flags, test_evaluator__outfile_prefix=str(tmp_path / 'run')) is None
    (tmp_path / 'run.keypoints.json').rename(tmp_path / 'a.json')
    assert evaluate(None, '--out', tmp_path / 'file.json') is None
    found = json.loads((tmp_path / 'run.json').read_text())
    assert json.loads((tmp_path / 'file.json').read_text()) == found
    assert found['coco/box AR'] > 0


@pytest.mark.slow
def test_results_of_images_without_annotations(test_run, toy, truth, tmp_path):
    """As those of COCO test-dev: the file lists images and all of COCO's categories."""
    del truth['annotations']
    truth['categories'] += [dict(id=i, name=f'thing {i}') for i in (2, 3, 90)]
    data = shutil.copytree(toy, tmp_path / 'test-dev')
    (data / 'annotations/person_keypoints_val.json').write_text(json.dumps(truth))
    assert test_run('--format-only', tmp_path / 'out/dev', data_root=str(data)) is None
    found = json.loads((tmp_path / 'out/dev.keypoints.json').read_text())
    assert {record['image_id'] for record in found} == {im['id'] for im in truth['images']}
    for record in found:
        assert record['category_id'] == 1
        assert len(record['keypoints']) == 51 and len(record['bbox']) == 4
    (log,) = (tmp_path / 'work').glob('*/*.log')
    where = f'results: {tmp_path}/out/dev.keypoints.json, {len(found)} poses in 2 images'
    assert where in log.read_text()


def test_results_alone_have_no_metrics_to_write(test_run, tmp_path, capsys):
    assert test_run('--format-only', tmp_path / 'dev', '--out', tmp_path / 'm.json') == 2
    assert 'not allowed with argument --format-only' in capsys.readouterr().err


def test_a_config_without_the_metric_is_refused(test_run, evaluate, repo, tmp_path):
    message = test_run('--format-only', tmp_path / 'a', test_evaluator__type='CocoMetric')
    assert message == 'error: --format-only needs one test_evaluator, a KAPAOMetric'
    message = evaluate([], test_evaluator__type='CocoMetric')
    assert message == f'error: test_evaluator of {CONFIG} must have one KAPAOMetric, but has 0'


def test_several_test_datasets_are_refused(run_tool, tmp_path):
    config = tmp_path / 'combined.py'
    config.write_text(
        "test_evaluator = dict(type='KAPAOMetric')\n"
        "test_dataloader = dict(dataset=dict(type='CombinedDataset', datasets=[]))\n"
    )
    message = run_tool(TOOL, config, tmp_path / 'a.json')
    assert message == f'error: the test dataset of {config} is no single one: CombinedDataset'


def test_a_missing_annotation_file_is_named(evaluate, data):
    (data / 'annotations/person_keypoints_val.json').unlink()
    message = evaluate([])
    assert message.startswith(
        f'error: annotation file {data}/annotations/person_keypoints_val.json'
    )
    assert 'does not exist' in message and 'data_root=' in message


@pytest.mark.slow
def test_a_missing_result_file_is_named(evaluate, tmp_path):
    assert evaluate() == f'error: result file {tmp_path}/a.json: No such file or directory'


@pytest.mark.slow
def test_a_result_that_does_not_fit_is_named(evaluate, truth, tmp_path):
    results = records(truth)
    results[1]['image_id'] = 5
    where = f'error: result 1 of {tmp_path}/a.json'
    message = evaluate(results)
    assert message == f'{where} (image 5): the annotation file has no image of that id'
    results[1] = dict(results[0], category_id=3)
    assert ' has category_id 3, which is none of 1, ' in evaluate(results)


@pytest.mark.slow
def test_results_without_boxes_have_keypoint_metrics(evaluate, truth, tmp_path):
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
def test_what_is_no_result_file_is_an_error(evaluate, tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    assert f'{tmp_path}/a.json' in evaluate()


@pytest.mark.slow
@pytest.mark.parametrize('change', [dict(area=float('nan')), dict(area=-1), dict(iscrowd='yes')])
def test_labels_that_would_change_the_numbers_are_an_error(evaluate, data, truth, change):
    truth['annotations'][1] |= change
    (data / 'annotations/person_keypoints_val.json').write_text(json.dumps(truth))
    (key,) = change
    message = evaluate(records(truth))
    assert f"annotations whose '{key}' is not" in message
    assert f': {truth["annotations"][1]["id"]}; ' in message


@pytest.mark.parametrize('name', ['m.txt', 'm'])
def test_a_place_for_the_metrics_that_does_not_work_is_told_first(evaluate, tmp_path, name):
    message = evaluate(None, '--out', tmp_path / name)
    assert message.startswith(f'error: {tmp_path / name} must end in .json')


def test_a_config_without_test_data_is_refused(run_tool, tmp_path):
    config = tmp_path / 'none.py'
    config.write_text("test_evaluator = dict(type='KAPAOMetric')\n")
    message = run_tool(TOOL, config, tmp_path / 'a.json')
    assert message == f'error: the test dataset of {config} is no single one: None'
