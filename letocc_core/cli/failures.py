"""Ordinary failures of a machine, such as a full disk, in one line; what is none of them is a bug."""

import errno
import os
import sys

from letocc_core.errors import show

REMEDIES = {
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.EROFS: "the file system is read-only: choose another folder (--out, data.cache)",
    errno.ENOSPC: "free space, or choose another folder (--out, data.cache)",
    errno.EDQUOT: "free space, or choose another folder (--out, data.cache)",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "a file lies where a folder is expected: check the path",
    errno.EISDIR: "a folder lies where a file is expected: check the path",
    errno.EEXIST: "delete it, or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer processes",
    errno.EADDRINUSE: "choose another port, or end the process that holds it",
}
BUG = (
    "letocc: this is a bug, not a mistake of yours. Please report it in the project's issue tracker with the lines above and "
    "the command"
)


def explain(error: BaseException, out: str | os.PathLike[str] | None = None) -> str | None:
    """One line with the path and what to do; None for a failure that only a bug can cause.

    Args:
        out: where the command writes; named where the failure itself names no file, as of a disk that is full.
    """
    text = str(error)
    if "dataloader" in text.lower() and ("shared memory" in text or "shm" in text or "Bus error" in text):
        return SHARED_MEMORY
    if isinstance(error, OSError) and (error.strerror or error.filename):
        if str(error.filename or "").startswith("/dev/shm") and error.errno == errno.ENOSPC:
            return SHARED_MEMORY
        name = error.filename if error.filename is not None or error.errno != errno.ENOSPC else out
        at = f"{show(os.fsdecode(name))}: " if isinstance(name, (str, bytes, os.PathLike)) else ""
        remedy = REMEDIES.get(error.errno or 0, "")
        return f"{at}{error.strerror or error}" + (f"; {remedy}" if remedy else "")
    if isinstance(error, RuntimeError) and ("No space left on device" in text or "unable to write to file" in text):
        return SHARED_MEMORY if "/torch_" in text else f"{text.splitlines()[0]}; {REMEDIES[errno.ENOSPC]}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower():
        return f"not enough memory ({text.splitlines()[0] if text else 'MemoryError'}); use smaller images, a smaller grid or batch, or --micro-batch 1"
    if isinstance(error, UnicodeError):
        return f"not UTF-8 text ({text}); save the file as UTF-8, or set a UTF-8 locale (export LC_ALL=C.UTF-8)"
    return None


def is_interrupt(error: BaseException | None) -> bool:
    """Whether this is Ctrl-C, or what a compiled module makes of it that was being imported."""
    if isinstance(error, ImportError) and isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
        return True
    return isinstance(error, KeyboardInterrupt) or (error is not None and is_interrupt(error.__cause__))


SHARED_MEMORY = (
    "the shared memory /dev/shm is too small for the processes that load clips: give the container more (docker run "
    "--shm-size 2g), or load without them (--loader-workers 0)"
)


def print_anything() -> None:
    """Let names that the terminal's encoding lacks be printed as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
