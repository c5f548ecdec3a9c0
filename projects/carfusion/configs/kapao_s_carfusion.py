"""KAPAO-S on CarFusion."""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_s.py',
    '../_base_/datasets/carfusion_loaders.py',
    '../_base_/schedules/kapao_300e.py',
]

max_epochs = 70  # about as many images as in 300 epochs of CrowdPose

train_cfg = dict(max_epochs=max_epochs)

model = dict(head=dict(num_keypoints=14))
