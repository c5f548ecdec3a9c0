# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Copies small data to and from a GPU with as few waits for it as possible."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def constant(values: float | Sequence, like: Tensor) -> Tensor:
    """Returns numbers as a tensor of the device and dtype of another one, without a wait.

    ``like.new_tensor(values)`` would make the CPU wait until a GPU has done all its work.
    """
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copies tensors to the CPU, and waits for a GPU only once."""
    on_gpu = tensors[0].is_cuda
    copies = [tensor.to('cpu', non_blocking=on_gpu) for tensor in tensors]
    if on_gpu:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy() for copy in copies]
