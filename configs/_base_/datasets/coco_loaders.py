# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
_base_ = './keypoint_loaders.py'

# For another folder use --cfg-options data_root=/path (see docs/configs.md)
data_root = 'data/coco'
train_ann = 'annotations/person_keypoints_train2017.json'
train_img = 'train2017'
val_ann = 'annotations/person_keypoints_val2017.json'
val_img = 'val2017'
metainfo = dict(from_file='configs/_base_/datasets/coco.py')  # a file of MMPose

common = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(ann_file=train_ann, data_prefix=dict(img=train_img), **common))
val_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **common))
test_dataloader = val_dataloader

val_evaluator = dict(type='KAPAOMetric')  # uses the annotation file of the dataset
test_evaluator = val_evaluator
