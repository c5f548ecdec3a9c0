# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Saves memory or time in training: recomputation of activations, and compilation.

Both replace the ``forward`` of modules by a bound method. Therefore the names in the state dict
stay the same, and a copy of a module, such as the average of EMA, uses its own weights.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

# In torch 2.1 the function is in torch._dynamo only.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._dynamo.is_compiling


def recompute_in_backward(layers: Iterable[nn.Module]) -> None:
    """Makes layers discard their inner activations and compute them again in the backward pass.

    Use it if a batch does not fit into memory; a step takes longer. Gradients and buffers do not
    change, bit for bit if the device computes the same result twice. (MMEngine's
    ``activation_checkpointing`` updates BatchNorm's running statistics twice.)

    Args:
        layers: Modules with one tensor as input and output, none inside another. They are changed
            in place.
    """
    for layer in layers:
        layer.forward = MethodType(_recomputed(type(layer).forward), layer)


def compile_in_training(modules: Iterable[nn.Module]) -> None:
    """Compiles modules for forward passes with gradients, which have a fixed input shape.

    Use it for long trainings: the first iterations take minutes. Without gradients the modules run
    uncompiled: evaluation has a dozen input shapes, and compiling for several of them takes longer
    than it saves. (``nn.Module.compile`` is not used because it compiles one function that all
    modules share, and gives up after eight compilations.)

    Args:
        modules: Modules, changed in place.
    """
    for module in modules:
        module.forward = MethodType(_compiled(type(module).forward), module)


def _recomputed(forward: Callable) -> Callable:
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(layer, x)
        # A compiled graph recomputes activations but does not write buffers again.
        options = {} if is_compiling() else dict(context_fn=partial(_contexts, layer))
        return checkpoint(forward, layer, x, use_reentrant=False, **options)

    return run


def _compiled(forward: Callable) -> Callable:
    compiled = torch.compile(forward, dynamic=False)

    def run(module: nn.Module, *inputs: Tensor) -> Tensor | list[Tensor]:
        return (compiled if torch.is_grad_enabled() else forward)(module, *inputs)

    return run


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Returns the contexts of the forward pass and of its recomputation."""
    return nullcontext(), _running_statistics_kept(layer)


@contextmanager
def _running_statistics_kept(layer: nn.Module) -> Iterator[None]:
    """Makes BatchNorm write into copies of its buffers, which are then discarded."""
    norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({k: v.clone() for k, v in norm._buffers.items() if v is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
