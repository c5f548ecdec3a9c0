# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The main job on drawn people: makes the data, trains, tests with and without fusion, draws.

Calls the same tools as a user would, from the root of the repository, and shows how far they are.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from kapao_mm.datasets.toy import make_toy_dataset

PYTHON = '.venv/bin/python'  # what `make` made
CONFIG = 'configs/kapao/kapao_n_toy.py'
DATA = Path('data/toy/easy')
WORK = Path('work_dirs/demo')
PICTURES = WORK / 'pictures'
NUM_PICTURES = 8

PROGRESS = re.compile(
    r'Epoch\((?:train\)\s+\[(?P<epoch>\d+)\].* eta: (?P<eta>\S+) .*  loss: (?P<loss>\S+)'
    r'|val\) \[(?P<val_epoch>\d+)\]\[.*coco/AP: (?P<ap>[-\d.]+))'
)


def run(log: str, tool: str, *args: str) -> None:
    """Runs a tool, its output into a log file, and shows the epochs.

    Raises:
        SystemExit: the tool failed; shows the end of its output.
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
    """One line every few epochs of training, and one for every validation."""
    if val_epoch:
        print(f'  epoch {val_epoch:>3}  AP {float(ap):.3f}', flush=True)
    elif int(epoch) % 5 == 0 or epoch == '1':
        print(f'  epoch {epoch:>3}  loss {float(loss):.3f}  to go {eta}', flush=True)


def test(checkpoint: str, name: str, *options: str) -> float:
    """The AP of a checkpoint on the validation images."""
    out = WORK / f'{name}.json'
    args = [CONFIG, checkpoint, '--work-dir', str(WORK), '--out', str(out)]
    run(f'{name}.log', 'test.py', *args, *(['--cfg-options', *options] if options else []))
    return json.loads(out.read_text())['coco/AP']


def main() -> None:
    """Runs the whole job and prints what came out."""
    start = time.monotonic()
    WORK.mkdir(parents=True, exist_ok=True)

    print('1/4  drawing 360 images of people (20 s)', flush=True)
    make_toy_dataset(DATA)

    print(f'2/4  training {CONFIG} (8 min on two cores, less what was done before)', flush=True)
    run('train.log', 'train.py', CONFIG, '--work-dir', str(WORK), '--resume')
    # By its name: the repository may have been moved since.
    checkpoint = str(WORK / Path((WORK / 'last_checkpoint').read_text().strip()).name)

    print('3/4  testing with fusion and without (20 s)', flush=True)
    fused = test(checkpoint, 'with_fusion')
    alone = test(checkpoint, 'without_fusion', 'model.test_cfg.fusion_distance=0')

    print(f'4/4  drawing {NUM_PICTURES} pictures (10 s)', flush=True)
    images = sorted(map(str, (DATA / 'val2017').glob('*.jpg')))[:NUM_PICTURES]
    where = ['--out-dir', str(PICTURES), '--objects']
    run('pictures.log', 'demo.py', *images, '--config', CONFIG, '--checkpoint', checkpoint, *where)

    print(f'\nAP {fused:.3f} with fusion, {alone:.3f} without (60 validation images)')
    print(f'pictures    {PICTURES}  (pose objects | keypoint objects | fused poses)')
    print(f'checkpoint  {checkpoint}')
    print(f'took {(time.monotonic() - start) / 60:.1f} min; to train anew, remove {WORK}')
    print(f'next: {PYTHON} tools/demo.py IMAGE --config {CONFIG} --checkpoint {checkpoint}')


if __name__ == '__main__':
    main()
