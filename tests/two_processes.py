# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Program of each process of test_two_processes.py: two_processes.py FOLDER DATA_ROOT."""

import sys
from pathlib import Path

import torch
from mmengine.dist import get_dist_info
from mmengine.model import MMDistributedDataParallel
from mmengine.structures import InstanceData
from mmpose.registry import MODELS, RUNNERS
from mmpose.structures import PoseDataSample
from torch import Tensor, nn

from kapao_mm import register_all_modules
from kapao_mm.engine import KAPAOOptimWrapper
from kapao_mm.utils.config import load_config
from kapao_mm.utils.dist import join_processes, leave_processes

CONFIG = Path(__file__).resolve().parents[1] / 'configs/kapao/kapao_n_coco.py'
WIDTHS = [32, 64, 96, 128]
TINY = {
    'input_size': 128,
    'model.backbone.widen_factor': 0.125,
    'model.neck.in_channels': WIDTHS,
    'model.head.in_channels': WIDTHS,
    'model.head.keypoint_size': 0.1,  # 0.05 of 128 px would match no anchor
}
K = 17
SMALL, LARGE = (40, 30, 60, 55), (5, 4, 124, 120)  # match stride 8 alone, the coarser ones

# The people of four images; each of two processes has two of them.
CASES = dict(
    people_everywhere=[[SMALL, LARGE], [SMALL], [LARGE], [SMALL, SMALL, LARGE]],
    nobody_on_one_process=[[], [], [SMALL, LARGE], [LARGE]],
    nobody_at_all=[[], [], [], []],
    no_match_at_the_levels_of_the_other=[[SMALL], [SMALL], [LARGE], [LARGE]],
)


def sample(boxes: list, visible: bool) -> PoseDataSample:
    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    sides = boxes[:, None, 2:] - boxes[:, None, :2]
    keypoints = boxes[:, None, :2] + torch.linspace(0.2, 0.8, K)[None, :, None] * sides
    labels = InstanceData(
        bboxes=boxes,
        keypoints=keypoints,
        keypoints_visible=torch.full(keypoints.shape[:2], float(visible)),
        labels=torch.zeros(len(boxes), dtype=torch.long),
    )
    return PoseDataSample(gt_instance_labels=labels)


def batch(case: str) -> dict:
    """The images of this process; a single process has all of them."""
    images = torch.randint(256, (4, 3, 128, 128), generator=torch.Generator().manual_seed(5))
    # The keypoint objects of LARGE people would match stride 8.
    visible = case != 'no_match_at_the_levels_of_the_other'
    samples = [sample(boxes, visible) for boxes in CASES[case]]
    rank, processes = get_dist_info()
    part = slice(4 // processes * rank, 4 // processes * (rank + 1))
    return dict(inputs=list(images.byte()[part]), data_samples=samples[part])


def model() -> nn.Module:
    """A tiny KAPAO with batch norm in evaluation mode, in DDP if there are several processes."""
    torch.manual_seed(0)
    cfg = load_config(CONFIG, TINY)
    net = MODELS.build(cfg.model)
    net.init_weights()
    net.eval()
    if get_dist_info()[1] == 1:
        return net
    wrapper = {key: value for key, value in cfg.model_wrapper_cfg.items() if key != 'type'}
    return MMDistributedDataParallel(net, **wrapper)


def gradients(net: nn.Module, *cases: str) -> dict[str, Tensor]:
    """Gradients, summed over iterations, and the logged losses of the last iteration."""
    net.zero_grad()
    wrapper = KAPAOOptimWrapper(torch.optim.SGD(net.parameters(), lr=1), precision='float32')
    wrapper.accumulation = 9  # none is stepped
    for case in cases:
        logged = net.train_step(batch(case), wrapper)
    found = {name.removeprefix('module.'): p.grad.clone() for name, p in net.named_parameters()}
    return found | logged


def skip_a_batch(net: nn.Module) -> None:
    """Trains with a loss without gradient, as FiniteLossHook does."""
    kapao = getattr(net, 'module', net)
    handle = kapao.register_forward_hook(lambda *_: dict(loss_box=torch.zeros(())))
    wrapper = KAPAOOptimWrapper(torch.optim.SGD(net.parameters(), lr=1), precision='float32')
    net.train_step(batch('people_everywhere'), wrapper)
    handle.remove()


def all_gradients() -> dict[str, dict[str, Tensor]]:
    """The gradients that one process and two must have in common."""
    net = model()
    found = {case: gradients(net, case) for case in CASES}
    found['two_iterations'] = gradients(net, 'people_everywhere', 'nobody_on_one_process')
    skip_a_batch(net)
    found['after_a_skipped_batch'] = gradients(net, 'people_everywhere')
    return found


def train(folder: Path, data_root: str) -> dict[str, dict[str, Tensor]]:
    """Trains an epoch of the published recipe; returns the weights and their average."""
    files = {
        f'{part}_ann': f'annotations/person_keypoints_{part}.json' for part in ('train', 'val')
    }
    loaders = {
        f'{part}_dataloader.{key}': value
        for part in ('train', 'val', 'test')
        for key, value in dict(num_workers=0, persistent_workers=False, pin_memory=False).items()
    }
    options = dict(data_root=data_root, max_epochs=1, work_dir=str(folder / 'work'))
    options |= {'launcher': 'pytorch', 'train_dataloader.batch_size': 2, **loaders, **files}
    runner = RUNNERS.build(load_config(CONFIG, TINY | options))
    runner.train()
    (average,) = (hook.ema_model.module for hook in runner.hooks if hasattr(hook, 'ema_model'))
    return dict(
        weights=dict(runner.model.module.named_parameters()),
        average=average.state_dict(),
    )


def main() -> None:
    folder, data_root = Path(sys.argv[1]), sys.argv[2]
    register_all_modules()
    join_processes('pytorch')
    rank, _ = get_dist_info()
    torch.save(all_gradients(), folder / f'gradients_{rank}.pth')
    torch.save(train(folder, data_root), folder / f'trained_{rank}.pth')
    leave_processes()


if __name__ == '__main__':
    main()
