"""KAPAO-S on AP-10K, with all species as one category.

It trains for 500 epochs as on COCO. MMPose also trains its models on both datasets for the same
number of epochs (210).
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_s.py',
    '../_base_/datasets/ap10k_loaders.py',
    '../_base_/schedules/kapao_500e.py',
]

train_cfg = dict(val_interval=10)  # as in MMPose, because epochs of 7,000 images are short
