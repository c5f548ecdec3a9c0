# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Refuses pickles with nested tuples that would take forever to read."""

import pickle
import pickletools
from typing import BinaryIO

MARK = 0  # a mark on the stack; objects have sizes of at least 1


def require_bounded_tuples(pickled: BinaryIO, limit: int) -> None:
    """Checks that no tuple in a pickle holds more objects, counted recursively, than a limit.

    Tuples can share their parts: ``b = (a, a)``, ``c = (b, b)`` and so on double the number of
    objects with a few bytes each. Hashing such a tuple, for example as the key of a dict, visits
    all of them.

    Args:
        pickled: File positioned at the start of a pickle; it is read to the end of the pickle.
        limit: Maximum number of objects; no regular tuple has more objects than the file has bytes.

    Raises:
        UnpicklingError: If a tuple exceeds the limit.
        ValueError: If the content is not a pickle.
    """
    stack, memo = [], {}  # number of objects in each entry
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name == 'MARK':
            stack.append(MARK)
        elif 'GET' in name:
            stack.append(memo[argument])
        elif 'PUT' in name or name == 'MEMOIZE':
            memo[len(memo) if name == 'MEMOIZE' else argument] = stack[-1]
        else:
            size = 1 + _pop(stack, opcode.stack_before)
            if not name.startswith('TUPLE'):
                size = 1  # other containers cannot be keys, other objects hash in constant time
            if size > limit:
                raise pickle.UnpicklingError('its tuples hold more objects than the file has bytes')
            stack += [size] * len(opcode.stack_after)


def _pop(stack: list[int], before: list[pickletools.StackObject]) -> int:
    """Pops the arguments of an opcode from the stack, and returns their number of objects."""
    count = 0
    if pickletools.markobject in before:
        while (size := stack.pop()) != MARK:
            count += size
        before = before[: before.index(pickletools.markobject)]
    return count + sum(stack.pop() for _ in before)
