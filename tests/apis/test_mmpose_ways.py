# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""MMPose's own ways to load a model read weights by the safe reader, too."""

import os

import pytest
import torch
from mmpose.apis import MMPoseInferencer, init_model

from kapao_mm.errors import InputError


class Runs:
    """A pickle that would make a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize('remote', [True, False])
@pytest.mark.parametrize(
    'load',
    [
        lambda config, place: init_model(config, place, device='cpu'),
        lambda config, place: MMPoseInferencer(config, place, device='cpu'),
    ],
    ids=['init_model', 'MMPoseInferencer'],
)
def test_nothing_in_a_checkpoint_is_run(repo, served, tmp_path, load, remote):
    folder, server = served
    torch.save(dict(meta=Runs(tmp_path / 'ran'), state_dict={}), folder / 'a.pth')
    config = str(repo / 'configs/kapao/kapao_n_toy.py')
    with pytest.raises(InputError, match='cannot be read safely: .*posix.mkdir'):
        load(config, server.url('a.pth') if remote else str(folder / 'a.pth'))
    assert not (tmp_path / 'ran').exists()
