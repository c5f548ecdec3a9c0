# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What a training step costs, without changing what it computes: recomputation and compilation.

Both replace ``forward`` of modules by a bound method: names in the state dict stay, and a copy of a
module (EMA makes one) runs itself, not the original.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

# torch 2.1 has it in torch._dynamo only.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._dynamo.is_compiling


def recompute_in_backward(layers: Iterable[nn.Module]) -> None:
    """Makes layers drop their inner activations and compute them again in the backward pass.

    Gradients and buffers stay as they are, bit for bit where the device computes the same twice.
    (MMEngine's ``activation_checkpointing`` updates BatchNorm's running statistics twice.)

    Args:
        layers: modules of one tensor in and out, none inside another; changed in place.
    """
    for layer in layers:
        layer.forward = MethodType(_recomputed(type(layer).forward), layer)


def compile_in_training(modules: Iterable[nn.Module]) -> None:
    """Compiles modules for forward passes with gradients; shapes of training do not change.

    Without gradients they run as before: evaluation has a dozen input shapes, and compiling for
    several of them takes longer than it saves. (``nn.Module.compile`` compiles one function that
    all modules share, and gives up when it was compiled eight times.)

    Args:
        modules: changed in place.
    """
    for module in modules:
        module.forward = MethodType(_compiled(type(module).forward), module)


def _recomputed(forward: Callable) -> Callable:
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(layer, x)
        # A compiled graph computes activations again, but does not write buffers again.
        options = {} if is_compiling() else dict(context_fn=partial(_contexts, layer))
        return checkpoint(forward, layer, x, use_reentrant=False, **options)

    return run


def _compiled(forward: Callable) -> Callable:
    compiled = torch.compile(forward, dynamic=False)

    def run(module: nn.Module, *inputs: Tensor) -> Tensor | list[Tensor]:
        return (compiled if torch.is_grad_enabled() else forward)(module, *inputs)

    return run


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of the first and the second forward pass."""
    return nullcontext(), _running_statistics_kept(layer)


@contextmanager
def _running_statistics_kept(layer: nn.Module) -> Iterator[None]:
    """Lets BatchNorm write into copies of its buffers."""
    norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({k: v.clone() for k, v in norm._buffers.items() if v is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
