# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from mmpose.registry import DATASETS

from kapao_mm.analysis.train_parts import in_two_steps
from kapao_mm.analysis.training_data import load_training_config, use_drawn_images


@pytest.mark.slow
def test_mmposes_mosaic_and_the_affine_give_the_same_sample(repo, tmp_path):
    cfg = load_training_config(repo / 'configs/kapao/kapao_n_coco.py', {}, 64)
    data = cfg.train_dataloader.dataset
    use_drawn_images(data, tmp_path, 4)
    dataset = DATASETS.build(data)
    load, mosaic, *_ = dataset.pipeline.transforms
    two = in_two_steps(mosaic)
    assert [type(step).__name__ for step in two] == ['TracedMosaic', 'RandomScaleTranslate']
    images = []
    for steps in ([mosaic], two):
        np.random.seed(0)
        sample = load(dataset.get_data_info(0) | dict(dataset=dataset))
        for step in steps:
            sample = step(sample)
        images.append(sample['img'])
    np.testing.assert_array_equal(*images)
