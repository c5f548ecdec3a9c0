# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Pipelines and dataloaders for all keypoint datasets; the file of a dataset adds its paths."""

input_size = 1280  # longer side of the network input, px, a multiple of 64
square_input = False  # whether to evaluate with square instead of rectangular network inputs
image_cache = None  # cache of decoded training images: 'ram', or a folder

train_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(
        type='MosaicScaleTranslate',
        input_size=input_size,
        scale_range=(0.1, 1.9),
        max_shift=0.1,
        pre_transform=[dict(type='CheckedLoadImage')],
    ),
    dict(type='HSVGain', gains=(0.015, 0.7, 0.4)),
    dict(type='HorizontalFlip', prob=0.5),
    dict(type='PackKAPAOInputs'),
]
val_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=square_input, move_labels=False),
    dict(type='PackKAPAOInputs'),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=False,  # new workers with new seeds in each epoch, see EpochSeedHook
    worker_init_fn=dict(type='keep_torch_seed'),
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='KeypointDataset', image_cache=image_cache, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,  # rectangular network inputs differ in shape
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(type='KeypointDataset', test_mode=True, pipeline=val_pipeline),
)
test_dataloader = val_dataloader
