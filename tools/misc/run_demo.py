# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Runs a complete example: draws toy people, trains, tests, and writes images of predictions.

Tests with and without fusion. Runs the same tools as a user would, from the root of the repository.
Data are written to data/toy, results to work_dirs/demo. A second call continues a stopped run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

CONFIG = 'configs/kapao/kapao_n_toy.py'
DATA = Path('data/toy/easy')
WORK = Path('work_dirs/demo')
PICTURES = WORK / 'pictures'
NUM_PICTURES = 8
STEPS = {  # and their times on two CPU cores
    'drawing 360 images of people': '20 s',
    f'training {CONFIG} for 60 epochs': '9 min',
    'testing with fusion and without': '30 s',
    f'drawing {NUM_PICTURES} pictures': '10 s',
}

PROGRESS = re.compile(
    r'Epoch\((?:train\)\s+\[(?P<epoch>\d+)\].* eta: (?P<eta>\S+) .*  loss: (?P<loss>\S+)'
    r'|val\) \[(?P<val_epoch>\d+)\]\[.*coco/AP: (?P<ap>[-\d.]+))'
)


def run(log: str, tool: str, *args: str) -> None:
    """Runs a tool with its output in a log file, and prints the progress of training.

    Raises:
        SystemExit: If the tool fails; the message contains the end of its output.
    """
    path = WORK / log
    command = [sys.executable, f'tools/{tool}', *args]
    with (
        path.open('w') as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            if found := PROGRESS.search(line):
                show_progress(**found.groupdict())
    if process.returncode:
        tail = '\n'.join(path.read_text().splitlines()[-15:])
        sys.exit(f'{tail}\nerror: tools/{tool} failed; all of its output is in {path}')


def show_progress(
    epoch: str | None, eta: str | None, loss: str | None, val_epoch: str | None, ap: str | None
) -> None:
    """Prints a line for every fifth epoch of training and for every validation."""
    if val_epoch:
        print(f'  epoch {val_epoch:>3}  AP {float(ap):.3f}', flush=True)
    elif int(epoch) % 5 == 0 or epoch == '1':
        print(f'  epoch {epoch:>3}  loss {float(loss):.3f}  remaining {eta}', flush=True)


def test(checkpoint: str, name: str, *options: str) -> float:
    """Returns the AP of a checkpoint on the validation images."""
    out = WORK / f'{name}.json'
    args = [CONFIG, checkpoint, '--work-dir', str(WORK), '--out', str(out)]
    run(f'{name}.log', 'test.py', *args, *(['--cfg-options', *options] if options else []))
    return json.loads(out.read_text())['coco/AP']


def begin(number: int) -> None:
    """Prints the number and name of a step."""
    print(f'{number}/{len(STEPS)}  {list(STEPS)[number - 1]}', flush=True)


def computes_in_bfloat16() -> bool:
    """Returns whether the CPU has instructions for bfloat16 (Linux on x86)."""
    cpu = Path('/proc/cpuinfo')
    return cpu.is_file() and bool({'avx512_bf16', 'amx_bf16'} & set(cpu.read_text().split()))


def main() -> None:
    """Runs all steps, and prints the results."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    from kapao_mm.datasets.toy import make_toy_dataset  # takes seconds

    start = time.monotonic()
    WORK.mkdir(parents=True, exist_ok=True)
    print('The demo on two CPU cores:')
    print(''.join(f'  {step}: {duration}\n' for step, duration in STEPS.items()), flush=True)

    begin(1)
    make_toy_dataset(DATA)

    begin(2)
    precision = 'bfloat16' if computes_in_bfloat16() else 'float32'
    faster = [f'optim_wrapper.precision={precision}', 'optim_wrapper.optimizer.fused=True']
    args = ['--work-dir', str(WORK), '--resume', '--cfg-options', *faster, 'image_cache=ram']
    run('train.log', 'train.py', CONFIG, *args)
    # Only the name is used, because the repository may have been moved.
    checkpoint = str(WORK / Path((WORK / 'last_checkpoint').read_text().strip()).name)

    begin(3)
    fused = test(checkpoint, 'with_fusion')
    alone = test(checkpoint, 'without_fusion', 'model.test_cfg.fusion_distance=0')

    begin(4)
    images = sorted(map(str, (DATA / 'val2017').glob('*.jpg')))[:NUM_PICTURES]
    where = ['--out-dir', str(PICTURES), '--objects']
    run('pictures.log', 'demo.py', *images, '--model', checkpoint, *where)

    kapao = os.path.relpath(Path(sys.executable).parent / 'kapao')
    print(f"""
AP {fused:.3f} with fusion, {alone:.3f} without (60 validation images)
pictures    {PICTURES}  (pose objects | keypoint objects | fused poses)
checkpoint  {checkpoint}
took {(time.monotonic() - start) / 60:.1f} min; to train again from the start, remove {WORK}

Next:
  your own images     {kapao} predict IMAGE_OR_VIDEO... --model {checkpoint}
  in the browser      {kapao} demo --model {checkpoint}
  your own dataset    {kapao} new-dataset COCO_KEYPOINTS.json --images FOLDER
  released weights    {kapao} convert kapao_s_coco.pt kapao_s_coco.pth""")


if __name__ == '__main__':
    main()
