# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads released KAPAO and YOLOv5-P6 checkpoints, and renames their weights for this project.

A released file contains a pickled tree of modules. docs/method.md, Network, describes the layers.
In each of them (Focus stem, CSP layers, SPP, concatenations of the neck) the channels have the same
order in the released models as in this project, so that only the names of the weights change.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from kapao_mm.errors import InputError

from .inert_pickle import InertObject, load_inert

# Layers with weights: their numbers in released models and their names in this project.
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
# Layers, by their names in this project, whose weights tell the widths and depths of the model.
CONVS = ('backbone.stem.conv', *(f'backbone.stage{i}.0' for i in range(1, 6)))
CSP_LAYERS = (
    *(f'backbone.stage{i}.1' for i in range(1, 5)),
    'backbone.stage5.2',
    'neck.top_down_blocks.0',
)
STRIDES = (8, 16, 32, 64)  # of the levels; released anchors are in units of their level's stride
MAX_CHARACTERS = 10**6  # in the names of all modules and weights; released models have up to 10**5
UNKNOWN = 'not a released checkpoint of KAPAO or YOLOv5-P6'  # for messages: FILE is UNKNOWN: REASON


class ReleasedCheckpoint(NamedTuple):
    """Content of a released checkpoint.

    Attributes:
        weights: Weights by their names in this project, in the precision of the file.
        widths: Numbers of channels of the stem and of the five stages, (6,).
        depths: Numbers of blocks in the CSP layers of the five stages, and in one of the neck,
            which has the same number in all of its CSP layers, (6,).
        num_keypoints: Number of keypoint types K; 0 for a detector without keypoints.
        num_classes: Number of classes; K + 1 for KAPAO.
        classes: Class names in the order of the file; empty if the file has none.
        anchors: Widths and heights of the Na anchors of each of the L levels, (L, Na, 2) px of the
            network input.
    """

    weights: dict[str, Tensor]
    widths: list[int]
    depths: list[int]
    num_keypoints: int
    num_classes: int
    classes: list[str]
    anchors: list[list[list[float]]]

    @property
    def multiples(self) -> tuple[float, float]:
        """Width and depth multiple of the model's size (docs/method.md, Network)."""
        return self.widths[-1] / 1024, round(self.depths[1] / 9, 2)


def read_released_checkpoint(path: str | Path) -> ReleasedCheckpoint:
    """Reads a released checkpoint without running any code in it.

    Raises:
        InputError: If the file is missing, cannot be read safely, or is not a released KAPAO or
            YOLOv5-P6 checkpoint.
    """
    content = load_inert(path)
    try:
        model = _find_model(content)
        weights = _read_weights(model, Path(path).stat().st_size)
        head = _find_head(model)
        anchors, num_classes = head['_buffers']['anchors'], head['nc']
        for name in head['_buffers']:  # in this project the anchors are in the config
            weights.pop(f'model.{HEAD}.{name}', None)
        weights = {convert_name(name): value for name, value in weights.items()}
        outputs = len(weights['head.head_module.convs.0.weight']) // anchors.shape[1]
        return ReleasedCheckpoint(
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
    except Exception as error:  # the content may be anything
        reason = error if isinstance(error, InputError) else f'unexpected content ({error!r})'
        raise InputError(f'{path} is {UNKNOWN}: {reason}') from error


def convert_name(name: str) -> str:
    """Converts the name of a weight in a released checkpoint to its name in this project.

    Weights of layers that this project's models do not have keep their name.

    >>> convert_name('model.2.m.0.cv1.bn.bias')
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
    """Returns the model of a checkpoint.

    If the file has both, this is the model with averaged weights (``ema``), which the published
    evaluation used, and not the one at the end of training (``model``).

    Raises:
        InputError: If the checkpoint has no model or is already converted.
    """
    if not isinstance(content, dict):
        raise InputError(f'it holds a {type(content).__name__}')
    if 'state_dict' in content:
        raise InputError('it already is in the format of MMEngine')
    model = content.get('ema') or content.get('model')
    if not isinstance(model, InertObject):
        raise InputError('it has no model')
    return model


def _read_weights(model: InertObject, file_size: int) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a model by their names in a state dict.

    The limits are needed because a malicious file can refer to the same module or tensor many
    times, so that a few bytes would become weights of any number and size.

    Args:
        model: Root of the tree of modules.
        file_size: Size of the file in bytes.

    Raises:
        InputError: If the weights are larger than the file, or there are more modules than in any
            released model.
    """
    weights, characters, size = {}, 0, 0
    for name, value in _walk(model):
        characters += len(name) + 1
        if characters > MAX_CHARACTERS:
            raise InputError('it has more modules than any released model')
        if value is not None:
            weights[name] = value
            size += value.numel() * value.element_size()
        if size > file_size:
            raise InputError('its weights are larger than the file')
    return weights


def _walk(module: InertObject, prefix: str = '') -> Iterator[tuple[str, Tensor | None]]:
    """Yields the name of each parameter and buffer below a module, with its tensor.

    Modules are yielded as well, with None.
    """
    for kind in ('_parameters', '_buffers'):
        for name, value in module.state[kind].items():
            yield f'{prefix}{name}', value
    for name, child in module.state['_modules'].items():
        yield f'{prefix}{name}', None
        yield from _walk(child, f'{prefix}{name}.')


def _find_head(model: InertObject) -> dict[str, Any]:
    """Returns the attributes of the head, which is the last layer.

    Raises:
        InputError: If the model has other layers than YOLOv5-P6, such as YOLOv5 models without
            level P6, or those of later versions.
    """
    layers = model.state['_modules']['model'].state['_modules']
    last = max(layers, key=int)
    if last != str(HEAD):
        raise InputError(f'its layers are 0 to {last}; P6 has 0 to {HEAD}')
    if 'bn' in layers['0'].state['_modules']:
        raise InputError('its first layer is a convolution (later YOLOv5) instead of Focus')
    return layers[last].state


def _count_blocks(weights: dict[str, Tensor], layer: str) -> int:
    """Counts the blocks of a CSP layer."""
    return sum(
        name.startswith(f'{layer}.blocks.') and name.endswith('.conv1.conv.weight')
        for name in weights
    )


def _num_keypoints(num_classes: int, outputs: int) -> int:
    """Returns the number of keypoint types K; 0 for a detector.

    The outputs of an anchor are 4 for the box, objectness, and the classes. KAPAO has K + 1 classes
    and 2K more outputs, the coordinates of the keypoints.

    Args:
        num_classes: Number of classes.
        outputs: Number of outputs of an anchor.

    Raises:
        InputError: If the two numbers fit neither KAPAO nor a detector.
    """
    if outputs == num_classes + 5:
        return 0
    if outputs == 3 * num_classes + 3:
        return num_classes - 1
    raise InputError(f'its head has {outputs} outputs per anchor for {num_classes} classes')


def _class_names(model: InertObject) -> list[str]:
    """Returns the names of the classes, which a file stores as a list or as a dict by index."""
    names = model.state.get('names') or []
    names = list(names.values() if isinstance(names, dict) else names)
    return [name for name in names if isinstance(name, str)]
