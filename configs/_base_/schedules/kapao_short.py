"""Minutes to hours from scratch on little data, where the published recipe would learn nothing.

The published gains shrink with the number of classes / 80 and (input / 640)^2: in small inputs both
are too small to learn in such a time. A config with this schedule sets scale_gains=False of the
loss, see kapao_n_toy.py.
"""

max_epochs = 60

train_cfg = dict(type='ResumableTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='KAPAOOptimWrapper',
    precision='float32',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
    clip_grad=dict(max_norm=10),  # without it, one run in a few loses ten epochs to a spike
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.005,
        gamma=100,
        update_buffers=True,
        priority=49,
    ),
]
randomness = dict(seed=0)
