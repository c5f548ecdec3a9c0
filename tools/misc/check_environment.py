# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checks the installed packages, and prints the command that fixes each problem."""

import argparse
import sys

from kapao_mm.utils.cli import exit_on_input_error


def main() -> None:
    """Prints a line for each check; the exit code is 1 if a needed package is not suitable."""
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
    print(f'\nnot suitable: {", ".join(wrong)}' if wrong else '\nall needed packages are suitable')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    with exit_on_input_error():
        main()
