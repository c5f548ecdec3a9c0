"""KAPAO-L with weights, gradients and optimizer divided over the GPUs (MMEngine's FSDPStrategy).

tools/dist_train.sh configs/kapao/kapao_l_coco_fsdp.py 4, then tools/test.py as for every config.
KAPAO-L fits a GPU whole; this is for wider models. Not with it:

- the average of the weights (EMA): the last weights are validated, with the settings for testing,
  and saved;
- --resume (MMEngine 0.10 calls torch's FSDP in the order of torch 2.0), nor pending gradients;
- float16, and so --amp: its loss scale would be each process's own.

Untried: model.channels_last. Two CPU processes with a narrow model did train, validate and save
with strategy.model_wrapper.device_id=cpu (tests/tools/test_dist_scripts.py); GPUs did not.
"""

_base_ = 'kapao_l_coco.py'

runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
            # Stages of backbone and neck. The head, 0.4 M, must stay whole: its methods are called
            # beside its forward.
            min_num_params=1000000,
        ),
    ),
    # Whole checkpoints, as others have them. Left on the device: torch crashes on a CPU otherwise.
    state_dict_cfg=dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig'),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig'),
    ),
)
optim_wrapper = dict(precision='bfloat16')
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'StepEMAHook']
# The processes work on each forward pass together, so all need as many images.
val_dataloader = dict(sampler=dict(round_up=True))
