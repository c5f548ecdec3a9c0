# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
_base_ = './keypoint_loaders.py'

# Files as written by MMPose's tools/dataset_converters/parse_animalpose_dataset.py, or by
# tools/dataset_converters/animalpose_to_coco.py from the release
data_root = 'data/animalpose'
train_ann = 'annotations/animalpose_train.json'
train_img = ''  # file names in the annotation files include the folders
val_ann = 'annotations/animalpose_val.json'
val_img = ''
metainfo = dict(from_file='configs/_base_/datasets/animalpose.py')  # a file of MMPose

common = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(ann_file=train_ann, data_prefix=dict(img=train_img), **common))
val_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **common))
# The results published by MMPose use the same images. animalpose_test.json, from another source,
# numbers annotations from 0, which COCO's evaluation would take for "no match".
test_dataloader = val_dataloader

val_evaluator = dict(type='KAPAOMetric')
test_evaluator = val_evaluator
