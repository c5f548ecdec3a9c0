# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that writes images with drawn predictions during validation and test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmengine.runner import Runner
from mmpose.engine.hooks import PoseVisualizationHook
from mmpose.registry import HOOKS
from mmpose.structures import PoseDataSample, merge_data_samples

from kapao_mm.utils.atomic_file import check_folder
from kapao_mm.utils.image_files import OutputNames, read_image


@HOOKS.register_module()
class PictureHook(PoseVisualizationHook):
    """Draws the predictions of every ``interval``-th image of validations and tests.

    MMPose's PoseVisualizationHook writes to ``out_dir`` only in a test, and then draws every image.
    Here images of a validation go to ``out_dir/epoch_N``, and images with the same name get a
    number. Without ``out_dir`` the hook behaves as MMPose's.

    Args:
        interval: Interval between drawn images.
        out_dir: Folder for the drawn images; a relative path is below the folder of the run,
            ``WORK_DIR/TIMESTAMP``.
        **kwargs: Further arguments of :class:`PoseVisualizationHook`.

    Raises:
        InputError: If ``out_dir`` cannot be written to.
    """

    def __init__(self, interval: int = 50, out_dir: str | None = None, **kwargs: Any) -> None:
        super().__init__(interval=interval, out_dir=out_dir, **kwargs)
        self._names = OutputNames()

    def before_run(self, runner: Runner) -> None:
        """Checks that the output folder can be written to."""
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
        if self.out_dir is None:
            super().after_val_iter(runner, batch_idx, data_batch, outputs)
        elif self.enable:
            self._visualizer.set_dataset_meta(runner.val_evaluator.dataset_meta)
            self._draw(outputs, Path(self.out_dir, f'epoch_{runner.epoch}'))

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[PoseDataSample]
    ) -> None:
        """Draws predictions of a test batch."""
        if self.out_dir is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
        elif self.enable:
            self._visualizer.set_dataset_meta(runner.test_evaluator.dataset_meta)
            self._draw(outputs, Path(self.out_dir))

    def _draw(self, outputs: Sequence[PoseDataSample], folder: Path) -> None:
        """Writes an image with the predictions of every ``interval``-th sample."""
        folder.mkdir(parents=True, exist_ok=True)
        for sample in outputs:
            index, self._test_index = self._test_index, self._test_index + 1
            if index % self.interval:
                continue
            source = Path(sample.img_path)
            path = folder / f'{self._names(source.stem, index)}{source.suffix}'
            self._visualizer.add_datasample(
                path.stem,
                mmcv.bgr2rgb(read_image(source)),
                data_sample=merge_data_samples([sample]),
                draw_gt=False,
                draw_bbox=True,
                show=self.show,
                wait_time=self.wait_time,
                kpt_thr=self.kpt_thr,
                out_file=str(path),
            )
