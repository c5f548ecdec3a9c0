"""KAPAO-L with weights, gradients and optimizer sharded over processes, see README.md."""

_base_ = '../../configs/kapao/kapao_l_coco.py'

runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
            # Shards the stages of backbone and neck. The head (0.4 M parameters) must stay whole,
            # because other methods than its forward are called.
            min_num_params=1000000,
        ),
    ),
    # Full checkpoints as in other runs. They stay on the device, because the offload to the CPU
    # crashes in torch if the device is a CPU.
    state_dict_cfg=dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig'),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig'),
    ),
)
optim_wrapper = dict(precision='bfloat16')
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'StepEMAHook']
# All processes take part in each forward pass, so they need the same number of images.
val_dataloader = dict(sampler=dict(round_up=True))
