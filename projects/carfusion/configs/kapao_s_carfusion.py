"""KAPAO-S on CarFusion; never run on the real data."""

_base_ = [
    '../../../configs/_base_/default_runtime.py',
    '../../../configs/_base_/models/kapao_s.py',
    '../../../configs/_base_/datasets/keypoint_loaders.py',
    '../../../configs/_base_/schedules/kapao_300e.py',
]

data_root = 'data/carfusion'  # files as written by projects/carfusion/carfusion_to_coco.py
train_ann = 'annotations/car_keypoints_train.json'
train_img = ''  # file names in the annotation files include the folders
val_ann = 'annotations/car_keypoints_test.json'
val_img = ''
metainfo = dict(from_file='{{ fileDirname }}/metainfo.py')
max_epochs = 70  # about as many images as in 300 epochs of CrowdPose

train_cfg = dict(max_epochs=max_epochs)
model = dict(head=dict(num_keypoints=14))

common = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(dataset=dict(ann_file=train_ann, data_prefix=dict(img=train_img), **common))
val_dataloader = None  # CarFusion has only a training and a test split
test_dataloader = dict(dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), **common))

val_evaluator = None
test_evaluator = dict(type='KAPAOMetric')
