# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Released KAPAO and YOLOv5-P6 checkpoints: a pickled module tree, and what its weights are here.

Layers and their order are those of docs/method.md, Network. Channels have the same order here as
in the release (Focus, the branches of a CSP layer, SPP, the neck's concatenations): weights only
change names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from kapao_mm.errors import InputError

from .inert_pickle import InertObject, load_inert

# The release's layers that have weights, by their number, and ours.
SPP, HEAD = 10, 33
LAYERS = {
    0: 'backbone.stem',
    **{2 * i - 1: f'backbone.stage{i}.0' for i in range(1, 6)},
    **{2 * i: f'backbone.stage{i}.1' for i in range(1, 6)},
    11: 'backbone.stage5.2',
    **{12 + 4 * i: f'neck.reduce_layers.{i}' for i in range(3)},
    **{15 + 4 * i: f'neck.top_down_blocks.{i}' for i in range(3)},
    **{24 + 3 * i: f'neck.downsamples.{i}' for i in range(3)},
    **{26 + 3 * i: f'neck.bottom_up_blocks.{i}' for i in range(3)},
    HEAD: 'head.head_module',
}
CONVS = ('backbone.stem.conv', *(f'backbone.stage{i}.0' for i in range(1, 6)))
CSP_LAYERS = (
    *(f'backbone.stage{i}.1' for i in range(1, 5)),
    'backbone.stage5.2',
    'neck.top_down_blocks.0',
)
STRIDES = (8, 16, 32, 64)
MAX_NAMES = 10**6  # characters in the names of all weights; the largest releases have 10**5


class Release(NamedTuple):
    """What a released checkpoint holds.

    Attributes:
        weights: in the file's precision, by our names.
        widths: channels of the stem and the five stages.
        depths: blocks in the CSP layers of the five stages and in those of the neck.
        num_keypoints: K; 0 of a detector.
        num_classes: K + 1; the classes of a detector.
        classes: their names in the file's order; empty where it has none.
        anchors: widths and heights of each level's anchors, (L, Na, 2) px.
    """

    weights: dict[str, Tensor]
    widths: list[int]
    depths: list[int]
    num_keypoints: int
    num_classes: int
    classes: list[str]
    anchors: list[list[list[float]]]


def read_release(path: str | Path) -> Release:
    """Reads a released checkpoint without its code.

    Raises:
        InputError: the file is missing, cannot be read safely or holds something else.
    """
    content = load_inert(path)
    try:
        model = _find_model(content)
        weights = _read_weights(model, Path(path).stat().st_size)
        head = _find_head(model)
        anchors, num_classes = head['_buffers']['anchors'], head['nc']
        for name in head['_buffers']:  # anchors; ours come from the config
            weights.pop(f'model.{HEAD}.{name}', None)
        weights = {our_name(name): value for name, value in weights.items()}
        outputs = len(weights['head.head_module.convs.0.weight']) // anchors.shape[1]
        return Release(
            weights=weights,
            widths=[len(weights[f'{layer}.conv.weight']) for layer in CONVS],
            depths=[_count_blocks(weights, layer) for layer in CSP_LAYERS],
            num_keypoints=_num_keypoints(num_classes, outputs),
            num_classes=num_classes,
            classes=_class_names(model),
            anchors=[
                (level.double() * stride).tolist()
                for level, stride in zip(anchors, STRIDES, strict=True)
            ],
        )
    except InputError as error:
        raise InputError(f'{path} is no released KAPAO or YOLOv5-P6: {error}') from error
    except Exception as error:  # the content may be anything
        raise InputError(
            f'{path} is no released KAPAO or YOLOv5-P6: unexpected content ({error!r})'
        ) from error


def our_name(name: str) -> str:
    """The name here of one of the release's weights; its own if no layer here is like its layer.

    >>> our_name('model.2.m.0.cv1.bn.bias')
    'backbone.stage1.1.blocks.0.conv1.bn.bias'
    """
    _, number, *parts = name.split('.')
    layer = int(number)
    if layer not in LAYERS:
        return name
    if layer == HEAD:
        parts[0] = 'convs'
    elif layer == SPP:
        parts[0] = parts[0].replace('cv', 'conv')
    elif parts[0] == 'm':
        parts[0] = 'blocks'
        parts[2] = parts[2].replace('cv', 'conv')
    else:
        csp = dict(cv1='main_conv', cv2='short_conv', cv3='final_conv')
        parts[0] = csp.get(parts[0], parts[0])
    return '.'.join((LAYERS[layer], *parts))


def _find_model(content: Any) -> InertObject:
    """The averaged model where there are two, as the release's own evaluation does."""
    if not isinstance(content, dict):
        raise InputError(f'it holds a {type(content).__name__}')
    if 'state_dict' in content:
        raise InputError('it is in the format of MMEngine already')
    model = content.get('ema') or content.get('model')
    if not isinstance(model, InertObject):
        raise InputError('it has no model')
    return model


def _read_weights(model: InertObject, file_size: int) -> dict[str, Tensor]:
    """The parameters and buffers by the names that a state dict would give them.

    A file can share modules and tensors so that a few bytes stand for any number of them.

    Raises:
        InputError: If there are more than the file, of that many bytes, or any release can hold.
    """
    weights, characters, size = {}, 0, 0
    for name, value in _walk(model):
        characters += len(name) + 1
        if characters > MAX_NAMES:
            raise InputError('it has more modules than any release')
        if value is not None:
            weights[name] = value
            size += value.numel() * value.element_size()
        if size > file_size:
            raise InputError('its weights are larger than the file')
    return weights


def _walk(module: InertObject, prefix: str = '') -> Iterator[tuple[str, Tensor | None]]:
    """The modules (with None), parameters and buffers below a module."""
    for kind in ('_parameters', '_buffers'):
        for name, value in module.state[kind].items():
            yield f'{prefix}{name}', value
    for name, child in module.state['_modules'].items():
        yield f'{prefix}{name}', None
        yield from _walk(child, f'{prefix}{name}.')


def _find_head(model: InertObject) -> dict[str, Any]:
    """The attributes of the head, the last layer of the layout that is known here."""
    layers = model.state['_modules']['model'].state['_modules']
    last = max(layers, key=int)
    if last != str(HEAD):
        raise InputError(f'its layers are 0 to {last}; P6 has 0 to {HEAD}')
    if 'bn' in layers['0'].state['_modules']:
        raise InputError('its first layer is a convolution, as in later YOLOv5s; it must be Focus')
    return layers[last].state


def _count_blocks(weights: dict[str, Tensor], layer: str) -> int:
    return sum(
        name.startswith(f'{layer}.blocks.') and name.endswith('.conv1.conv.weight')
        for name in weights
    )


def _num_keypoints(num_classes: int, outputs: int) -> int:
    """K by the outputs of an anchor; 0 of a detector.

    A KAPAO has box, objectness, K + 1 classes and 2K coordinates; a detector has no coordinates.
    """
    if outputs == num_classes + 5:
        return 0
    if outputs == 3 * num_classes + 3:
        return num_classes - 1
    raise InputError(f'its head has {outputs} outputs an anchor for {num_classes} classes')


def _class_names(model: InertObject) -> list[str]:
    names = model.state.get('names') or []
    names = list(names.values() if isinstance(names, dict) else names)
    return [name for name in names if isinstance(name, str)]
