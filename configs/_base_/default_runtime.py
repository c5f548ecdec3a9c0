"""What every KAPAO config runs with."""

default_scope = 'mmpose'
custom_imports = dict(
    imports=[
        'kapao_mm.datasets',
        'kapao_mm.engine',
        'kapao_mm.evaluation',
        'kapao_mm.models',
        'kapao_mm.visualization',
    ],
    allow_failed_imports=False,
)
data_mode = 'bottomup'  # MMPose's inferencer asks for it

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=3, save_best='auto', rule='greater'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PoseVisualizationHook', enable=False),
    check_keypoints=dict(type='CheckKeypointsHook'),
)

env_cfg = dict(
    cudnn_benchmark=False,  # evaluation images differ in shape
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)

visualizer = dict(type='KAPAOVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True, num_digits=6)
log_level = 'INFO'
load_from = None
resume = False
