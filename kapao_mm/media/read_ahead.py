# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads ahead and writes behind in threads, so that the network does not wait for files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

T = TypeVar('T')

POLL = 0.5  # s; a wait without a limit cannot be interrupted by Ctrl-C on Windows
PATIENCE = 2.0  # s that closing waits for a source that is busy, such as a silent camera


class _Queue(Iterator):
    """A queue of bounded length between two threads, which either of them can end.

    Attributes:
        dropped: Number of items that newer ones have replaced.
    """

    def __init__(self, size: int, newest: bool = False) -> None:
        self._items: deque = deque()
        self._size, self._newest = size, newest
        self._changed = Condition()
        self._ended = self._closed = False
        self.dropped = 0

    def put(self, item: Any) -> bool:
        """Adds an item, when there is room for it. Returns whether more items are wanted."""
        with self._changed:
            while len(self._items) >= self._size and not self._closed:
                if self._newest:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait(POLL)
            self._items.append(item)
            self._changed.notify_all()
            return not self._closed

    def __next__(self) -> Any:
        with self._changed:
            while not self._items and not self._ended and not self._closed:
                self._changed.wait(POLL)
            if self._closed or not self._items:
                raise StopIteration
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Says that no item will follow; those in the queue can still be got."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Says that no item is wanted any more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


class ReadAhead(Iterator[T], Generic[T]):
    """Iterator whose items a thread reads ahead of their use.

    An exception of the source is raised after the items before it. Closing the iterator, or
    deleting it, stops the thread, which then closes the source.

    Args:
        items: The source. It is used by the thread alone; its ``close`` is called at the end.
        size: Largest number of items that are read ahead.
        newest: Whether a new item replaces the oldest when ``size`` items wait. The items of a
            camera are then never old.

    Attributes:
        dropped: Number of items that were replaced.

    Examples:
        >>> with ReadAhead(map(read_image, paths), size=8) as images:
        ...     for image in images:
        ...         predict(image)
    """

    def __init__(self, items: Iterable[T], size: int, newest: bool = False) -> None:
        self._queue = _Queue(size, newest)
        # The thread knows only the queue: it must not keep an abandoned iterator alive.
        self._thread = Thread(target=_read, args=(items, self._queue), daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Returns the number of items that newer ones have replaced."""
        return self._queue.dropped

    def __next__(self) -> T:
        item, error = next(self._queue)
        if error is not None:
            raise error
        return item

    def close(self) -> None:
        """Stops the thread and waits, if it is not busy for long, until the source is closed."""
        self._queue.close()
        self._thread.join(PATIENCE)

    def __enter__(self) -> 'ReadAhead[T]':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._queue.close()


class WriteBehind(Generic[T]):
    """Calls a function on items, in order, in a thread.

    Args:
        function: Function that uses an item, such as an encoder.
        size: Largest number of items that wait.

    Examples:
        >>> with WriteBehind(save, size=8) as saver:
        ...     for result in results:
        ...         saver.put(result)
    """

    def __init__(self, function: Callable[[T], Any], size: int) -> None:
        self._queue = _Queue(size)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hands over an item, and waits while too many wait.

        Raises:
            BaseException: What the function raised for an earlier item; no later item is used.
        """
        if not self._queue.put(item):
            self.close()

    def close(self) -> None:
        """Waits until all items are used.

        Raises:
            BaseException: What the function raised. A second call does not raise it again.
        """
        self._queue.end()
        while self._thread.is_alive():
            self._thread.join(POLL)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, function: Callable[[T], Any]) -> None:
        try:
            for item in self._queue:
                function(item)
        except BaseException as error:
            self._error = error
            self._queue.close()

    def __enter__(self) -> 'WriteBehind[T]':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read(items: Iterable, queue: _Queue) -> None:
    """Puts items into a queue as (item, None), and an exception that ends them as (None, error)."""
    iterator = None
    try:
        iterator = iter(items)
        for item in iterator:
            if not queue.put((item, None)):
                break
    except BaseException as error:
        queue.put((None, error))
    finally:
        try:
            for opened in (iterator, items):
                if hasattr(opened, 'close'):
                    opened.close()
        finally:
            queue.end()
