# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Prints which packages are installed, which fit, and the command that mends what does not."""

import argparse
import sys

from kapao_mm.errors import exit_on_input_error


def main() -> None:
    """Prints one line for each part; the exit code is 1 if something needed does not fit."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    from kapao_mm.utils.environment import check_environment

    parts = check_environment()
    names, found = (max(len(part[i]) for part in parts) for i in (0, 1))
    for part in parts:
        state = 'ok' if not part.remedy else 'NO' if part.needed else '--'
        print(f'{state}  {part.name:<{names}}  {part.found or "missing":<{found}}  {part.wanted}')
        if part.remedy:
            print(f'      {part.remedy}')
    wrong = [part.name for part in parts if part.remedy and part.needed]
    print(f'\ndoes not fit: {", ".join(wrong)}' if wrong else '\neverything needed fits')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    with exit_on_input_error():
        main()
