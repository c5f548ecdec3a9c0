"""Short schedule for training from scratch on little data, in minutes to hours.

The published schedule would learn nothing in this time. Its loss gains are scaled by the number of
classes / 80 and by (input / 640)^2, which is too small for small inputs. A config with this
schedule sets scale_gains=False in the loss, see kapao_n_toy.py.
"""

max_epochs = 60

train_cfg = dict(type='ResumableTrainLoop', max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='KAPAOOptimWrapper',
    precision='float32',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
    clip_grad=dict(max_norm=10),  # without it, loss spikes set back some runs by ten epochs
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
