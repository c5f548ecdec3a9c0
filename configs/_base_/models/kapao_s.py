_base_ = 'kapao_l.py'

widths = [128, 256, 384, 512]

model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.5),
    neck=dict(in_channels=widths, num_csp_blocks=1),
    head=dict(in_channels=widths),
)
