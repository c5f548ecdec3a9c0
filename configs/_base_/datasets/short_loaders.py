# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Pipelines and dataloaders for schedules/kapao_short.py: small network inputs, no Mosaic."""

_base_ = './coco_loaders.py'

input_size = 384  # longer side of the network input, px, a multiple of 64
batch_size = 8

train_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=True),
    dict(type='RandomScaleTranslate', input_size=input_size, scale_range=(0.5, 1.5), max_shift=0.1),
    dict(type='HSVGain', gains=(0.015, 0.7, 0.4)),
    dict(type='HorizontalFlip', prob=0.5),
    dict(type='PackKAPAOInputs'),
]
val_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=False, move_labels=False),
    dict(type='PackKAPAOInputs'),
]

train_dataloader = dict(batch_size=batch_size, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
