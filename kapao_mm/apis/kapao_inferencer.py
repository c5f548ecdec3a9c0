# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements MMPose's inferencer for KAPAO."""

import json
import logging
import os.path as osp
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmpose.apis import Pose2DInferencer
from mmpose.registry import INFERENCERS, MODELS
from mmpose.structures import PoseDataSample
from rich.progress import track
from torch import nn

from kapao_mm.datasets import read_metainfo
from kapao_mm.engine import check_checkpoint
from kapao_mm.engine.checkpoint import read_checkpoint
from kapao_mm.engine.stored_config import read_stored_config
from kapao_mm.engine.weight_file import is_weight_file
from kapao_mm.errors import InputError
from kapao_mm.media.inputs import Frame, Source, open_inputs
from kapao_mm.media.video import USUAL_FPS, VideoWriter
from kapao_mm.models.utils.inference import half_precision, prepare_for_inference
from kapao_mm.structures import Detections, InferenceSettings, Metainfo
from kapao_mm.structures.data_sample import from_data_sample
from kapao_mm.utils.atomic_file import atomic_path
from kapao_mm.utils.config import inner_datasets, letterbox_settings, read_config
from kapao_mm.utils.image_files import IMAGE_SUFFIXES, OutputNames, make_folder, write_picture

from .mmpose_arguments import demo_thresholds
from .predictor import Predictor, run_by_shape, without_errors


@INFERENCERS.register_module()
class KAPAOInferencer(Predictor, Pose2DInferencer):
    """Predicts poses with a checkpoint, in torch.

    :meth:`predict` and :meth:`track` return results. The settings are those of
    ``model.test_cfg.demo``, unless a call gives others.

    A call of the inferencer itself is one of MMPose's Pose2DInferencer, with its arguments and its
    dicts. There ``bbox_thr`` replaces the threshold of the score of poses, ``nms_thr`` replaces
    their IoU threshold, and keypoints with a score below ``kpt_thr`` are drawn hollow. Predictions
    are dicts as returned by :meth:`Prediction.to_dict`.

    Args:
        model: Path or URL of a checkpoint with its config inside, as training writes it; or a
            config: path of its file, name of one of this package's configs, or a loaded one.
        weights: Path or URL of a checkpoint, if ``model`` is a config.
        amp: Whether to use half precision (bfloat16 on a CPU), see :func:`prepare_for_inference`.
        random_weights: Whether to predict with random weights if no checkpoint is given, for
            example to measure speed.
        **kwargs: Arguments of :class:`Pose2DInferencer`.

    Raises:
        InputError: If the config or the checkpoint is missing or cannot be read, if they do not fit
            each other, or if a setting is unknown. Calls raise it if an image, video or webcam
            cannot be read.

    Examples:
        >>> inferencer = KAPAOInferencer('kapao_s_coco', 'kapao_s_coco.pth')
        >>> for result in inferencer.predict(['a.jpg', 'b.jpg'], pose_score_thr=0.3):
        ...     result.save('outputs/')
        >>> for result in inferencer(['a.jpg', 'b.jpg'], return_vis=True):  # as in MMPose
        ...     poses, picture = result['predictions'][0]['poses'], result['visualization'][0]
    """

    preprocess_kwargs: set = {'bbox_thr', 'nms_thr'}
    forward_kwargs: set = set()
    visualize_kwargs = Pose2DInferencer.visualize_kwargs - {'draw_heatmap', 'skeleton_style'}
    postprocess_kwargs = {'pred_out_dir'}

    def __init__(
        self,
        model: str | Path | Config | None,
        weights: str | Path | None = None,
        amp: bool = False,
        random_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        # Importing the class has no effect on MMEngine and the registries, but using it has.
        import kapao_mm.engine.setup
        import kapao_mm.visualization  # noqa: F401

        init_default_scope('mmpose')
        self.amp = amp
        self.random_weights = random_weights
        if weights is None and not isinstance(model, Config) and is_weight_file(model):
            model, weights = None, model
        if model is None:
            cfg = read_stored_config(read_checkpoint(weights), str(weights))
        else:
            cfg = model if isinstance(model, Config) else read_config(model)
        Pose2DInferencer.__init__(self, cfg, weights and str(weights), **kwargs)
        self.metainfo = Metainfo.from_dataset_meta(self.model.dataset_meta)
        self.settings = self.model.settings['demo']
        self.input_size, self.square_input = letterbox_settings(cfg)
        self._names: dict[str, OutputNames] = defaultdict(OutputNames)  # by folder

    def _init_model(self, cfg: Config, weights: str | None, device: str) -> nn.Module:
        if weights is None and not self.random_weights:
            raise InputError(
                'no weights given: give a checkpoint, or random_weights=True to predict with '
                'random ones'
            )
        if weights is not None:
            with torch.device('meta'):
                check_checkpoint(weights, MODELS.build(cfg.model))
        model = super()._init_model(cfg, weights, device)
        prepare_for_inference(model, half_precision(device) if self.amp else 'float32')
        return model

    def _load_weights_to_model(
        self, model: nn.Module, checkpoint: dict | None, cfg: Config
    ) -> None:
        """Loads the weights, if there are any, and sets the metainfo.

        The metainfo is that of the checkpoint, or that of the config if the checkpoint has none
        with categories.
        """
        meta = checkpoint.setdefault('meta', {}) if checkpoint else {}
        if 'categories' not in meta.get('dataset_meta', {}):
            if 'train_dataloader' not in cfg:  # the config inside the checkpoint
                raise InputError('the checkpoint has no names of keypoints: give the config too')
            dataset, _ = next(inner_datasets(cfg.train_dataloader.dataset))
            meta['dataset_meta'] = read_metainfo(dataset.metainfo)
        if checkpoint:
            super()._load_weights_to_model(model, checkpoint, cfg)
        else:
            print_log('the weights are random', 'current', logging.WARNING)
            model.dataset_meta = meta['dataset_meta']

    @torch.inference_mode()
    def run_network(self, batch: np.ndarray, settings: InferenceSettings) -> list[Detections]:
        """Detects the objects of a batch, see :meth:`Predictor.run_network`."""
        images = torch.from_numpy(batch).permute(0, 3, 1, 2)  # (N, 3, H, W)
        data = dict(inputs=list(images), data_samples=[PoseDataSample() for _ in images])
        inputs = self.model.data_preprocessor(data)['inputs']
        return self.model.head.predict(self.model.extract_feat(inputs), [], settings)

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # MMEngine would search for it, and warn about scopes

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 1,
        out_dir: str | None = None,
        **kwargs: Any,
    ) -> Iterator[dict[str, list]]:
        """Predicts images one after the other, with the arguments of MMPose's inferencers.

        Args:
            inputs: As in :meth:`predict`.
            return_datasamples: Whether to return MMPose's data samples instead of dicts.
            batch_size: Number of images that are read at once. Those with the same input shape are
                predicted as one batch.
            out_dir: Folder of pictures and JSON files, unless ``vis_out_dir`` and ``pred_out_dir``
                are given. Results of images with the same name are numbered.
            **kwargs: Arguments of :class:`Pose2DInferencer`.

        Yields:
            The result of :meth:`postprocess` for each image in order.

        Raises:
            InputError: If an input cannot be read. It is raised after the images before it. A
                folder or pattern goes on, see :meth:`predict`.
        """
        if batch_size < 1:
            raise InputError(f'batch_size must be at least 1, got {batch_size}')
        if out_dir is not None:
            folders = dict(
                vis_out_dir=f'{out_dir}/visualizations', pred_out_dir=f'{out_dir}/predictions'
            )
            kwargs = folders | kwargs
        pre_kwargs, _, vis_kwargs, post_kwargs = self._dispatch_kwargs(**kwargs)
        thresholds = demo_thresholds(**pre_kwargs)
        vis_kwargs.setdefault('kpt_thr', 0.0)
        for source in open_inputs(inputs):
            self._begin(source)
            if source.kind == 'live':
                vis_kwargs['show'] = True
            frames = without_errors(source, skip=isinstance(inputs, str | Path))
            batches = in_batches(frames, batch_size)
            try:
                for batch in track(batches, 'Inference') if self.show_progress else batches:
                    self.model.demo_thresholds = thresholds
                    for frame, sample in zip(batch, self._predict_samples(batch), strict=True):
                        self._current = frame
                        drawn = self.visualize([frame.pixels], [sample], **vis_kwargs)
                        yield self.postprocess([sample], drawn, return_datasamples, **post_kwargs)
            finally:
                self._end(post_kwargs.get('pred_out_dir', ''))

    def _begin(self, source: Source) -> None:
        """Prepares the outputs of a source."""
        self._video_input = source.kind != 'images'
        self._writer: VideoWriter | None = None
        self._frames: list[dict] = []
        self._fps = (self._video_input and source.fps) or USUAL_FPS

    def _predict_samples(self, frames: list[Frame]) -> list[PoseDataSample]:
        """Predicts images, with one batch for each input shape."""
        packed = [
            self.pipeline({'img': frame.pixels, 'img_path': frame.name, **self.model.dataset_meta})
            for frame in frames
        ]
        return run_by_shape(
            packed,
            lambda batch: self.forward(self.collate_fn(batch)),
            shape=lambda data: data['inputs'].shape,
        )

    def save_visualization(
        self, visualization: np.ndarray, vis_out_dir: str, img_name: str | None = None
    ) -> None:
        """Writes the picture of an image, RGB (H, W, 3); pictures of video frames make a video."""
        if self._video_input:
            if self._writer is None:
                self._writer = VideoWriter(self._output(vis_out_dir, '.mp4'), self._fps)
            self._writer.write(mmcv.rgb2bgr(visualization), self._current.time)
            return
        suffix = Path(self._current.name).suffix
        path = self._output(vis_out_dir, suffix if suffix.lower() in IMAGE_SUFFIXES else '.jpg')
        path = write_picture(mmcv.rgb2bgr(visualization), path)
        print_log(f'the output image has been saved at {path}', 'current')

    def postprocess(
        self,
        preds: list[PoseDataSample],
        visualization: list[np.ndarray] | None,
        return_datasamples: bool = False,
        pred_out_dir: str = '',
    ) -> dict[str, list]:
        """Turns predictions into dicts and writes them to ``pred_out_dir`` if it is given.

        Returns:
            ``predictions`` (dicts or data samples) and ``visualization`` (pictures), each a list
            with one entry per image.
        """
        predictions = [
            from_data_sample(sample).to_dict(
                sample.img_path, sample.ori_shape[1::-1], self.metainfo
            )
            for sample in preds
        ]
        if self._video_input:
            self._frames += predictions  # written after the last frame
        elif pred_out_dir:
            for prediction in predictions:
                with atomic_path(self._output(pred_out_dir, '.json')) as temporary:
                    temporary.write_text(json.dumps(prediction))
        return {
            'predictions': preds if return_datasamples else predictions,
            'visualization': visualization,
        }

    def _end(self, pred_out_dir: str) -> None:
        """Closes the video of pictures, and writes the predictions of all frames."""
        if self._writer is not None:
            self._writer.close()
            print_log(f'the output video has been saved at {self._writer.path}', 'current')
        if pred_out_dir and self._frames:
            frames = [
                dict(frame_id=number, instances=prediction)
                for number, prediction in enumerate(self._frames)
            ]
            with atomic_path(self._output(pred_out_dir, '.json')) as temporary:
                temporary.write_text(json.dumps(frames, indent=2))

    def _output(self, folder: str, suffix: str) -> Path:
        """Returns the path of a result of the current image, and makes its folder."""
        make_folder(Path(folder))
        # All frames of a video have one output.
        identity = self._current.name if self._video_input else self._current.identity
        names = self._names[osp.abspath(folder)]
        return Path(folder, names(Path(self._current.name).stem, identity) + suffix)


def in_batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Groups images into batches of ``size``.

    If reading fails, the images before the error are yielded first, then the error is raised.
    """
    batch = []
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == size:
                yield batch
                batch = []
    except InputError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
