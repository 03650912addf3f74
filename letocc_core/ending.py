"""The end of a process that Ctrl-C, `kill` or ROS's launch asks for: soon, without a traceback."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 0.8  # s from the signal until a process ends that has not ended of itself


def end_at_once() -> None:
    """From now on a signal ends the process, with status 0: during its imports, when nothing is there to tidy up."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: leave(0))


def interrupt_once() -> None:
    """From now on the first signal raises `KeyboardInterrupt` in the main thread, and others are ignored.

    A second one, of an impatient user or of launch, would interrupt the tidying up.
    """

    def interrupt(*_: object) -> NoReturn:
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
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
        last = threading.Timer(GRACE, leave, (0,))
        last.daemon = True
        last.start()
        end()
        leave(0)

    threading.Thread(target=wait, name="ending", daemon=True).start()


def leave(status: int) -> NoReturn:
    """End the process now. Python would first take torch apart, for seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
