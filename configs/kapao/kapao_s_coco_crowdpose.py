"""KAPAO-S on COCO and CrowdPose together, validated on COCO.

CrowdPose people are labelled with 12 of COCO's 17 keypoints; their faces are not, so there the
model learns that it shall find none. Head and neck, which COCO lacks, are left out. CrowdPose took
images from COCO: before a COCO AP is compared with others, see that none is of val2017.
"""

_base_ = 'kapao_s_coco.py'

crowdpose_root = 'data/crowdpose'
crowdpose_ann = 'annotations/mmpose_crowdpose_trainval.json'
crowdpose_img = 'images'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CombinedKeypointDataset',
        metainfo={{_base_.metainfo}},
        image_cache={{_base_.image_cache}},
        datasets=[
            dict(
                type='KeypointDataset',
                metainfo={{_base_.metainfo}},
                data_root={{_base_.data_root}},
                ann_file={{_base_.train_ann}},
                data_prefix=dict(img={{_base_.train_img}}),
            ),
            dict(
                type='KeypointDataset',
                metainfo=dict(from_file='configs/_base_/datasets/crowdpose.py'),
                data_root=crowdpose_root,
                ann_file=crowdpose_ann,
                data_prefix=dict(img=crowdpose_img),
                keypoints_outside='clip',
                pipeline=[
                    dict(
                        type='KeypointConverter',
                        num_keypoints=17,
                        # CrowdPose's left shoulder, 0, is COCO's 5, and so on to the right ankle
                        mapping=[(i, i + 5) for i in range(12)],
                    )
                ],
            ),
        ],
        pipeline={{_base_.train_pipeline}},
    )
)
