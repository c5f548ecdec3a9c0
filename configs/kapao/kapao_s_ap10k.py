"""KAPAO-S on the animals of AP-10K: one category, whatever the species.

500 epochs as for COCO: MMPose, too, trains its models on both for the same number (210).
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_s.py',
    '../_base_/datasets/ap10k_loaders.py',
    '../_base_/schedules/kapao_500e.py',
]

train_cfg = dict(val_interval=10)  # as MMPose: epochs of 7,000 images are short
