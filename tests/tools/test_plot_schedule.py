# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import cv2
import pytest

TOOL = 'analysis_tools/plot_schedule.py'
CONFIG = 'configs/kapao/kapao_s_coco.py'


@pytest.mark.slow
def test_the_schedule_is_plotted_and_summarized(run_tool, tmp_path, capsys):
    out = tmp_path / 'new/plot.png'
    args = ['--iters-per-epoch', 1000, '--gpus', 2, '--out', out]
    batch = 'train_dataloader.batch_size=10'
    assert run_tool(TOOL, CONFIG, *args, '--cfg-options', batch, 'max_epochs=5') is None
    assert capsys.readouterr().out.splitlines() == [
        'kapao_s_coco: 5 epochs of 1000 iterations',
        'warm-up: 3000 iterations',
        'a step: 20 images x 3 iterations = 60',
        'weight decay: 0.00046875',
        'lr: 0.01 falling to 0.00276393 in the last epoch',
        f'steps: {count_steps()}',
        f'plot: {out}',
    ]
    picture = cv2.imread(str(out))
    assert picture.shape == (1000, 1200, 3)
    assert (picture == 255).mean() < 0.99


def count_steps():
    """Counts optimizer steps one by one: batch 20, 3000 iterations of warm-up, 5000 in total."""
    steps = since = 0
    for iteration in range(5000):
        since += 1
        if since >= max(1, round(1 + (64 / 20 - 1) * min(iteration, 3000) / 3000)):
            steps, since = steps + 1, 0
    return steps


@pytest.mark.slow
def test_iterations_are_counted_from_the_images(run_tool, toy, tmp_path, capsys):
    data = [f'data_root={toy}', 'train_ann=annotations/person_keypoints_train.json']
    batch = 'train_dataloader.batch_size=3'
    args = ['--out', tmp_path / 'plot.png', '--cfg-options', *data, batch]
    assert run_tool(TOOL, CONFIG, *args) is None
    assert '500 epochs of 2 iterations' in capsys.readouterr().out  # 4 images


def test_missing_images_are_reported_with_the_flag_that_replaces_them(run_tool, tmp_path):
    message = run_tool(TOOL, CONFIG, '--cfg-options', f'data_root={tmp_path / "nowhere"}')
    assert message.startswith(f'error: data root {tmp_path}/nowhere does not exist')
    assert message.endswith('or give --iters-per-epoch')


def test_a_config_without_the_recipe_is_refused(run_tool):
    message = run_tool(TOOL, 'configs/kapao/kapao_n_toy.py')
    assert 'kapao_n_toy.py does not follow the recipe: it has no RecipeHook' in message


def test_an_unknown_image_format_is_refused(run_tool, tmp_path):
    out = tmp_path / 'plot.xyz'
    message = run_tool(TOOL, CONFIG, '--iters-per-epoch', 10, '--out', out)
    assert message.startswith(f'error: {out} must end in ')
    assert '.png' in message
