"""KAPAO-N on 16 real images, shown over and over: does it learn what it is shown?

README, "Checks on real images", has the commands.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_n.py',
    '../_base_/datasets/coco_loaders.py',
]

data_root = 'data/coco'
ann_file = 'annotations/person_keypoints_overfit.json'
img = 'train2017'
input_size = 384
max_epochs = 200  # of 20 iterations
batch_size = 8

model = dict(
    channels_last=True,
    # As in kapao_n_toy.py: the published gains are too small to learn at this size in an hour.
    head=dict(loss=dict(cls_gain=0.3 * 80 / 18, obj_gain=0.7 * (640 / input_size) ** 2)),
)

train_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=True),
    dict(type='PackKAPAOInputs'),
]
val_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=True, move_labels=False),
    dict(type='PackKAPAOInputs'),
]

images = dict(
    type='KeypointDataset',
    metainfo={{_base_.metainfo}},
    data_root=data_root,
    ann_file=ann_file,
    data_prefix=dict(img=img),
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
    pin_memory=False,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=10,
        dataset=dict(pipeline=train_pipeline, **images),
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
    pin_memory=False,
    dataset=dict(pipeline=val_pipeline, **images),
)
test_dataloader = val_dataloader

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=50)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.003, weight_decay=0.05, fused=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True
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
default_hooks = dict(checkpoint=dict(interval=50))
