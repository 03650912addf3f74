"""A thread that works on the newest item only."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestWorker(Generic[T]):
    """Calls `work` in its own thread with the newest item submitted; an item that waits is replaced by a newer one."""

    def __init__(self, work: Callable[[T], None], name: str):
        self._work = work
        self._waiting: T | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def submit(self, item: T) -> T | None:
        """Hand in an item; returns the one that it replaces, which will never be worked on."""
        with self._changed:
            replaced, self._waiting = self._waiting, item
            self._changed.notify()
        return replaced

    def clear(self) -> T | None:
        """Take back the item that waits, if one does; the one in work is finished."""
        with self._changed:
            left, self._waiting = self._waiting, None
        return left

    def stop(self, patience: float) -> T | None:
        """End the thread, after the item in work; returns the item that was still waiting.

        Waits `patience` s at most: `alive` says whether the item in work goes on.
        """
        with self._changed:
            self._stopping = True
            left, self._waiting = self._waiting, None
            self._changed.notify()
        self._thread.join(patience)
        return left

    def _run(self) -> None:
        while (item := self._next()) is not None:
            self._work(item)

    def _next(self) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting is not None)
            item, self._waiting = self._waiting, None
        return item
