# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements MMPose's visualizer for the predictions of KAPAO."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.dist import master_only
from mmpose.registry import VISUALIZERS
from mmpose.structures import PoseDataSample
from mmpose.visualization import PoseLocalVisualizer

from kapao_mm.functional.drawing import draw_prediction, draw_stages, side_by_side
from kapao_mm.functional.drawing_style import Color, Layers, Style
from kapao_mm.structures import Metainfo
from kapao_mm.structures.data_sample import from_data_sample, ground_truth
from kapao_mm.utils.image_files import make_folder, write_picture


@VISUALIZERS.register_module()
class KAPAOVisualizer(PoseLocalVisualizer):
    """Draws fused poses and, on request, the pose objects and keypoint objects behind them.

    Fused keypoints are filled. Keypoints without fusion, which only the pose object regressed, are
    hollow. Colors and skeleton are those of the dataset's metainfo (:meth:`Style.from_metainfo`).
    Boxes have the color of their category, or ``bbox_color`` if it is given.

    Args:
        name: Name of the visualizer.
        draw_objects: Whether to show three panels as in the paper's figures: pose objects, keypoint
            objects, fused poses. Otherwise the picture shows the fused poses only.
        score_thr: Lowest score of a drawn pose, for samples of a dataset, since evaluation keeps
            candidates with scores close to 0. The default is the score above which poses take part
            in fusion (tau_fc of the paper). For other images (samples without ``img_id``) all poses
            are drawn, because the settings for ``demo`` have filtered them.
        *args: Arguments of :class:`PoseLocalVisualizer`.
        **kwargs: Likewise. ``line_width`` and ``radius`` grow with the image.
    """

    # MMEngine looks for `name` in the signature.
    def __init__(
        self,
        name: str = 'visualizer',
        *args: Any,
        draw_objects: bool = False,
        score_thr: float = 0.3,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault('bbox_color', None)
        super().__init__(name, *args, **kwargs)
        self.draw_objects = draw_objects
        self.score_thr = score_thr

    @classmethod
    def get_instance(cls, name: str | None = None, **kwargs: Any) -> 'KAPAOVisualizer':
        """Returns the visualizer of a name, or makes a new one if no name is given.

        MMPose's demos build the visualizer of the config, which has no name. A Runner sets the name
        itself.
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
        """Draws a sample, then shows it, writes it to ``out_file`` or passes it to the backends.

        The arguments are MMPose's, but boxes are drawn by default. ``draw_heatmap`` and
        ``skeleton_style`` have no effect, because KAPAO has no heatmaps and a single style.

        Args:
            image: Image, RGB (H, W, 3) or gray (H, W), uint8; not changed.
            data_sample: Sample with ``pred_instances`` and ``pred_keypoint_objects``, and for the
                ground truth ``gt_instances``, ``gt_instance_labels.labels`` and the metainfo
                ``raw_ann_info`` (the annotations), in px of ``image``.
            kpt_thr: Keypoints with a lower score are drawn hollow, like keypoints without fusion,
                whose score is always 0. MMPose would not draw either of them.

        Returns:
            The picture, RGB uint8. A single panel is as large as the image; several panels are
            joined side by side, each with a title above.
        """
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        panels = {}
        style = self._style()
        if show_kpt_idx:
            style = style._replace(keypoint_names={})  # keypoints without a name show their number
        layers = Layers(boxes=draw_bbox, names=show_kpt_idx)
        if draw_gt:
            panels['ground truth'] = draw_prediction(
                image, ground_truth(data_sample), style, replace(layers, scores=False)
            )
        if draw_pred and 'pred_instances' in data_sample:
            panels |= self._draw_prediction(image, data_sample, style, layers, kpt_thr)
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
        style: Style,
        layers: Layers,
        kpt_thr: float,
    ) -> dict[str, np.ndarray]:
        """Returns the predicted panels by title.

        The panel of keypoint objects is left out if the sample has none of them stored.
        """
        prediction = from_data_sample(data_sample)
        score_thr = self.score_thr if 'img_id' in data_sample else 0.0
        prediction = prediction[prediction.bbox_scores >= score_thr]
        scores = prediction.keypoint_scores
        prediction = replace(prediction, keypoint_scores=scores * (scores >= kpt_thr))
        if self.draw_objects:
            return draw_stages(image, prediction, style, layers)
        return {'fused poses': draw_prediction(image, prediction, style, layers)}

    def _style(self) -> Style:
        """Returns the style with colors, names and skeleton of the metainfo.

        Colors that the metainfo lacks are MMPose's defaults.
        """
        meta = self.dataset_meta
        names = list(meta.get('keypoint_id2name', {}).values())
        metainfo = Metainfo(
            categories=meta.get('categories') or [dict(name='', keypoint_ids=range(len(names)))],
            keypoint_names=names,
            flip_pairs=[(a, b) for a, b in meta.get('flip_pairs', []) if a < b],
            sigmas=[],
            skeleton_links=self.skeleton or [],
            keypoint_colors=_colors(self.kpt_color),
            link_colors=_colors(self.link_color),
        )
        style = Style.from_metainfo(metainfo)
        boxes = style.box_colors if self.bbox_color is None else [_rgb(self.bbox_color)]
        return style._replace(box_colors=boxes, line_width=self.line_width, radius=self.radius)


def _rgb(color: str | Sequence[int]) -> Color:
    """Converts a color, given by MMCV's name or as RGB numbers, to three ints for OpenCV."""
    if isinstance(color, str):
        color = mmcv.color_val(color)[::-1]
    r, g, b = (int(c) for c in color)
    return r, g, b


def _colors(color: str | Sequence[Sequence[int]] | None) -> list[Color]:
    """Converts one color for all, or a list of colors, to a list of RGB colors."""
    if color is None or isinstance(color, str):
        color = [color or 'green']
    return [_rgb(c) for c in color]
