# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
_base_ = './keypoint_loaders.py'

# As tools/dataset_converters/carfusion_to_coco.py leaves them
data_root = 'data/carfusion'
train_ann = 'annotations/car_keypoints_train.json'
train_img = ''  # the annotation files have the folders
val_ann = 'annotations/car_keypoints_test.json'
val_img = ''
metainfo = dict(from_file='configs/_base_/datasets/carfusion.py')

place = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(ann_file=train_ann, data_prefix=dict(img=train_img), **place))
val_dataloader = None  # released in two parts, so there is nothing to validate on
test_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **place))

val_evaluator = None
test_evaluator = dict(type='KAPAOMetric')
