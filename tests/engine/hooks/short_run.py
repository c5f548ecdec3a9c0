# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Short training runs in memory: four batches of two images per epoch, with validation."""

from pathlib import Path
from uuid import uuid4

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpose.structures import PoseDataSample
from torch import nn


class Model(BaseModel):
    """Has two loss terms; a NaN pixel spoils one of them and the batch norm statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 2)

    def init_weights(self):
        nn.init.constant_(self.linear.weight, 0.1)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'predict':
            return [[]]
        inputs = torch.stack(inputs)
        outputs = self.linear(self.norm(inputs))
        return dict(
            loss_box=(outputs - inputs.mean()).square().mean(),
            loss_obj=self.linear.weight.square().sum(),
        )


class Scores(BaseMetric):
    """Returns the AP of each epoch from a list, or raises it if it is an exception."""

    default_prefix = 'coco'

    def __init__(self, values):
        super().__init__()
        self.values = values

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        value = self.values[self.runner.epoch - 1]
        if not isinstance(value, float):
            raise value
        return dict(AP=value)


def images(spoiled: int | None = None) -> list[dict]:
    """Returns eight images of three pixels; the one with index ``spoiled`` has a NaN pixel."""
    pixels = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    if spoiled is not None:
        pixels[spoiled, 0] = torch.nan
    return [
        dict(inputs=values, data_samples=PoseDataSample(metainfo=dict(img_path=f'{index}.jpg')))
        for index, values in enumerate(pixels)
    ]


def make_run(
    work_dir: Path,
    hooks: list | None = None,
    scores: list | None = None,
    max_epochs: int = 4,
    resume: str | bool = False,
    data: list[dict] | None = None,
    optim_wrapper: str = 'KAPAOOptimWrapper',
    launcher: str = 'none',
    log_level: str = 'ERROR',
    **checkpoint: object,
) -> Runner:
    """Builds a run that may resume a file or the latest checkpoint.

    Further arguments are those of its checkpoint hook.
    """
    metric = Scores(scores or [0.1, 0.2, 0.3, 0.4])
    loader = dict(num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    run = Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=dict(loader, batch_size=2, dataset=data or images()),
        train_cfg=dict(type='ResumableTrainLoop', max_epochs=max_epochs),
        val_dataloader=dict(loader, batch_size=1, dataset=images()[:1]),
        val_cfg=dict(),
        val_evaluator=[metric],
        optim_wrapper=dict(type=optim_wrapper, optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=[],
        default_hooks=dict(
            checkpoint=dict(
                type='SafeCheckpointHook', save_best='coco/AP', rule='greater', interval=1
            )
            | checkpoint,
            param_scheduler=None,
        ),
        custom_hooks=[dict(type='StepEMAHook', decay=0.9, ramp=2), *(hooks or [])],
        default_scope='mmpose',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        launcher=launcher,
        resume=bool(resume),
        load_from=resume if isinstance(resume, str) else None,
        log_level=log_level,
        randomness=dict(seed=0),
        experiment_name=uuid4().hex,  # MMEngine keeps a logger for each name
    )
    metric.runner = run
    return run
