# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
_base_ = './keypoint_loaders.py'

# For another folder use --cfg-options data_root=/path (see docs/configs.md)
data_root = 'data/ap10k'
train_ann = 'annotations/ap10k-train-split1.json'
train_img = 'data'
val_ann = 'annotations/ap10k-val-split1.json'
val_img = 'data'
test_ann = 'annotations/ap10k-test-split1.json'
test_img = 'data'
metainfo = dict(from_file='configs/_base_/datasets/ap10k.py')  # a file of MMPose

common = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(ann_file=train_ann, data_prefix=dict(img=train_img), **common))
val_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **common))
test_dataloader = dict(dataset=dict(ann_file=test_ann, data_prefix=dict(img=test_img), **common))

val_evaluator = dict(type='KAPAOMetric')
test_evaluator = val_evaluator
