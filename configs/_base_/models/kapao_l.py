"""Model of KAPAO-L; the configs of the other sizes change its depth and width."""

num_keypoints = 17
widths = [256, 512, 768, 1024]

model = dict(
    type='KAPAO',
    data_preprocessor=dict(
        type='KAPAODataPreprocessor',
        mean=[0, 0, 0],
        std=[255, 255, 255],
        bgr_to_rgb=True,
        pad_size_divisor=64,
        pad_value=114 / 255,  # padding happens after normalization
    ),
    backbone=dict(
        type='mmdet.CSPDarknet',
        arch='P6',
        deepen_factor=1.0,
        widen_factor=1.0,
        out_indices=(2, 3, 4, 5),
        spp_kernal_sizes=(3, 5, 7),
        norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
        act_cfg=dict(type='SiLU', inplace=True),
    ),
    neck=dict(
        type='KAPAOPAFPN',
        in_channels=widths,
        num_csp_blocks=3,
        norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
        act_cfg=dict(type='SiLU', inplace=True),
    ),
    head=dict(
        type='KAPAOHead',
        num_keypoints=num_keypoints,
        in_channels=widths,
        strides=[8, 16, 32, 64],
        anchors=[
            [(19, 27), (44, 40), (38, 94)],
            [(96, 68), (86, 152), (180, 137)],
            [(140, 301), (303, 264), (238, 542)],
            [(436, 615), (739, 380), (925, 792)],
        ],
        keypoint_size=0.05,  # side of keypoint objects / longer side of the network input
        assigner=dict(type='AnchorRatioAssigner', max_ratio=4.0),
        loss=dict(
            type='KAPAOLoss',
            box_gain=0.05,
            obj_gain=0.7,
            cls_gain=0.3,
            kpt_gain=0.025,
            obj_level_weights=[4.0, 1.0, 0.25, 0.06],
        ),
    ),
    test_cfg=dict(  # inference settings for evaluation, and the differences for other uses
        pose_score_thr=0.001,
        pose_iou_thr=0.65,
        keypoint_score_thr=0.2,
        keypoint_iou_thr=0.25,
        fusion_score_thr=0.3,
        fusion_distance=50,  # px of the original image; 0 disables fusion
        max_candidates=30000,
        max_objects=300,
        validation=dict(pose_score_thr=0.01),  # validation during training
        tta=dict(),
        demo=dict(
            pose_score_thr=0.5,
            pose_iou_thr=0.45,
            keypoint_score_thr=0.5,
            keypoint_iou_thr=0.45,
            fusion_score_thr=0.2,
        ),
    ),
)

tta_model = dict(  # wrapper of the model for tools/test.py --tta
    type='KAPAOTTA',
    passes=[(0.8, False), (1.0, True), (1.2, False)],  # (scale, flipped)
    pad_value=0.447,
)
