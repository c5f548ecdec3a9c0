_base_ = 'kapao_l.py'

widths = [64, 128, 192, 256]

model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.25),
    neck=dict(in_channels=widths, num_csp_blocks=1),
    head=dict(in_channels=widths),
)
