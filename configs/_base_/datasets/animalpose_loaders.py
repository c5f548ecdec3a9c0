# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
_base_ = './keypoint_loaders.py'

# As MMPose's tools/dataset_converters/parse_animalpose_dataset.py leaves them
data_root = 'data/animalpose'
train_ann = 'annotations/animalpose_train.json'
train_img = ''  # the annotation files have the folders
val_ann = 'annotations/animalpose_val.json'
val_img = ''
metainfo = dict(from_file='configs/_base_/datasets/animalpose.py')  # MMPose's

place = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(ann_file=train_ann, data_prefix=dict(img=train_img), **place))
val_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **place))
# MMPose's published results are of these images, too. animalpose_test.json, of other sources,
# counts annotations from 0, which COCO evaluation takes for "no match".
test_dataloader = val_dataloader

val_evaluator = dict(type='KAPAOMetric')
test_evaluator = val_evaluator
