"""The published recipe for CrowdPose: 300 epochs, no validation, the last checkpoint counts."""

_base_ = 'kapao_500e.py'

max_epochs = 300

train_cfg = dict(max_epochs=max_epochs)
val_cfg = None
