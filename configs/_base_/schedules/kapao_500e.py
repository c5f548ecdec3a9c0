"""Published schedule for COCO: SGD, batch of 64, warm-up, cosine, EMA, 500 epochs."""

max_epochs = 500

train_cfg = dict(type='ResumableTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='KAPAOOptimWrapper',
    constructor='KAPAOOptimWrapperConstructor',
    precision='auto',  # float16 on a GPU, float32 elsewhere
    optimizer=dict(type='SGD', lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4),
)
param_scheduler = []  # RecipeHook sets the lr; None would cause warnings of MMEngine

custom_hooks = [
    dict(
        type='RecipeHook',
        nominal_batch=64,  # reached by accumulating gradients; weight_decay is for this batch
        warmup_epochs=3,
        warmup_iterations=1000,
        warmup_bias_lr=0.1,
        warmup_momentum=0.8,
        final_lr_ratio=0.2,
    ),
    dict(type='StepEMAHook', decay=0.9999, ramp=2000),
]
