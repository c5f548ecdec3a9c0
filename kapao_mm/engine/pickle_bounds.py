# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Refuses pickles that keep a reader busy for ever."""

import pickle
import pickletools
from typing import BinaryIO

MARK = 0  # stands for a mark on the stack; objects have sizes from 1


def require_bounded_tuples(pickled: BinaryIO, limit: int) -> None:
    """Raises if a tuple in a pickle holds more objects, those inside it included, than a limit.

    Tuples can share their parts: ``b = (a, a)``, ``c = (b, b)`` and so on double with every few
    bytes, and a reader that uses one as the key of a dict has to look at all of them.

    Args:
        pickled: Where a pickle begins; read to its end.
        limit: Number of objects; the length of the file is more than any tuple needs.

    Raises:
        UnpicklingError: If there is such a tuple.
        ValueError: If it is no pickle.
    """
    stack, memo = [], {}  # numbers of objects
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
                size = 1  # other containers are no keys, other objects know their hash
            if size > limit:
                raise pickle.UnpicklingError('its tuples hold more objects than the file has bytes')
            stack += [size] * len(opcode.stack_after)


def _pop(stack: list[int], before: list[pickletools.StackObject]) -> int:
    """Takes what an opcode takes from the stack, and returns how many objects that were."""
    count = 0
    if pickletools.markobject in before:
        while (size := stack.pop()) != MARK:
            count += size
        before = before[: before.index(pickletools.markobject)]
    return count + sum(stack.pop() for _ in before)
