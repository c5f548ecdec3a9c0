# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
_base_ = './keypoint_loaders.py'

# Files as written by tools/dataset_converters/carfusion_to_coco.py
data_root = 'data/carfusion'
train_ann = 'annotations/car_keypoints_train.json'
train_img = ''  # file names in the annotation files include the folders
val_ann = 'annotations/car_keypoints_test.json'
val_img = ''
metainfo = dict(from_file='configs/_base_/datasets/carfusion.py')

place = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(ann_file=train_ann, data_prefix=dict(img=train_img), **place))
val_dataloader = None  # CarFusion has only a training and a test split
test_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **place))

val_evaluator = None
test_evaluator = dict(type='KAPAOMetric')
