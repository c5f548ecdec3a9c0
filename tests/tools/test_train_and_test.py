# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import pickle
import shutil

import pytest
import torch

from kapao_mm.engine.weights_only import load_weights_only

CONFIG = 'configs/kapao/kapao_n_toy.py'


def options(**values):
    """Returns --cfg-options of a run that takes seconds; ``__`` stands for a dot."""
    loaders = ('train', 'val', 'test')
    quick = dict(input_size=128, max_epochs=1, batch_size=2)
    quick |= {f'{loader}_dataloader__num_workers': 0 for loader in loaders}
    quick |= dict(train_cfg__val_interval=1, default_hooks__checkpoint__interval=1)
    pairs = (quick | values).items()
    return ['--cfg-options', *(f'{key.replace("__", ".")}={value}' for key, value in pairs)]


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    return tmp_path_factory.mktemp('work')


@pytest.fixture
def checkpoint(run_tool, toy, work):
    """A checkpoint that was trained for an epoch, once for all tests."""
    path = work / 'epoch_1.pth'
    if not path.exists():
        args = [CONFIG, '--work-dir', work, *options(data_root=toy)]
        assert run_tool('train.py', *args) is None
    return path


def test_training_validates_and_writes_a_safe_checkpoint(checkpoint, work):
    found = load_weights_only(checkpoint)
    assert found['meta']['epoch'] == 1
    assert {'state_dict', 'ema_state_dict', 'optimizer', 'message_hub'} <= set(found)
    assert (work / 'last_checkpoint').read_text() == str(checkpoint)
    (log,) = work.glob('*/*.log')
    assert 'coco/AP: ' in log.read_text()


@pytest.mark.slow
def test_testing_writes_metrics_predictions_and_pictures(run_tool, toy, checkpoint, tmp_path):
    args = ['--work-dir', tmp_path, '--out', tmp_path / 'a.json', '--dump', tmp_path / 'a.pkl']
    args += ['--show-dir', tmp_path / 'pictures', *options(data_root=toy)]
    assert run_tool('test.py', CONFIG, checkpoint, *args) is None
    assert 0 <= json.loads((tmp_path / 'a.json').read_text())['coco/AP'] <= 1
    predictions = pickle.loads((tmp_path / 'a.pkl').read_bytes())  # written by this test
    assert [p['pred_instances']['keypoints'].shape[1:] for p in predictions] == [(17, 2)] * 2
    assert len(list((tmp_path / 'pictures').rglob('*.jpg'))) == 2


@pytest.mark.slow
def test_half_precision_predicts_nearly_the_same(run_tool, toy, checkpoint, tmp_path):
    scores = []
    changed = options(data_root=toy, model__test_cfg__pose_score_thr=0)
    for flags in ([], ['--amp'], ['--amp', '--tta']):
        args = ['--work-dir', tmp_path, '--dump', tmp_path / 'a.pkl', *flags]
        assert run_tool('test.py', CONFIG, checkpoint, *args, *changed) is None
        predictions = pickle.loads((tmp_path / 'a.pkl').read_bytes())
        scores.append(torch.tensor([p['pred_instances']['bbox_scores'][0] for p in predictions]))
    assert not torch.equal(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[1], rtol=0.05, atol=1e-3)


@pytest.mark.slow
def test_resuming_continues_the_training(run_tool, toy, checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / checkpoint.name))
    args = [CONFIG, '--work-dir', tmp_path, '--resume', '--no-validate']
    assert run_tool('train.py', *args, *options(data_root=toy, max_epochs=2)) is None
    found = load_weights_only(tmp_path / 'epoch_2.pth')
    assert found['meta']['epoch'] == 2
    (step,) = {int(state['step']) for state in found['optimizer']['state'].values()}
    assert step == 4


def test_a_missing_data_root_is_reported_before_training(run_tool, tmp_path):
    message = run_tool(
        'train.py', CONFIG, '--work-dir', tmp_path, *options(data_root=tmp_path / 'nowhere')
    )
    assert message.startswith(f'error: data root {tmp_path}/nowhere does not exist')
    assert '--cfg-options data_root=' in message


def test_faulty_annotations_are_reported_before_training(run_tool, toy, tmp_path):
    shutil.copytree(toy, tmp_path / 'data')
    path = tmp_path / 'data/annotations/person_keypoints_train.json'
    content = json.loads(path.read_text())
    del content['annotations'][0]['bbox']
    path.write_text(json.dumps(content))
    message = run_tool(
        'train.py', CONFIG, '--work-dir', tmp_path, *options(data_root=tmp_path / 'data')
    )
    assert str(path) in message
    assert "annotations without 'bbox'" in message


@pytest.mark.slow
def test_another_number_of_keypoints_is_reported_before_training(run_tool, toy, tmp_path):
    changed = options(data_root=toy, model__head__num_keypoints=14)
    message = run_tool('train.py', CONFIG, '--work-dir', tmp_path, *changed)
    assert message.startswith('error: model.head.num_keypoints is 14, but')
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_a_missing_checkpoint_is_reported_with_its_path(run_tool, toy, tmp_path, tool):
    missing = tmp_path / 'missing.pth'
    given = [CONFIG, '--resume', missing] if tool == 'train.py' else [CONFIG, missing]
    message = run_tool(tool, *given, '--work-dir', tmp_path, *options(data_root=toy))
    assert message.startswith(f'error: checkpoint {missing} does not exist')


@pytest.mark.slow
def test_a_checkpoint_of_another_size_is_refused(run_tool, toy, checkpoint, tmp_path):
    changed = options(data_root=toy, model__head__num_keypoints=14)
    message = run_tool('test.py', CONFIG, checkpoint, '--work-dir', tmp_path, *changed)
    assert 'does not fit the config' in message


def test_mixed_precision_without_a_gpu_is_refused(run_tool, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    message = run_tool('train.py', CONFIG, '--amp', '--work-dir', tmp_path, *options(data_root=toy))
    assert 'error: --amp needs a GPU' in message


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_training_and_spares_the_weights(run_tool, toy, tmp_path):
    broken = options(data_root=toy, model__head__loss__box_gain='inf')
    message = run_tool('train.py', CONFIG, '--work-dir', tmp_path, *broken)
    assert message.startswith('error: the loss is not finite at iteration 1 (epoch 1): loss_box ')
    assert str(toy / 'train2017/toy_') in message
    found = load_weights_only(tmp_path / 'non_finite_iter_1.pth')
    assert all(value.isfinite().all() for value in found['state_dict'].values())


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_tested(run_tool, toy, checkpoint, tmp_path):
    content = load_weights_only(checkpoint)
    content['state_dict']['neck.downsamples.0.conv.weight'][0] = torch.nan
    torch.save(content, tmp_path / 'a.pth')
    args = ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'a.json']
    message = run_tool('test.py', CONFIG, tmp_path / 'a.pth', *args, *options(data_root=toy))
    assert message.startswith(f'error: checkpoint {tmp_path}/a.pth is of no use: 1 weights are not')
    assert not (tmp_path / 'a.json').exists()


@pytest.mark.slow
def test_a_checkpoint_is_downloaded_and_tested(run_tool, toy, checkpoint, tmp_path, served):
    folder, server = served
    shutil.copy(checkpoint, folder / 'a.pth')
    args = ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'a.json']
    assert run_tool('test.py', CONFIG, server.url('a.pth'), *args, *options(data_root=toy)) is None
    assert 0 <= json.loads((tmp_path / 'a.json').read_text())['coco/AP'] <= 1


@pytest.mark.slow
def test_a_run_of_another_model_is_not_resumed(run_tool, toy, checkpoint, tmp_path):
    args = [CONFIG, '--resume', checkpoint, '--work-dir', tmp_path]
    other = options(data_root=toy, model__backbone__deepen_factor=1)
    assert 'does not fit the config' in run_tool('train.py', *args, *other)
