_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_l.py',
    '../_base_/datasets/crowdpose_loaders.py',
    '../_base_/schedules/kapao_300e.py',
]

train_dataloader = dict(batch_size=12)  # for each of four GPUs

model = dict(head=dict(num_keypoints=14))
