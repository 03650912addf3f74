"""The files of a training run that it goes on from: written whole or not at all, and read though some are cut off."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from letocc_core.errors import CheckpointError

KEPT = 2  # checkpoints: the one before the last is there in case the last is damaged
TAG = re.compile(r"stage(\d+)_step(\d+)")


@dataclass(frozen=True)
class Saved:
    """A step of a run that was saved: weights and the optimiser's state."""

    folder: Path
    stage: int
    step: int  # of that stage

    @property
    def weights(self) -> Path:
        return self.folder / f"stage{self.stage}_step{self.step:06d}.safetensors"

    @property
    def optimizer(self) -> Path:
        return self.weights.with_suffix(".optimizer.pt")

    def write_optimizer(self, state: dict[str, Any]) -> None:
        """Raises `CheckpointError` if it cannot be written; nothing half written is left."""
        temporary = self.optimizer.with_name(f".{self.optimizer.name}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
            temporary.replace(self.optimizer)
        except (OSError, RuntimeError) as error:  # torch hides the cause in the latter
            temporary.unlink(missing_ok=True)
            raise CheckpointError(f"{self.optimizer}: cannot be written ({error}); is the disk full?") from error

    def read_optimizer(self, device: torch.device) -> dict[str, Any]:
        """Raises `CheckpointError` for a file that is missing or cut off."""
        try:
            return torch.load(self.optimizer, weights_only=True, map_location=device)
        except Exception as error:  # zipfile's, pickle's, torch's own, as the bytes have it
            raise CheckpointError(f"{self.optimizer}: cannot be read ({type(error).__name__})") from error


def saved_steps(run: Path) -> list[Saved]:
    """What a run has saved, the newest first: by the names of the files, whatever resume.json says."""
    found = []
    for path in (run / "checkpoints").glob("*.safetensors"):
        if (match := TAG.fullmatch(path.stem)) is not None:
            found.append(Saved(path.parent, int(match[1]), int(match[2])))
    return sorted(found, key=lambda saved: (saved.stage, saved.step), reverse=True)


def forget_older(run: Path) -> None:
    """Delete all but the newest `KEPT` of what a run has saved."""
    kept = {saved.weights.stem for saved in saved_steps(run)[:KEPT]}
    for path in (run / "checkpoints").iterdir():
        if path.name.split(".")[0] not in kept:
            path.unlink()


def losses(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a losses.jsonl; lines that are cut off are left out, and said."""
    bad = 0
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
            if not {"stage", "step"} <= entry.keys():
                raise ValueError
        except (ValueError, AttributeError):
            bad += 1
            continue
        yield entry
    if bad:
        print(f"{path}: {bad} truncated lines are left out", file=sys.stderr)


@contextmanager
def begun(folder: Path | None) -> Iterator[None]:
    """The block trains into a new folder, which `latest` stands for; if it fails before its first step, neither is left.

    None: of a process that leaves this to another, or a run that is gone on with.
    """
    if folder is None:
        yield
        return
    latest = folder.parent / "latest"
    former = followed(latest).resolve() if latest.exists() else None
    link_latest(folder)
    try:
        yield
    except Exception:
        log = folder / "losses.jsonl"
        if not (log.exists() and log.stat().st_size) and not list(folder.glob("batch_*")):
            ours = followed(latest).resolve() == folder.resolve()
            shutil.rmtree(folder)
            if ours:
                latest.unlink(missing_ok=True)
            if ours and former is not None:
                link_latest(former)
        raise


def link_latest(folder: Path) -> None:
    """Let `latest` beside a run's folder stand for it: a link, or where the file system has none, a file with its name."""
    latest = folder.parent / "latest"
    latest.unlink(missing_ok=True)
    try:
        latest.symlink_to(folder.name)
    except OSError as error:
        latest.write_text(folder.name, "utf-8")
        print(
            f"{latest}: no link can be made here ({error.strerror}), so that the run's own folder must be named: {folder}; "
            "`--resume` finds it all the same",
            file=sys.stderr,
        )


def followed(path: Path) -> Path:
    """A run's folder, also by a file `latest` that holds its name."""
    return path.parent / path.read_text("utf-8").strip() if path.name == "latest" and path.is_file() else path


def write_atomically(path: Path, text: str) -> None:
    """An existing file is replaced at once; nothing half written is left."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
