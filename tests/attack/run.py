# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Gives bad input to the package, and counts the outcomes.

Each kind of attack is a module beside this file with a function ``attempts(count, seed, folder)``,
which yields a description and a callable for each attempt. An attempt must return with a correct
result, or raise an InputError. Everything else is a fault.

    python tests/attack/run.py --count 1000
"""

import argparse
import importlib
import tempfile
from collections import Counter
from pathlib import Path

from kapao_mm.errors import InputError

KINDS = [path.stem for path in sorted(Path(__file__).parent.glob('[!_rt]*.py'))]


def run(kind: str, count: int, seed: int) -> tuple[Counter, list[str]]:
    """Makes the attempts of one kind.

    Args:
        kind: One of :data:`KINDS`.
        count: Number of attempts; a module may round it up to have each of its cases once.
        seed: Seed of the random generator.

    Returns:
        The numbers of attempts that ended with a result, an error and a fault, and a line for each
        fault.
    """
    outcomes, faults = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, attempt in importlib.import_module(kind).attempts(count, seed, Path(folder)):
            try:
                attempt()
                outcome = 'result'
            except InputError:
                outcome = 'error'
            except Exception as error:  # a fault may be anything
                outcome = 'fault'
                faults.append(f'{kind}, {name}: {type(error).__name__}: {error}')
            outcomes[outcome] += 1
    return outcomes, faults


def main() -> None:
    """Runs the attacks and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('kinds', nargs='*', choices=[*KINDS, []], help='kinds of attack [all]')
    parser.add_argument('--count', type=int, default=200, help='attempts of each kind [200]')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random generator [0]')
    args = parser.parse_args()
    all_faults = []
    for kind in args.kinds or KINDS:
        outcomes, faults = run(kind, args.count, args.seed)
        all_faults += faults
        counts = ', '.join(f'{outcomes[name]} {name}s' for name in ('result', 'error', 'fault'))
        print(f'{kind}: {outcomes.total()} attempts, {counts}', flush=True)
    print('\n'.join(all_faults))
    raise SystemExit(bool(all_faults))


if __name__ == '__main__':
    main()
