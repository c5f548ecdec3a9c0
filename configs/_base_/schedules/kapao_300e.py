"""Published schedule for CrowdPose: 300 epochs without validation; the last checkpoint is used."""

_base_ = 'kapao_500e.py'

max_epochs = 300

train_cfg = dict(max_epochs=max_epochs)
val_cfg = None
