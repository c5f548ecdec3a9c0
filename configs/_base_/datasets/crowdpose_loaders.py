# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
_base_ = './keypoint_loaders.py'

# For another folder use --cfg-options data_root=/path (see docs/configs.md)
data_root = 'data/crowdpose'
train_ann = 'annotations/mmpose_crowdpose_trainval.json'
train_img = 'images'
val_ann = 'annotations/mmpose_crowdpose_test.json'
val_img = 'images'
metainfo = dict(from_file='configs/_base_/datasets/crowdpose.py')  # a file of MMPose

common = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        ann_file=train_ann, data_prefix=dict(img=train_img), keypoints_outside='clip', **common
    )
)
val_dataloader = None  # none: training uses trainval, which includes the validation images
test_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **common))

val_evaluator = None
test_evaluator = dict(
    type='KAPAOMetric', iou_type='keypoints_crowd', use_area=False, prefix='crowdpose'
)
