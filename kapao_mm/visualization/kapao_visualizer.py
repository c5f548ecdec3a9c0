# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""MMPose's visualizer, drawing what KAPAO predicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.structures import InstanceData
from mmpose.registry import VISUALIZERS
from mmpose.structures import PoseDataSample
from mmpose.visualization import PoseLocalVisualizer

from kapao_mm.functional.drawing import (
    Color,
    KeypointObjects,
    Poses,
    Style,
    draw_keypoint_objects,
    draw_poses,
    draw_stages,
    side_by_side,
)
from kapao_mm.image_files import make_folder, write_picture


@VISUALIZERS.register_module()
class KAPAOVisualizer(PoseLocalVisualizer):
    """Draws fused poses and, on request, the pose and keypoint objects they come from.

    A keypoint that a keypoint object was fused into is filled; one that only the pose object
    regressed is hollow. Colours and skeleton come from the dataset's metainfo.

    Args:
        draw_objects: Show three panels, as the paper's figures do: pose objects, keypoint objects,
            fused poses. Without it the picture is the image with the fused poses.
        score_thr: Poses of a dataset's samples with a lower score are not drawn. Evaluation keeps
            candidates of almost no confidence; the default draws those that fusion looks at (tau_fc
            of the paper). Of a picture (a sample without ``img_id``) all are drawn that passed the
            settings for pictures.
        name, *args, **kwargs: Those of :class:`PoseLocalVisualizer`. ``line_width`` and ``radius``
            grow with the image.
    """

    # MMEngine wants to see `name` in the signature.
    def __init__(
        self,
        name: str = 'visualizer',
        *args: Any,
        draw_objects: bool = False,
        score_thr: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, *args, **kwargs)
        self.draw_objects = draw_objects
        self.score_thr = score_thr

    @classmethod
    def get_instance(cls, name: str | None = None, **kwargs: Any) -> 'KAPAOVisualizer':
        """Returns the visualizer of a name, or makes one, as always where no name is given.

        MMPose's demos build the config's visualizer, which has no name: a Runner gives it its own.
        """
        if name is None:
            name = f'visualizer {len(cls._instance_dict)}'
        return super().get_instance(name, **kwargs)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: PoseDataSample,
        draw_gt: bool = True,
        draw_pred: bool = True,
        draw_heatmap: bool = False,
        draw_bbox: bool = True,
        show_kpt_idx: bool = False,
        skeleton_style: str = 'mmpose',
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        kpt_thr: float = 0.0,
        step: int = 0,
    ) -> np.ndarray:
        """Draws a sample, then shows it, writes it to ``out_file`` or hands it to the backends.

        The arguments are MMPose's, but boxes are drawn by default. ``draw_heatmap`` and
        ``skeleton_style`` have no effect: KAPAO has no heatmaps.

        Args:
            image: RGB (H, W, 3) or grey (H, W), uint8; not changed.
            data_sample: ``pred_instances``, ``pred_keypoint_objects``; for the ground truth
                ``gt_instances``, ``gt_instance_labels.labels`` and the metainfo ``raw_ann_info``
                (the annotations), in px of ``image``.
            kpt_thr: Keypoints with a lower score are hollow, as are those that no keypoint object
                was fused into, whose score is 0 by design. MMPose would not draw either.

        Returns:
            The picture, RGB uint8. One panel is as large as the image; several lie side by side,
            each with a title above.
        """
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        panels = {}
        if draw_gt:
            truth = _ground_truth(data_sample)
            panels['ground truth'] = self._draw_poses(image, truth, draw_bbox, show_kpt_idx)
        if draw_pred and 'pred_instances' in data_sample:
            panels |= self._draw_prediction(image, data_sample, draw_bbox, show_kpt_idx, kpt_thr)
        picture = side_by_side(panels) if panels else image.copy()

        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            make_folder(Path(out_file).parent)
            write_picture(mmcv.rgb2bgr(picture), Path(out_file))
        else:
            self.add_image(name, picture, step)
        return picture

    def _draw_prediction(
        self,
        image: np.ndarray,
        data_sample: PoseDataSample,
        draw_bbox: bool,
        show_kpt_idx: bool,
        kpt_thr: float,
    ) -> dict[str, np.ndarray]:
        """Returns the predicted panels by title, keypoint objects only if the sample has them."""
        fused = data_sample.pred_instances
        score_thr = self.score_thr if 'img_id' in data_sample else 0.0
        fused = fused[fused.bbox_scores >= score_thr]
        if kpt_thr > 0:
            fused.keypoints_fused = fused.keypoints_fused & (fused.keypoint_scores >= kpt_thr)
        if not self.draw_objects:
            return {'fused poses': self._draw_poses(image, fused, draw_bbox, show_kpt_idx)}
        points = data_sample.get('pred_keypoint_objects')
        return draw_stages(
            image,
            _poses(fused),
            fused.pose_keypoints,
            None if points is None else _keypoint_objects(points),
            self._style(),
            draw_bbox,
            show_kpt_idx,
        )

    def _draw_poses(
        self,
        image: np.ndarray,
        poses: InstanceData,
        draw_bbox: bool = True,
        show_kpt_idx: bool = False,
    ) -> np.ndarray:
        return draw_poses(image, _poses(poses), self._style(), draw_bbox, show_kpt_idx)

    def _draw_keypoint_objects(self, image: np.ndarray, objects: InstanceData) -> np.ndarray:
        return draw_keypoint_objects(image, _keypoint_objects(objects), self._style())

    def _style(self) -> Style:
        """The metainfo's colours, names and skeleton; MMPose's own where it has none."""
        meta = self.dataset_meta
        return Style(
            keypoint_names=meta.get('keypoint_id2name', {}),
            keypoint_colors=_colors(self.kpt_color),
            skeleton_links=self.skeleton or [],
            link_colors=_colors(self.link_color),
            category_names=[category['name'] for category in meta.get('categories', [])],
            box_color=_rgb(self.bbox_color),
            line_width=self.line_width,
            radius=self.radius,
        )


def _poses(poses: InstanceData) -> Poses:
    """Predicted or annotated poses; annotated keypoints are all filled."""
    visible = poses.keypoints_visible > 0
    return Poses(
        boxes=poses.bboxes,
        keypoints=poses.keypoints,
        visible=visible,
        filled=poses.get('keypoints_fused', visible),
        categories=poses.get('labels'),
        scores=poses.get('bbox_scores'),
    )


def _keypoint_objects(objects: InstanceData) -> KeypointObjects:
    return KeypointObjects(objects.bboxes, objects.scores, objects.labels)


def _ground_truth(data_sample: PoseDataSample) -> InstanceData:
    """Returns the annotated people of a sample, without crowd regions.

    They are those of ``gt_instances``: bboxes (P, 4), keypoints (P, K, 2), keypoints_visible.
    """
    truth = data_sample.get('gt_instances', InstanceData())
    if 'raw_ann_info' in data_sample:
        annotations = data_sample.raw_ann_info or []
        people = np.array([not annotation.get('iscrowd') for annotation in annotations], bool)
    else:  # training has none of them
        people = np.ones(len(truth), bool)
    if not people.any():
        return InstanceData(
            bboxes=np.zeros((0, 4)),
            keypoints=np.zeros((0, 0, 2)),
            keypoints_visible=np.zeros((0, 0)),
        )
    fields = dict(
        bboxes=truth.bboxes, keypoints=truth.keypoints, keypoints_visible=truth.keypoints_visible
    )
    labels = data_sample.get('gt_instance_labels', InstanceData())
    if 'labels' in labels:
        fields['labels'] = labels.labels.numpy()
    return InstanceData(**fields)[people]


def _rgb(color: str | Sequence[int]) -> Color:
    """A colour by MMCV's name or as RGB numbers -> three ints, as OpenCV wants them."""
    if isinstance(color, str):
        color = mmcv.color_val(color)[::-1]
    r, g, b = (int(c) for c in color)
    return r, g, b


def _colors(color: str | Sequence[Sequence[int]] | None) -> list[Color]:
    """One colour for all, or one for each."""
    if color is None or isinstance(color, str):
        color = [color or 'green']
    return [_rgb(c) for c in color]
