"""KAPAO-N overfitted to 16 real images, to check that training learns them.

The commands are in README, "Checks on real images".
"""

_base_ = 'kapao_n_toy.py'

data_root = 'data/coco'
train_ann = 'annotations/person_keypoints_overfit.json'
train_img = 'train2017'
val_ann = train_ann
val_img = train_img
input_size = 384

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

common = dict(
    type='KeypointDataset',
    metainfo={{_base_.metainfo}},
    data_root=data_root,
    ann_file=train_ann,
    data_prefix=dict(img=train_img),
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=10,  # gives epochs of 20 iterations
        dataset=dict(pipeline=train_pipeline, **common),
    ),
)
val_dataloader = dict(dataset=dict(pipeline=val_pipeline, **common))
test_dataloader = val_dataloader
