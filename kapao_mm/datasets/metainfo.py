# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What describes the keypoints of a dataset: names, left/right pairs, skeleton, sigmas."""

import os.path as osp
import warnings
from typing import Any

from mmpose.datasets.datasets.utils import parse_pose_metainfo

from kapao_mm.errors import InputError


def read_metainfo(metainfo: dict) -> dict[str, Any]:
    """Parses a metainfo and checks that its lists have K entries.

    Args:
        metainfo: the metainfo, or ``dict(from_file='...')``; paths of MMPose's own files
            (``configs/_base_/datasets/coco.py``) are found inside MMPose.

    Returns:
        The metainfo as MMPose parses it.

    Raises:
        InputError: the file is missing, or a list is longer or shorter.
    """
    try:
        with warnings.catch_warnings():
            # MMPose warns that it looks for its own files inside the package: it is meant to
            warnings.filterwarnings('ignore', '.*"configs/_base_/datasets/')
            parsed = parse_pose_metainfo(metainfo)
    except FileNotFoundError as error:
        path = osp.abspath(metainfo['from_file'])
        raise InputError(f"metainfo file {path} does not exist, nor does MMPose's") from error
    count = parsed['num_keypoints']
    for key, name in (('sigmas', 'sigmas'), ('dataset_keypoint_weights', 'joint_weights')):
        if len(parsed[key]) != count:
            raise InputError(
                f'metainfo {metainfo.get("from_file", parsed["dataset_name"])} has {count} '
                f'keypoints but {len(parsed[key])} {name}: give one for each'
            )
    return parsed
