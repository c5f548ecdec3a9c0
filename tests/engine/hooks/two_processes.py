# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What each process does for test_finite_loss_hook.py: two_processes.py FOLDER."""

import sys
from pathlib import Path

from short_run import images, make_run

from kapao_mm import register_all_modules
from kapao_mm.errors import InputError
from kapao_mm.utils.dist import join_processes, leave_processes


def main() -> None:
    """Trains without the last two batches, skipping one of them, and stopping at it.

    The second process has image 5 in the second of its two batches.
    """
    folder = Path(sys.argv[1])
    register_all_modules()
    join_processes('pytorch')
    spoilt = images(spoilt=5)
    for name, choice, data in (
        ('without', 'stop', spoilt[:4]),
        ('skip', 'skip', spoilt),
        ('stop', 'stop', spoilt),
    ):
        hook = dict(type='FiniteLossHook', on_non_finite=choice)
        run = make_run(folder / name, hooks=[hook], data=data, launcher='pytorch')
        try:
            run.train()
        except InputError as error:
            saved = (folder / 'stop/non_finite_iter_2.pth').is_file()
            (folder / f'message_{run.rank}').write_text(f'{error}; saved: {saved}')
    leave_processes()


if __name__ == '__main__':
    main()
