# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from copy import deepcopy

import pytest
import torch
from mmpose.registry import MODELS
from torch import nn
from torch.utils import checkpoint

from kapao_mm.models.utils import training


@pytest.fixture
def build(model_cfg):
    """Builds the tiny model with switches, always with the same weights."""

    def build(**switches: bool) -> nn.Module:
        cfg = model_cfg()
        cfg.model.update(switches)
        torch.manual_seed(0)
        return MODELS.build(cfg.model).train()

    return build


@pytest.fixture
def graphs(monkeypatch) -> list:
    """Replaces code generation, which takes minutes, by running the graphs; lists them."""
    graphs = []

    def run_graph(graph, _):
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda f, **kw: compile_(f, backend=run_graph, **kw))
    torch.compiler.reset()
    return graphs


def backward(model: nn.Module, iterations: int = 1) -> None:
    """Accumulates the gradients of a few batches."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(iterations):
        grids = model(torch.rand(2, 3, 64, 64, generator=generator), None, mode='tensor')
        sum(grid.square().mean() for grid in grids).backward()


def assert_same_state(model: nn.Module, other: nn.Module) -> None:
    """Compares gradients and buffers by name, bit for bit."""
    gradients = [{name: p.grad for name, p in m.named_parameters()} for m in (model, other)]
    for found, expected in (gradients, [dict(m.named_buffers()) for m in (model, other)]):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert torch.equal(value, expected[name]), name


def test_recomputation_keeps_gradients_and_running_statistics(build):
    plain, recomputed = build(), build(checkpoint_activations=True)
    for model in (plain, recomputed):
        backward(model, iterations=2)
    assert plain.backbone.stem.conv.bn.num_batches_tracked == 2
    assert_same_state(recomputed, plain)
    assert list(recomputed.state_dict()) == list(plain.state_dict())


def test_copy_recomputes_with_its_own_weights(build):
    plain = build()
    copy = deepcopy(build(checkpoint_activations=True))
    for model in (plain, copy):
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
        backward(model)
    assert_same_state(copy, plain)


def test_recomputation_keeps_fewer_activations(build):
    kept = []
    for checkpoint_activations in (False, True):
        model = build(checkpoint_activations=checkpoint_activations)
        sizes = {}
        image = torch.rand(2, 3, 64, 64)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.update({t.data_ptr(): t.nbytes}) or t, lambda t: t
        ):
            model(image, None, mode='tensor')
        weights = {p.data_ptr() for p in model.parameters()}
        kept.append(sum(size for key, size in sizes.items() if key not in weights))
    assert kept[1] < kept[0] / 3


def test_every_backbone_stage_and_neck_layer_is_recomputed_in_training_only(build, monkeypatch):
    layers = []

    def spy(forward, layer, x, **options):
        layers.append(layer)
        return checkpoint.checkpoint(forward, layer, x, **options)

    monkeypatch.setattr(training, 'checkpoint', spy)
    model = build(checkpoint_activations=True)
    backward(model)
    names = {layer: name for name, layer in model.named_modules()}
    assert [names[layer] for layer in layers] == [
        'backbone.stem',
        *(f'backbone.stage{i}' for i in range(1, 6)),
        *(f'neck.top_down_blocks.{i}' for i in range(3)),
        *(f'neck.bottom_up_blocks.{i}' for i in range(3)),
    ]
    layers.clear()
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64), None, mode='tensor')
    assert not layers


@pytest.mark.slow
def test_compiled_and_copied_training_keeps_results(build, graphs):
    plain = build(channels_last=True)
    compiled = build(channels_last=True, checkpoint_activations=True, compile_network=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for _ in range(2):
        for model in (plain, compiled):
            backward(model, iterations=2)
        assert_same_state(compiled, plain)
        # EMA copies a model that may have run: a copy must read its own weights
        plain, compiled = deepcopy(plain), deepcopy(compiled)
        for parameter in (*plain.parameters(), *compiled.parameters()):
            parameter.data.mul_(1.5)
    assert len(graphs) == 3  # backbone, neck and head, each in one piece and once


def test_evaluation_is_not_compiled(build, graphs):
    model = build(compile_network=True).eval()
    with torch.no_grad():
        for size in ((64, 64), (64, 128)):
            model(torch.rand(1, 3, *size), None, mode='tensor')
    assert not graphs
