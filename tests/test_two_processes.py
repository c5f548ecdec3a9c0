# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares two gloo processes, with half of the batch each, with a single process."""

import subprocess
import sys

import pytest
import torch

from kapao_mm.datasets.toy import make_toy_dataset


@pytest.fixture(scope='module')
def worker(load_file):
    return load_file('tests/two_processes.py')


@pytest.fixture(scope='module')
def folder(repo, tmp_path_factory):
    """The folder with the results of the two processes, which are started once."""
    folder = tmp_path_factory.mktemp('two processes')
    data = make_toy_dataset(folder / 'toy', num_train=6, num_val=3, image_size=(160, 120))
    subprocess.run(
        [sys.executable, 'tools/misc/launch.py', '2', 'tests/two_processes.py', folder, data],
        cwd=repo,
        timeout=180,
        check=True,
    )
    return folder


@pytest.fixture(scope='module')
def expected(worker):
    return worker.all_gradients()


@pytest.mark.parametrize(
    'case',
    [
        'people_everywhere',
        'nobody_on_one_process',
        'nobody_at_all',
        'no_match_at_the_levels_of_the_other',
        'two_iterations',
        'after_a_skipped_batch',
    ],
)
def test_gradients_and_logged_losses_are_those_of_one_process(folder, expected, case):
    for rank in (0, 1):
        found = torch.load(folder / f'gradients_{rank}.pth')[case]
        assert found.keys() == expected[case].keys()
        for name, value in expected[case].items():
            largest = value.abs().max().item()
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5 * largest, msg=name)


def test_training_keeps_weights_and_their_average_equal(folder, worker):
    first, second = (torch.load(folder / f'trained_{rank}.pth') for rank in (0, 1))
    for kind in ('weights', 'average'):
        assert first[kind].keys() == second[kind].keys()
        assert all(torch.equal(first[kind][name], second[kind][name]) for name in first[kind])
    bias = 'head.head_module.convs.0.bias'
    assert not torch.equal(first['weights'][bias], first['average'][bias])
