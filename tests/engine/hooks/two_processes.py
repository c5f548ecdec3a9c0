# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Program of each process in test_finite_loss_hook.py: two_processes.py FOLDER."""

import sys
from pathlib import Path

from short_run import images, make_run

from kapao_mm import register_all_modules
from kapao_mm.errors import InputError
from kapao_mm.utils.dist import join_processes, leave_processes


def main() -> None:
    """Trains on the first two batches, then on all, skipping or stopping at the spoiled one.

    Image 5 is in the second of the two batches of the second process.
    """
    folder = Path(sys.argv[1])
    register_all_modules()
    join_processes('pytorch')
    spoiled = images(spoiled=5)
    for name, choice, data in (
        ('without', 'stop', spoiled[:4]),
        ('skip', 'skip', spoiled),
        ('stop', 'stop', spoiled),
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
