# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""MMPose's visualizer, drawing what KAPAO predicts."""

from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.structures import InstanceData
from mmpose.registry import VISUALIZERS
from mmpose.structures import PoseDataSample
from mmpose.visualization import PoseLocalVisualizer

Color = tuple[int, int, int]  # RGB

WHITE: Color = (255, 255, 255)
REFERENCE_SIDE = 400  # longer image side, px, at which line widths, radii and text sizes hold
RADIUS_OF_PERSON = 0.02  # largest keypoint radius, as a part of the person's longer side
FONT = cv2.FONT_HERSHEY_SIMPLEX
LABEL_SIZE = 0.22  # OpenCV's font scale
TITLE_SIZE = 0.4


@VISUALIZERS.register_module()
class KAPAOVisualizer(PoseLocalVisualizer):
    """Draws fused poses and, on request, the pose and keypoint objects they come from.

    A keypoint that a keypoint object was fused into is filled; one that only the pose object
    regressed is hollow. Colours and skeleton come from the dataset's metainfo.

    Args:
        draw_objects: Show three panels, as the paper's figures do: pose objects, keypoint objects,
            fused poses. Without it the picture is the image with the fused poses.
        score_thr: Poses with a lower score are not drawn. Evaluation keeps candidates of almost no
            confidence; the default draws those that fusion looks at (tau_fc of the spec).
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
        kpt_thr: float = 0.3,
        step: int = 0,
    ) -> np.ndarray:
        """Draws a sample, then shows it, writes it to ``out_file`` or hands it to the backends.

        The arguments are MMPose's, but boxes are drawn by default. ``draw_heatmap``,
        ``skeleton_style`` and ``kpt_thr`` have no effect: KAPAO has no heatmaps, and its unfused
        keypoints score 0 by design.

        Args:
            image: RGB (H, W, 3) or grey (H, W), uint8; not changed.
            data_sample: ``pred_instances``, ``pred_keypoint_objects``; for the ground truth
                ``gt_instances``, ``gt_instance_labels.labels`` and the metainfo ``raw_ann_info``
                (the annotations), in px of ``image``.

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
            panels |= self._draw_prediction(image, data_sample, draw_bbox, show_kpt_idx)
        picture = _side_by_side(panels) if panels else image.copy()

        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(mmcv.rgb2bgr(picture), out_file)
        else:
            self.add_image(name, picture, step)
        return picture

    def _draw_prediction(
        self, image: np.ndarray, data_sample: PoseDataSample, draw_bbox: bool, show_kpt_idx: bool
    ) -> dict[str, np.ndarray]:
        """The predicted panels by title; keypoint objects only where the sample carries them."""
        fused = data_sample.pred_instances
        fused = fused[fused.bbox_scores >= self.score_thr]
        fused_panel = self._draw_poses(image, fused, draw_bbox, show_kpt_idx)
        if not self.draw_objects:
            return {'fused poses': fused_panel}

        poses = fused.clone()
        poses.keypoints = fused.pose_keypoints
        poses.keypoints_fused = np.zeros_like(fused.keypoints_fused)
        panels = {f'pose objects: {len(poses)}': self._draw_poses(image, poses)}
        if 'pred_keypoint_objects' in data_sample:
            objects = data_sample.pred_keypoint_objects
            title = f'keypoint objects: {len(objects)}'
            panels[title] = self._draw_keypoint_objects(image, objects)
        title = f'fused poses: {int(fused.keypoints_fused.sum())} keypoints fused'
        return {**panels, title: fused_panel}

    def _draw_poses(
        self,
        image: np.ndarray,
        poses: InstanceData,
        draw_bbox: bool = True,
        show_kpt_idx: bool = False,
    ) -> np.ndarray:
        """Draws boxes, skeletons and keypoints on a copy of the image, the first pose on top."""
        canvas = image.copy()
        scale = _scale(image)
        width = max(1, round(self.line_width * scale))
        box_color = _rgb(self.bbox_color)
        categories = self.dataset_meta.get('categories', [])
        for pose in reversed(poses):
            bbox, keypoints = pose.bboxes[0], pose.keypoints[0]  # (4,), (K, 2)
            visible = pose.keypoints_visible[0] > 0
            filled = pose.keypoints_fused[0] if 'keypoints_fused' in pose else visible  # (K,)
            radius = min(self.radius * scale, RADIUS_OF_PERSON * max(bbox[2:] - bbox[:2]))
            radius = max(width + 1, round(radius))
            if draw_bbox:
                _draw_box(canvas, bbox, box_color, max(1, width // 2))
            self._draw_links(canvas, keypoints, visible, width)
            self._draw_keypoints(canvas, keypoints, visible, filled, radius)
            if show_kpt_idx:
                for k in np.flatnonzero(visible):
                    _write(canvas, str(k), keypoints[k] + radius, LABEL_SIZE * scale, WHITE)
            words = [categories[pose.labels[0]]['name']] if len(categories) > 1 else []
            if 'bbox_scores' in pose:
                words.append(f'{pose.bbox_scores[0]:.2f}')
            if draw_bbox and words:
                _write(canvas, ' '.join(words), bbox[:2], LABEL_SIZE * scale, box_color)
        return canvas

    def _draw_links(
        self, canvas: np.ndarray, keypoints: np.ndarray, visible: np.ndarray, width: int
    ) -> None:
        links = self.skeleton or []
        for (a, b), color in zip(links, _colors(self.link_color, len(links)), strict=True):
            if visible[a] and visible[b]:
                cv2.line(canvas, _px(keypoints[a]), _px(keypoints[b]), color, width, cv2.LINE_AA)

    def _draw_keypoints(
        self,
        canvas: np.ndarray,
        keypoints: np.ndarray,
        visible: np.ndarray,
        filled: np.ndarray,
        radius: int,
    ) -> None:
        colors = _colors(self.kpt_color, len(keypoints))
        for k in np.flatnonzero(visible):
            point = _px(keypoints[k])
            cv2.circle(canvas, point, radius, colors[k], cv2.FILLED, cv2.LINE_AA)
            if not filled[k]:
                cv2.circle(canvas, point, round(0.65 * radius), WHITE, cv2.FILLED, cv2.LINE_AA)

    def _draw_keypoint_objects(self, image: np.ndarray, objects: InstanceData) -> np.ndarray:
        """Draws boxes in their type's colour with its name on a copy, the most confident on top."""
        canvas = image.copy()
        scale = _scale(image)
        names = self.dataset_meta.get('keypoint_id2name', {})
        colors = _colors(self.kpt_color, max(len(names), objects.labels.max(initial=-1) + 1))
        objects = objects[np.argsort(objects.scores)]
        for bbox, label in zip(objects.bboxes, objects.labels, strict=True):
            _draw_box(canvas, bbox, colors[label], max(1, round(self.line_width * scale)))
        for bbox, label in zip(objects.bboxes, objects.labels.tolist(), strict=True):
            name = names.get(label, str(label))
            _write(canvas, name, bbox[:2], LABEL_SIZE * scale, colors[label])
        return canvas


def _ground_truth(data_sample: PoseDataSample) -> InstanceData:
    """The annotated people of a sample: bboxes (P, 4), keypoints (P, K, 2), keypoints_visible."""
    annotations = data_sample.get('raw_ann_info') or []
    people = np.array([not a.get('iscrowd') for a in annotations], bool)
    if not people.any():
        return InstanceData(bboxes=np.zeros((0, 4)))
    truth = data_sample.gt_instances[people]
    return InstanceData(
        bboxes=truth.bboxes,
        keypoints=truth.keypoints,
        keypoints_visible=truth.keypoints_visible,
        labels=data_sample.gt_instance_labels.labels.numpy()[people],
    )


def _side_by_side(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Joins panels of one size, each with its title above; one alone stays as it is."""
    first = next(iter(panels.values()))
    if len(panels) == 1:
        return first
    size = TITLE_SIZE * _scale(first)
    widest = max(_text_size(title, size)[0] for title in panels)
    size *= min(1.0, 0.95 * first.shape[1] / widest)
    line = max(1, _text_size(' '.join(panels), size)[1])  # OpenCV writes nothing into 0 rows
    titled = []
    for title, panel in panels.items():
        strip = np.zeros((2 * line, panel.shape[1], 3), np.uint8)
        _write(strip, title, np.array([line // 2, line * 3 // 2]), size, WHITE)
        titled.append(np.concatenate([strip, panel]))
    return np.concatenate(titled, axis=1)


def _draw_box(canvas: np.ndarray, bbox: np.ndarray, color: Color, width: int) -> None:
    cv2.rectangle(canvas, _px(bbox[:2]), _px(bbox[2:]), color, width)


def _write(canvas: np.ndarray, text: str, corner: np.ndarray, size: float, color: Color) -> None:
    """Writes text on a darkened ground, its lower left corner given, moved into the image."""
    width, height = _text_size(text, size)
    room = np.array([canvas.shape[1] - width, canvas.shape[0]])
    x, y = _px(np.maximum(np.minimum(corner, room), (0, height)))
    canvas[y - height : y, x : x + width] //= 3
    cv2.putText(canvas, text, (x, y - height // 4), FONT, size, color, _weight(size), cv2.LINE_AA)


def _text_size(text: str, size: float) -> tuple[int, int]:
    """(width, height) px of a line of text, descenders included."""
    (width, height), baseline = cv2.getTextSize(text, FONT, size, _weight(size))
    return width, height + baseline


def _weight(size: float) -> int:
    return max(1, round(2 * size))


def _scale(image: np.ndarray) -> float:
    return max(image.shape[:2]) / REFERENCE_SIDE


def _px(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(point).astype(int).tolist()
    return x, y


def _rgb(color: str | Sequence[int]) -> Color:
    """A colour by MMCV's name or as RGB numbers -> three ints, as OpenCV wants them."""
    if isinstance(color, str):
        color = mmcv.color_val(color)[::-1]
    r, g, b = (int(c) for c in color)
    return r, g, b


def _colors(color: str | Sequence[Sequence[int]] | None, count: int) -> list[Color]:
    """One colour for all, or one for each -> ``count`` colours."""
    if color is None or isinstance(color, str):
        color = [color or 'green'] * count
    return [_rgb(c) for c in color]
