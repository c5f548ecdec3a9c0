# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Optimizer wrapper with gradient accumulation, mixed precision and skipped batches."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmpose.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.optim import Optimizer

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import PRECISIONS


@OPTIM_WRAPPERS.register_module()
class KAPAOOptimWrapper(AmpOptimWrapper):
    """Sums the gradients of ``accumulation`` iterations before each optimizer step.

    MMEngine's wrappers average the gradients instead (KAPAO's loss is already multiplied by the
    batch size), use a fixed number of iterations, and do not save accumulated gradients in
    checkpoints. With DDP, gradients are averaged over processes at every iteration, so that every
    process holds the same accumulated gradients.

    Args:
        optimizer: Optimizer whose parameters are already on the training device.
        precision: Precision of the forward pass: 'float32', 'bfloat16', 'float16' (GPU only, with
            a dynamic loss scale), or 'auto' for float16 on a GPU and float32 elsewhere.
        clip_grad: Gradient clipping as in :class:`OptimWrapper`, applied to the summed gradient.

    Attributes:
        accumulation: Number of iterations before a step; :class:`RecipeHook` sets it at each
            iteration.
        stepped: Whether the last :meth:`update_params` changed the weights. It is False while
            gradients accumulate, for a skipped batch, and after an overflow in float16.

    Raises:
        InputError: If the precision is unknown, or is float16 without a GPU.
    """

    def __init__(
        self, optimizer: Optimizer, precision: str = 'auto', clip_grad: dict | None = None
    ) -> None:
        # Skips AmpOptimWrapper.__init__, which fails without a GPU.
        OptimWrapper.__init__(self, optimizer, clip_grad=clip_grad)
        # Otherwise MMEngine logs the lr of this additional group, which has no parameters.
        self.base_param_settings = None
        self.device = self._parameters()[0].device.type
        if precision == 'auto':
            precision = 'float16' if self.device == 'cuda' else 'float32'
        if precision not in PRECISIONS:
            raise InputError(
                f'optim_wrapper.precision is {precision!r}; set auto, {" or ".join(PRECISIONS)}'
            )
        if precision == 'float16' and self.device != 'cuda':
            raise InputError(
                f"optim_wrapper.precision='float16' needs a GPU, the model is on {self.device}; "
                "set 'auto', 'bfloat16' or 'float32'"
            )
        self.cast_dtype = getattr(torch, precision)
        self.loss_scaler = make_loss_scaler(self.device, enabled=precision == 'float16')
        self._scale_update_param = None  # dynamic loss scale
        self.accumulation = 1
        self.stepped = False
        self._pending = 0  # iterations since the last step
        # The loss scaler skips steps with overflowed gradients without reporting it.
        optimizer.register_step_post_hook(self._note_step)

    def optim_context(self, model: nn.Module) -> AbstractContextManager:
        """Returns the autocast context of the forward pass.

        MMEngine's would also skip DDP's gradient synchronization while gradients accumulate.
        """
        if self.cast_dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device, self.cast_dtype)

    def update_params(
        self, loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
    ) -> None:
        """Accumulates the gradient of a loss, and makes an optimizer step when it is due.

        Args:
            loss: Scalar loss. A loss without ``requires_grad`` marks a skipped batch and changes
                nothing.
            step_kwargs: Arguments of :meth:`torch.optim.Optimizer.step`.
            zero_kwargs: Arguments of :meth:`torch.optim.Optimizer.zero_grad`.
        """
        self.stepped = False
        if not loss.requires_grad:
            return
        self.backward(loss)
        self._pending += 1
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))
            self._pending = 0

    def should_update(self) -> bool:
        """Returns whether enough iterations passed since the last step."""
        return self._pending >= self.accumulation

    def get_lr(self) -> dict[str, list[float]]:
        """Returns the learning rates for the log: 'lr' of the first group, then 'NAME_lr'."""
        first, *others = self.optimizer.param_groups
        named = {f'{group["name"]}_lr': [group['lr']] for group in others if 'name' in group}
        return dict(lr=[first['lr']]) | named

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the optimizer, the loss scale and the accumulated gradients."""
        pending = dict(
            iterations=self._pending,
            gradients=[p.grad for p in self._parameters()],
            loss_scale=self.loss_scaler.get_scale(),
        )
        return super().state_dict() | dict(pending=pending)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state from :meth:`state_dict`, which may come from another precision."""
        state_dict = dict(state_dict)
        pending = state_dict.pop('pending', dict(iterations=0))
        if not state_dict.get('loss_scaler'):  # the scaler refuses an empty state
            state_dict.pop('loss_scaler', None)
        super().load_state_dict(state_dict)
        self.optimizer.zero_grad()
        self._pending = pending['iterations']
        if not self._pending:
            return
        factor = self.loss_scaler.get_scale() / pending['loss_scale']
        for parameter, gradient in zip(self._parameters(), pending['gradients'], strict=True):
            if gradient is not None:
                parameter.grad = gradient.to(parameter) * factor

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group['params']]

    def _note_step(self, *_: object) -> None:
        self.stepped = True


def make_loss_scaler(device: str, enabled: bool = True) -> torch.cuda.amp.GradScaler:
    """Returns torch's gradient scaler; versions of torch before 2.3 have one for GPUs only."""
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler(device, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)
