"""KAPAO-N on 16 real images, shown over and over: does it learn what it is shown?

README, "Checks on real images", has the commands.
"""

_base_ = 'kapao_n_toy.py'

data_root = 'data/coco'
ann_file = 'annotations/person_keypoints_overfit.json'
img = 'train2017'
input_size = 384

model = dict(head=dict(loss=dict(obj_gain=0.7 * (640 / input_size) ** 2)))

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
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=10,  # an epoch of 20 iterations
        dataset=dict(pipeline=train_pipeline, **images),
    ),
)
val_dataloader = dict(dataset=dict(pipeline=val_pipeline, **images))
test_dataloader = val_dataloader
