"""KAPAO-S on Animal-Pose, with cats, cows, dogs, horses and sheep as one category."""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_s.py',
    '../_base_/datasets/animalpose_loaders.py',
    '../_base_/schedules/kapao_500e.py',
]

train_cfg = dict(val_interval=10)  # as in MMPose, because epochs of 2,800 images are short

model = dict(head=dict(num_keypoints=20))
