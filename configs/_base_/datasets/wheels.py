"""Metainfo of vehicle wheels that are photographed from one side, without left/right pairs."""

dataset_info = dict(
    dataset_name='wheels',
    keypoint_info={
        0: dict(name='rim_top', color=[255, 0, 0], swap=''),
        1: dict(name='rim_bottom', color=[0, 255, 0], swap=''),
        2: dict(name='rim_side', color=[0, 0, 255], swap=''),
        3: dict(name='sidewall_top', color=[255, 255, 0], swap=''),
        4: dict(name='tread_inner', color=[255, 0, 255], swap=''),
    },
    skeleton_info={
        0: dict(link=('rim_top', 'rim_side'), color=[255, 128, 0]),
        1: dict(link=('rim_side', 'rim_bottom'), color=[255, 128, 0]),
        2: dict(link=('rim_top', 'sidewall_top'), color=[255, 128, 0]),
        3: dict(link=('rim_bottom', 'tread_inner'), color=[255, 128, 0]),
    },
    joint_weights=[1.0] * 5,
    sigmas=[0.05] * 5,  # no published sigmas; those of COCO are between 0.025 and 0.107
)
