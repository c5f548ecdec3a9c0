"""KAPAO-N on drawn people: minutes on two CPU cores, with a schedule of its own.

The published recipe is made for 500 epochs of COCO and learns nothing in the time of a demo.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_n.py',
    '../_base_/datasets/coco_loaders.py',
]

data_root = 'data/toy/easy'  # python -m kapao_mm.datasets.toy data/toy/easy
train_ann = 'annotations/person_keypoints_train.json'
val_ann = 'annotations/person_keypoints_val.json'
input_size = 256
max_epochs = 60
batch_size = 8

model = dict(
    channels_last=True,
    # The published gains shrink with the number of classes / 80 and (input / 640)^2: at 256 px both
    # are too small to learn in minutes. These undo the two factors.
    head=dict(loss=dict(cls_gain=0.3 * 80 / 18, obj_gain=0.7 * (640 / input_size) ** 2)),
)

train_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=True),
    dict(type='RandomScaleTranslate', input_size=input_size, scale_range=(0.6, 1.4), max_shift=0.1),
    dict(type='HSVGain', gains=(0.015, 0.7, 0.4)),
    dict(type='HorizontalFlip', prob=0.5),
    dict(type='PackKAPAOInputs'),
]
val_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, move_labels=False),
    dict(type='PackKAPAOInputs'),
]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    pin_memory=False,
    dataset=dict(data_root=data_root, ann_file=train_ann, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=batch_size,  # all images are 640 x 480
    num_workers=2,
    pin_memory=False,
    dataset=dict(data_root=data_root, ann_file=val_ann, pipeline=val_pipeline),
)
test_dataloader = val_dataloader

train_cfg = dict(type='ResumableTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='KAPAOOptimWrapper',
    precision='float32',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10),  # without it, one run in a few loses ten epochs to a spike
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.005,
        gamma=100,
        update_buffers=True,
        priority=49,
    ),
]
default_hooks = dict(checkpoint=dict(interval=10))
randomness = dict(seed=0)
