"""Runtime settings of all KAPAO configs: hooks, environment, visualizer and logging."""

default_scope = 'mmpose'
custom_imports = dict(
    imports=[
        'kapao_mm.apis.setup',  # and with it kapao_mm.apis
        'kapao_mm.datasets',
        'kapao_mm.engine.setup',  # and with it kapao_mm.engine
        'kapao_mm.evaluation',
        'kapao_mm.models',
        'kapao_mm.visualization',
    ],
    allow_failed_imports=False,
)
data_mode = 'bottomup'  # MMPose's inferencer needs it

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook', interval=1, max_keep_ckpts=3, save_best='auto', rule='greater'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # None: draws in each validation if `vis_backends` below has more than LocalVisBackend
    visualization=dict(type='PictureHook', enable=None, interval=5, max_pictures=4),
    check_keypoints=dict(type='CheckKeypointsHook'),
    epoch_seed=dict(type='EpochSeedHook'),
    finite_loss=dict(type='FiniteLossHook', on_non_finite='stop'),  # or 'skip'
    # Stops training when the metric no longer improves:
    # early_stopping=dict(
    #     type='ResumableEarlyStoppingHook',
    #     monitor='coco/AP',
    #     rule='greater',
    #     min_delta=0.001,
    #     patience=20,  # number of validations
    # ),
)

env_cfg = dict(
    cudnn_benchmark=False,  # evaluation images differ in shape
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),  # without a GPU the tools use gloo
)
# With several processes, the batch norm statistics of process 0 are broadcast to all (torch's
# default, but not MMEngine's), so that the validated model is the saved one.
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=True)
sync_bn = None  # 'torch' computes batch norm over all processes (GPUs only)

visualizer = dict(type='KAPAOVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True, num_digits=6)
log_level = 'INFO'
load_from = None
resume = False
