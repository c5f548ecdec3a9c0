"""The published recipe for CrowdPose: 300 epochs, no validation, the last checkpoint counts."""

_base_ = 'kapao_500e.py'

max_epochs = 300
warmup_epochs = 3

# val_interval: the test set is looked at once, at the end.
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        begin=warmup_epochs,
        end=max_epochs,
        T_max=max_epochs - warmup_epochs,
        eta_min_ratio=0.2,
    ),
]
