"""KAPAO-N for two categories with different keypoints: people (17) and wheels (5).

The commands are in docs/datasets.md, "Several categories".
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/kapao_n.py',
    '../_base_/datasets/short_loaders.py',
    '../_base_/schedules/kapao_short.py',
]

from kapao_mm.utils.config import set_everywhere

set_everywhere(
    _base_,
    data_root='data',
    train_ann='people_wheels/train.json',  # from tools/dataset_converters/merge_coco.py
    train_img='',
    val_ann='people_wheels/val.json',
    val_img='',
    metainfo=dict(
        dataset_name='people_wheels',
        categories=dict(
            person=dict(from_file='configs/_base_/datasets/coco.py'),
            wheel=dict(from_file='configs/_base_/datasets/wheels.py'),
        ),
    ),
    num_keypoints=[17, 5],
    square_input=True,
    # No flips, because all wheels are photographed from one side.
    train_pipeline=[step for step in _base_.train_pipeline if step.type != 'HorizontalFlip'],
)

model = dict(channels_last=True, head=dict(loss=dict(scale_gains=False)))
val_dataloader = dict(batch_size=8)  # all network inputs have the same shape
test_dataloader = val_dataloader
tta_model = dict(passes=[(0.8, False), (1.0, False), (1.2, False)])  # no flips
