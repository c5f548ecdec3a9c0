# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads released KAPAO and YOLOv5-P6 checkpoints, and renames their weights for this project.

A released file contains a pickled tree of modules. docs/method.md, Network, describes the layers.
In each of them (Focus stem, CSP layers, SPP, concatenations of the neck) the channels have the same
order in the released models as in this project, so that only the names of the weights change.
YOLOv5 6.0 and later differ in three parts: the stem is a 6 x 6 convolution, which is rearranged;
the spatial pyramid pooling applies one kernel three times, which equals three larger kernels; and
it comes after the last CSP layer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from kapao_mm.errors import InputError

from .inert_pickle import InertObject, load_inert
from .stem import focus_from_conv

# Layers with weights: their numbers in released models and their names in this project.
SPP, HEAD = 10, 33  # the pyramid pooling is layer 11 in YOLOv5 6.0 and later
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
BLOCKS = (  # parts with one CSP layer each
    *(f'backbone.stage{i}' for i in range(1, 6)),
    'neck.top_down_blocks.0',
)
STRIDES = (8, 16, 32, 64)  # of the levels; released anchors are in units of their level's stride
MAX_CHARACTERS = 10**6  # in the names of all modules and weights; released models have up to 10**5
UNKNOWN = 'not a released checkpoint of KAPAO or YOLOv5-P6'  # for messages: FILE is UNKNOWN: REASON


class ReleasedCheckpoint(NamedTuple):
    """Content of a released checkpoint.

    Attributes:
        kind: Kind of the model.
        weights: Weights to convert by their names in this project, in the precision of the file.
        widths: Numbers of channels of the stem and of the five stages, (6,).
        depths: Numbers of blocks in the CSP layers of the five stages, and in one of the neck,
            which has the same number in all of its CSP layers, (6,).
        num_keypoints: Number of keypoint types K; 0 for a detector without keypoints.
        num_classes: Number of classes; K + 1 for KAPAO.
        classes: Class names in the order of the file; empty if the file has none.
        anchors: Widths and heights of the anchors of each level, (L, Na, 2) px of the network
            input; empty for a detector without keypoints.
        pools: Kernel sizes of the spatial pyramid pooling; empty if it is not converted.
        spp_last: Whether the pooling comes after the last CSP layer.
        partial: Whether parts of backbone and neck are missing.
        adapted: How weights were changed, by their names.
        left_out: Count of numbers of each part of the file's model that is not converted.
    """

    kind: str
    weights: dict[str, Tensor]
    widths: list[int]
    depths: list[int]
    num_keypoints: int
    num_classes: int
    classes: list[str]
    anchors: list[list[list[float]]]
    pools: list[int]
    spp_last: bool
    partial: bool
    adapted: dict[str, str]
    left_out: dict[str, int]

    @property
    def multiples(self) -> tuple[float, float]:
        """Width and depth multiples (docs/method.md, Network)."""
        return self.widths[-1] / 1024, round(self.depths[2] / 9, 2)


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
        layers = _find_layers(model)
        head, spp = layers[str(HEAD)].state, _find_spp(layers)
        anchors, num_classes = head['_buffers']['anchors'], head['nc']
        left_out = {'anchors': 0}
        for name in head['_buffers']:  # in this project they are in the config
            left_out['anchors'] += weights.pop(f'model.{HEAD}.{name}').numel()
        weights = {convert_name(name, spp): value for name, value in weights.items()}
        outputs = len(weights['head.head_module.convs.0.weight']) // anchors.shape[1]
        num_keypoints = _num_keypoints(num_classes, outputs)
        adapted = adapt_stem(weights)
        if not num_keypoints:
            left_out['head'] = _drop_head(weights)
        widths, depths = find_sizes(weights)
        return ReleasedCheckpoint(
            kind='KAPAO' if num_keypoints else 'YOLOv5-P6',
            weights=weights,
            widths=widths,
            depths=depths,
            num_keypoints=num_keypoints,
            num_classes=num_classes,
            classes=_class_names(model),
            anchors=[
                (level.double() * stride).tolist()
                for level, stride in zip(anchors, STRIDES, strict=True)
            ],
            pools=_pool_sizes(layers[str(spp)]),
            spp_last=spp != SPP,
            partial=False,
            adapted=adapted,
            left_out=left_out,
        )
    except Exception as error:  # the content may be anything
        reason = error if isinstance(error, InputError) else f'unexpected content ({error!r})'
        raise InputError(f'{path} is {UNKNOWN}: {reason}') from error


def convert_name(name: str, spp: int = SPP) -> str:
    """Returns the name in this project of a weight of a released checkpoint.

    Weights of layers that this project's models do not have keep their name.

    Args:
        name: Name of the weight.
        spp: Number of the layer with the spatial pyramid pooling.

    >>> convert_name('model.2.m.0.cv1.bn.bias')
    'backbone.stage1.1.blocks.0.conv1.bn.bias'
    """
    _, number, *parts = name.split('.')
    layer = int(number)
    if layer not in LAYERS:
        return name
    if layer == HEAD:
        parts[0] = 'convs'
    elif layer == spp:
        parts[0] = parts[0].replace('cv', 'conv')
    elif parts[0] == 'm':
        parts[0] = 'blocks'
        parts[2] = parts[2].replace('cv', 'conv')
    else:
        csp = dict(cv1='main_conv', cv2='short_conv', cv3='final_conv')
        parts[0] = csp.get(parts[0], parts[0])
    return '.'.join((LAYERS[layer], *parts))


def adapt_stem(weights: dict[str, Tensor]) -> dict[str, str]:
    """Replaces a 6 x 6 convolution in the stem by the Focus stem that computes the same.

    Args:
        weights: Weights by their names in this project; they are changed.

    Returns:
        The name of the changed weight and a description, or an empty dict.
    """
    conv = weights.get('backbone.stem.conv.weight')
    if conv is None:
        return {}
    if conv.shape[1:] != (3, 6, 6):
        shape = ' x '.join(map(str, conv.shape[1:]))
        raise InputError(f'its stem is neither Focus nor a convolution of 3 x 6 x 6, but {shape}')
    renamed = {
        name.replace('backbone.stem.', 'backbone.stem.conv.'): weights.pop(name)
        for name in list(weights)
        if name.startswith('backbone.stem.')
    }
    stem = 'backbone.stem.conv.conv.weight'
    weights.update(renamed | {stem: focus_from_conv(conv)})
    return {stem: 'stem of 6 x 6 as Focus, the same convolution'}


def find_sizes(weights: dict[str, Tensor]) -> tuple[list[int], list[int]]:
    """Returns the widths of stem and stages, and the numbers of blocks of stages and neck."""
    widths = [len(weights[f'{layer}.conv.weight']) for layer in CONVS]
    return widths, [count_blocks(weights, part) for part in BLOCKS]


def count_blocks(weights: dict[str, Tensor], part: str) -> int:
    """Returns the number of blocks of the CSP layer in a part of the model."""
    return sum(
        name.startswith(f'{part}.') and '.blocks.' in name and name.endswith('.conv1.conv.weight')
        for name in weights
    )


def _drop_head(weights: dict[str, Tensor]) -> int:
    names = [name for name in weights if name.startswith('head.')]
    return sum(weights.pop(name).numel() for name in names)


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


def _find_layers(model: InertObject) -> dict[str, InertObject]:
    """Returns the layers of a model by their numbers, after a check that they are those of P6."""
    layers = model.state['_modules']['model'].state['_modules']
    last = max(layers, key=int)
    if last != str(HEAD):
        raise InputError(f'its layers are 0 to {last}; P6 has 0 to {HEAD}')
    return layers


def _find_spp(layers: dict[str, InertObject]) -> int:
    """Returns the number of the layer with the pooling; the CSP layer has a third convolution."""
    return SPP if 'cv3' in layers[str(SPP + 1)].state['_modules'] else SPP + 1


def _pool_sizes(spp: InertObject) -> list[int]:
    """Returns the kernel sizes of a spatial pyramid pooling.

    It has a list of pools, or one pool that is applied three times in a row (SPPF). The latter
    equals pools of k, 2k - 1 and 3k - 2.
    """
    pool = spp.state['_modules']['m'].state
    if 'kernel_size' in pool:
        size = pool['kernel_size']
        sizes = [size, 2 * size - 1, 3 * size - 2]
    else:
        sizes = [child.state['kernel_size'] for child in pool['_modules'].values()]
    if not all(isinstance(size, int) and size in range(1, 100, 2) for size in sizes):
        raise InputError(f'its pyramid pooling has kernels of {sizes}')
    return sizes


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
