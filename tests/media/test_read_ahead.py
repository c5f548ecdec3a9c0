# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from kapao_mm.media.read_ahead import ReadAhead, WriteBehind


class Source:
    """Counts from 0, and notes how far it was read and whether it was closed."""

    def __init__(self) -> None:
        self.read = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        for number in count():
            self.read = number + 1
            yield number

    def close(self) -> None:
        self.closed.set()


def wait_until(condition) -> None:
    """Waits up to 5 s."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


@pytest.mark.parametrize('size', [1, 3, 100])
def test_items_come_in_order(size):
    assert list(ReadAhead(range(20), size)) == list(range(20))
    assert list(ReadAhead([], size)) == []


@pytest.mark.parametrize('size', [1, 5])
def test_error_comes_after_the_items_before_it(size):
    def items():
        yield from (1, 2, 3)
        raise ZeroDivisionError('at four')

    got = []
    with pytest.raises(ZeroDivisionError, match='at four'):
        for item in ReadAhead(items(), size):
            got.append(item)
    assert got == [1, 2, 3]


def test_no_more_is_read_ahead_than_asked_for():
    source = Source()
    with ReadAhead(source, 3) as items:
        assert next(items) == 0
        wait_until(lambda: source.read == 5)  # one was used, three wait, one is in the hand
        time.sleep(0.02)
        assert source.read == 5


def test_closing_stops_the_thread_and_closes_the_source():
    source = Source()
    items = ReadAhead(source, 2)
    next(items)
    items.close()
    assert source.closed.is_set()
    assert list(items) == []


def test_abandoned_iterator_closes_the_source():
    source = Source()
    for item in ReadAhead(source, 2):
        if item == 3:
            break
    del item
    assert source.closed.wait(5)


def test_generator_is_closed_in_its_thread():
    closed = []

    def items():
        try:
            yield from count()
        finally:
            closed.append(threading.current_thread())

    with ReadAhead(items(), 1) as reader:
        next(reader)
    assert closed and closed[0] is not threading.current_thread()


def test_newest_items_replace_old_ones_that_are_counted():
    source = Source()
    with ReadAhead(source, 1, newest=True) as items:
        first = next(items)
        wait_until(lambda: source.read > first + 100)
        second = next(items)
        assert second >= first + 99
        assert items.dropped >= second - first - 1 > 0


def test_last_item_of_a_live_source_is_not_lost():
    assert list(ReadAhead(range(50), 1, newest=True))[-1] == 49


def test_waiting_can_be_interrupted(request):
    def silent():
        silence.wait(10)
        yield

    silence = threading.Event()
    # Another test may have left another handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    items = ReadAhead(silent(), 1)
    main = threading.main_thread().ident
    threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGINT]).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert time.monotonic() - start < 5
    silence.set()


def test_items_are_written_in_order_and_all_when_closed():
    written = []
    with WriteBehind(written.append, 2) as writer:
        for item in (*range(50), None):
            writer.put(item)
    assert written == [*range(50), None]


def test_error_of_writing_is_raised_once_and_nothing_is_written_after_it():
    written = []

    def write(item):
        if item == 3:
            raise OSError('disk full')
        written.append(item)

    writer = WriteBehind(write, 1)
    with pytest.raises(OSError, match='disk full'):
        for item in range(100):
            writer.put(item)
    writer.close()
    assert written == [0, 1, 2]


def test_error_of_the_last_item_is_raised_when_closing():
    writer = WriteBehind(lambda item: 1 / item, 5)
    writer.put(0)
    with pytest.raises(ZeroDivisionError):
        writer.close()


def test_writing_waits_when_too_much_waits():
    gate, written = threading.Event(), []

    def write(item):
        gate.wait(5)
        written.append(item)

    writer = WriteBehind(write, 2)
    putter = threading.Thread(target=lambda: [writer.put(i) for i in range(4)])
    putter.start()
    putter.join(0.05)
    assert putter.is_alive()  # one is being written, two wait, the fourth has no room
    gate.set()
    putter.join(5)
    writer.close()
    assert written == [0, 1, 2, 3]
