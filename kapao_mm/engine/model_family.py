# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tells which kind of model a state dict or a pickled model belongs to, by the names in it."""

import re
from collections.abc import Iterable

YOLOX = 'a YOLOX detector of MMDetection'
MMYOLO_YOLOV5 = 'a YOLOv5 detector of MMYOLO'
CONVERTIBLE = (YOLOX, MMYOLO_YOLOV5)
KAPAO = 'a KAPAO model'
FAMILIES = (  # start of a weight's name as a pattern, kind of the model; the first match counts
    (r'head\.head_module\.convs\.', KAPAO),
    (r'bbox_head\.multi_level_cls_convs\.', YOLOX),
    (r'bbox_head\.head_module\.convs_pred\.', MMYOLO_YOLOV5),
    (r'bbox_head\.head_module\.', 'a detector of MMYOLO'),
    (r'backbone\.backbone\.dark\d\.', "a YOLOX detector of its authors' release"),
    (r'bbox_head\.rtm_', 'an RTMDet detector of MMDetection'),
    (r'rpn_head\.|roi_head\.', 'a two-stage detector of MMDetection'),
    (r'bbox_head\.', 'a detector of MMDetection'),
    (r'head\.dcc\.', 'an RTMO model of MMPose'),
    (r'head\.gau\.', 'an RTMPose model of MMPose'),
    (r'head\.head_module\.conv_pose\.', 'a YOLOXPose model of MMPose'),
    (r'head\.displacement_conv_layers\.', 'a DEKR model of MMPose'),
    (r'head\.(final_layer|deconv_layers|deconv_head)\.', 'a heatmap or SimCC model of MMPose'),
    (r'keypoint_head\.', 'a model of MMPose 0.x'),
    (r'model\.\d+\.', 'a bare state dict of a YOLO model'),
    (r'(module\.)?layer1\.0\.conv1\.', 'a ResNet of torchvision'),
    (r'(module\.)?(stage4\.0\.branches|transition1)\.', 'an HRNet classifier'),
    (r'(module\.)?blocks\.0\.attn\.', 'a vision transformer'),
)
ULTRALYTICS = 'a model of the Ultralytics package (YOLOv8, YOLO11 or another of its models)'


def model_family(names: Iterable[str]) -> str | None:
    """Returns the kind of model, or None if it is not known.

    Args:
        names: Names of the weights.
    """
    names = list(names)
    for pattern, family in FAMILIES:
        if any(re.match(pattern, name) for name in names):
            return family
    return None


def pickled_family(names: Iterable[str]) -> str | None:
    """Returns the kind of model in a pickle of another package, or None if it is not known.

    Args:
        names: Names of the classes and functions that the file refers to.
    """
    for name in names:
        if name.startswith('ultralytics.nn.'):
            return ULTRALYTICS
    return None
