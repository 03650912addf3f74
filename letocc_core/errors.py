"""Exceptions of the library. Each message names the file or topic, what was found, what was expected, what to do."""

import os


def show(path: str | os.PathLike) -> str:
    """A path for people: bytes that are no UTF-8 are shown as escapes, so that it can always be printed."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def counted(number: int, what: str) -> str:
    """A number of things for people: 1 camera, 2 cameras."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class LetOccError(Exception):
    """Base of every error that this project raises on purpose; the command line prints it without a traceback."""


class ConfigError(LetOccError):
    """A configuration key or value is wrong."""


class CheckpointError(LetOccError):
    """A checkpoint is missing, damaged, or belongs to another configuration."""


class DataError(LetOccError):
    """A recording, file or message holds something else than its format promises."""


class CalibrationError(DataError):
    """Intrinsics or extrinsics are absent or impossible."""


class PoseError(DataError):
    """A transform cannot be answered at the stamp asked for. `frames` holds (parent, child)."""

    def __init__(self, message: str, frames: tuple[str, str] | None = None):
        super().__init__(message)
        self.frames = frames


class MissingDependencyError(LetOccError):
    """An optional package is not installed; the message has the line that installs it."""
