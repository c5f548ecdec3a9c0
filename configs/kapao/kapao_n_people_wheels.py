"""KAPAO-N for two categories with different keypoints: people (17) and wheels (5).

The commands are in docs/datasets.md, "Several categories".
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_n.py',
    '../_base_/datasets/keypoint_loaders.py',
    '../_base_/schedules/kapao_short.py',
]

data_root = 'data'
train_ann = 'people_wheels/train.json'  # from tools/dataset_converters/merge_coco.py
train_img = ''
val_ann = 'people_wheels/val.json'
val_img = ''
metainfo = dict(
    dataset_name='people_wheels',
    categories=dict(
        person=dict(from_file='configs/_base_/datasets/coco.py'),
        wheel=dict(from_file='configs/_base_/datasets/wheels.py'),
    ),
)
input_size = 384
batch_size = 8

model = dict(
    channels_last=True,
    head=dict(num_keypoints=[17, 5], loss=dict(scale_gains=False)),
)

train_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=True),
    dict(type='RandomScaleTranslate', input_size=input_size, scale_range=(0.5, 1.5), max_shift=0.1),
    dict(type='HSVGain', gains=(0.015, 0.7, 0.4)),
    # No flips, because all wheels are photographed from one side.
    dict(type='PackKAPAOInputs'),
]
val_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, square=True, move_labels=False),
    dict(type='PackKAPAOInputs'),
]

common = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(
        ann_file=train_ann, data_prefix=dict(img=train_img), pipeline=train_pipeline, **common
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), pipeline=val_pipeline, **common),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='KAPAOMetric')
test_evaluator = val_evaluator

tta_model = dict(passes=[(0.8, False), (1.0, False), (1.2, False)])  # no flips
