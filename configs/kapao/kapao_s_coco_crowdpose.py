"""KAPAO-S trained on COCO and CrowdPose together, and validated on COCO.

CrowdPose labels 12 of COCO's 17 keypoints. The face keypoints are not labeled, so the model learns
not to find them in these images. Head and neck, which COCO does not have, are left out. CrowdPose
contains images from COCO: check that none is from val2017 before you compare a COCO AP with others.
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
                        # CrowdPose's keypoints 0 (left shoulder) to 11 are COCO's 5 to 16.
                        mapping=[(i, i + 5) for i in range(12)],
                    )
                ],
            ),
        ],
        pipeline={{_base_.train_pipeline}},
    )
)
