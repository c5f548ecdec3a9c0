_base_ = 'kapao_l.py'

widths = [192, 384, 576, 768]

model = dict(
    backbone=dict(deepen_factor=0.67, widen_factor=0.75),
    neck=dict(in_channels=widths, num_csp_blocks=2),
    head=dict(in_channels=widths),
)
