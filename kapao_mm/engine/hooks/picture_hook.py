# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that draws predictions during validation and test, to files or visual backends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from mmpose.engine.hooks import PoseVisualizationHook
from mmpose.registry import HOOKS
from mmpose.structures import PoseDataSample

from kapao_mm.utils.atomic_file import check_folder
from kapao_mm.utils.image_files import OutputNames, read_image


@HOOKS.register_module()
class PictureHook(PoseVisualizationHook):
    """Draws the predictions of every ``interval``-th image of validations and tests.

    MMPose's PoseVisualizationHook draws another image in each validation. Here they are the same in
    each, so that they can be compared, with the ground truth beside the prediction if it is known.

    Pictures of validations go to ``out_dir/epoch_N``, and those of tests to ``out_dir``. Images
    with the same name get a number. Without ``out_dir`` they go to the visual backends, such as
    TensorBoard, with the name ``val_NAME`` or ``test_NAME`` and the epoch as the step.

    Args:
        enable: Whether to draw. None means that pictures are drawn if there is a visual backend
            other than LocalVisBackend, which would fill the disk unasked.
        interval: Interval between drawn images.
        max_pictures: Largest number of images that are drawn in a validation or test. None means
            that there is no limit.
        out_dir: Folder for the drawn images; a relative path is below the folder of the run,
            ``WORK_DIR/TIMESTAMP``.
        **kwargs: Further arguments of :class:`PoseVisualizationHook`.

    Raises:
        InputError: If ``out_dir`` cannot be written to.
    """

    def __init__(
        self,
        enable: bool | None = False,
        interval: int = 50,
        max_pictures: int | None = None,
        out_dir: str | None = None,
        kpt_thr: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(enable, interval, kpt_thr, out_dir=out_dir, **kwargs)
        self.max_pictures = max_pictures
        self._names = OutputNames()

    def before_run(self, runner: Runner) -> None:
        """Decides whether to draw, and checks that the output folder can be written to."""
        if self.enable is None:
            backends = self._visualizer._vis_backends.values()
            self.enable = any(type(backend) is not LocalVisBackend for backend in backends)
        if self.enable and self.out_dir:
            self.out_dir = str(Path(runner.work_dir, runner.timestamp, self.out_dir))
            check_folder(self.out_dir)

    def before_val_epoch(self, runner: Runner) -> None:
        """Resets the count of images and the names in use."""
        self._test_index = 0
        self._names = OutputNames()

    before_test_epoch = before_val_epoch

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[PoseDataSample]
    ) -> None:
        """Draws predictions of a validation batch."""
        if self.enable:
            self._visualizer.set_dataset_meta(runner.val_evaluator.dataset_meta)
            self._draw(outputs, 'val', f'epoch_{runner.epoch}', runner.epoch)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[PoseDataSample]
    ) -> None:
        """Draws predictions of a test batch."""
        if self.enable:
            self._visualizer.set_dataset_meta(runner.test_evaluator.dataset_meta)
            self._draw(outputs, 'test', '', runner.epoch)

    def _draw(self, outputs: Sequence[PoseDataSample], stage: str, folder: str, epoch: int) -> None:
        """Draws the predictions of every ``interval``-th sample, until there are enough."""
        for sample in outputs:
            number, skipped = divmod(self._test_index, self.interval)
            index, self._test_index = self._test_index, self._test_index + 1
            if skipped or (self.max_pictures is not None and number >= self.max_pictures):
                continue
            source = Path(sample.img_path)
            name = self._names(source.stem, index)
            out_file = self.out_dir and str(Path(self.out_dir, folder, name + source.suffix))
            self._visualizer.add_datasample(
                f'{stage}_{name}',
                mmcv.bgr2rgb(read_image(source)),
                sample,
                draw_gt=len(sample.get('gt_instances', ())) > 0,
                show=self.show,
                wait_time=self.wait_time,
                kpt_thr=self.kpt_thr,
                out_file=out_file,
                step=epoch,
            )
