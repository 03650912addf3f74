"""The end of a process that Ctrl-C, `kill` or ROS's launch asks for: soon, without a traceback."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 0.8  # s from the signal until a process ends that has not ended of itself
# s from the signal until it ends at the earliest. Launch sends Ctrl-C's signal a second time, and Python before 3.13 takes a
# process that ends just then for one that died, with status 255 (python/cpython#87744)
TWICE = 0.2

_asked_at = -math.inf  # s (monotonic), when a signal came


def end_at_once() -> None:
    """From now on a signal ends the process, with status 0: during its imports, when nothing is there to tidy up.

    One that has been held back, as the first line of an executable of ours asks for, comes now.
    """

    def end(*_: object) -> NoReturn:
        _note()
        leave(0)

    for number in SIGNALS:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def interrupt_once(within: float | None = None) -> None:
    """From now on the first signal raises `KeyboardInterrupt` in the main thread, and others are ignored.

    A second one, of an impatient user or of launch, would interrupt the tidying up. A compiled module that is being imported
    makes an `ImportError` of it.

    Args:
        within: s from the signal until the process ends, with status 0, if it has not done so by then; None: as long as it takes.
    """

    def interrupt(*_: object) -> NoReturn:
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        _note()
        if within is not None:
            _leave_after(within)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, interrupt)


def asked_to_end() -> threading.Event:
    """An event that the first signal from now on sets; to be called from the main thread.

    For loops that call compiled code: a `KeyboardInterrupt` that comes up inside of a callback can be lost there.
    """
    asked = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: asked.set())
    return asked


def on_signal(end: Callable[[], None]) -> None:
    """From now on the first signal calls `end` in a thread of its own, whatever the main thread is at work on.

    When it returns, or `GRACE` later, the process ends with status 0, if it has not done so by then. To be called from the main
    thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)  # the byte in the pipe is what counts

    def wait() -> None:
        os.read(reading, 1)
        _note()
        _leave_after(GRACE)
        end()
        leave(0)

    threading.Thread(target=wait, name="ending", daemon=True).start()


def _note() -> None:
    global _asked_at
    _asked_at = time.monotonic()


def _leave_after(seconds: float) -> None:
    last = threading.Timer(seconds, leave, (0,))
    last.daemon = True
    last.start()


def leave(status: int) -> NoReturn:
    """End the process now, or `TWICE` after a signal. Python would first take torch apart, for seconds."""
    time.sleep(max(0.0, _asked_at + TWICE - time.monotonic()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
