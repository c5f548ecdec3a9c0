"""KAPAO-N on the toy dataset of drawn people; trains in minutes on two CPU cores."""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_n.py',
    '../_base_/datasets/coco_loaders.py',
    '../_base_/schedules/kapao_short.py',
]

data_root = 'data/toy/easy'  # written by python -m kapao_mm.datasets.toy data/toy/easy
train_ann = 'annotations/person_keypoints_train.json'
val_ann = 'annotations/person_keypoints_val.json'
input_size = 256
batch_size = 8

model = dict(channels_last=True, head=dict(loss=dict(scale_gains=False)))

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
default_hooks = dict(checkpoint=dict(interval=10))
