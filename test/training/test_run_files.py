"""The files of a run: whole or not at all, and gone on from though some are cut off."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from letocc_core import checkpoint
from letocc_core.errors import CheckpointError
from letocc_core.training import run_files
from letocc_core.training.run_files import Saved


def save(run: Path, step: int, value: float) -> Saved:
    saved = Saved(run / "checkpoints", 0, step)
    saved.folder.mkdir(parents=True, exist_ok=True)
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, value)
    saved.write_optimizer({"state": {"value": value}})
    checkpoint.save(saved.weights, model, {"model": {}, "input": {}})
    run_files.forget_older(run)
    return saved


def test_the_newest_and_the_one_before_are_kept(tmp_path):
    for step in (5, 10, 100, 20):
        save(tmp_path, step, step)
    assert [saved.step for saved in run_files.saved_steps(tmp_path)] == [100, 20]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_an_optimiser_that_is_cut_off_is_refused(tmp_path, kept):
    saved = save(tmp_path, 5, 2.0)
    assert saved.read_optimizer(torch.device("cpu")) == {"state": {"value": 2.0}}
    data = saved.optimizer.read_bytes()
    saved.optimizer.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match=r"step000005\.optimizer\.pt: cannot be read"):
        saved.read_optimizer(torch.device("cpu"))


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    saved = save(tmp_path, 5, 2.0)
    before = {p.name: p.read_bytes() for p in saved.folder.iterdir()}
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step000005\.safetensors: cannot be written .*No space left"):
        checkpoint.save(saved.weights, model, {"model": {}, "input": {}})
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"step000005\.optimizer\.pt: cannot be written .*No space left"):
        saved.write_optimizer({})
    assert {p.name: p.read_bytes() for p in saved.folder.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A folder on a file system of its own of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if made is None or made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip() if made else 'no mount'}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_leaves_nothing_half_written(small_disk):
    """A real one: it has room for what is saved first, and not for the larger that follows."""
    saved = save(small_disk, 5, 2.0)
    before = {p.name: p.read_bytes() for p in saved.folder.iterdir()}
    following, model = Saved(saved.folder, 0, 10), torch.nn.Linear(300, 300)  # 361 kB
    with pytest.raises(CheckpointError, match=r"step000010\.safetensors: cannot be written .*No space left"):
        checkpoint.save(following.weights, model, {"model": {}, "input": {}})
    with pytest.raises(CheckpointError, match=r"step000010\.optimizer\.pt: cannot be written .*is the disk full"):
        following.write_optimizer(model.state_dict())
    with pytest.raises(OSError, match="No space left"):
        run_files.write_atomically(small_disk / "resume.json", " " * 2**19)
    assert {p.name: p.read_bytes() for p in saved.folder.iterdir()} == before
    assert [saved.step for saved in run_files.saved_steps(small_disk)] == [5]
    assert {p.name for p in small_disk.iterdir()} == {"checkpoints"}


def test_a_run_that_cannot_start_leaves_nothing_behind(tmp_path):
    for name in ("monday", "tuesday", "wednesday"):
        (tmp_path / name).mkdir()
    with run_files.begun(tmp_path / "monday"):
        assert (tmp_path / "latest").resolve() == tmp_path / "monday"
    with pytest.raises(ValueError, match="no clip"), run_files.begun(tmp_path / "tuesday"):
        (tmp_path / "tuesday" / "losses.jsonl").touch()
        raise ValueError("no clip")
    assert not (tmp_path / "tuesday").exists() and (tmp_path / "latest").resolve() == tmp_path / "monday"
    with pytest.raises(ValueError, match="later"), run_files.begun(tmp_path / "wednesday"):
        (tmp_path / "wednesday" / "losses.jsonl").write_text("{}\n")
        raise ValueError("later")
    assert (tmp_path / "latest").resolve() == tmp_path / "wednesday"


def test_losses_whose_last_line_is_cut_off(tmp_path, capsys):
    lines = [json.dumps({"stage": "static", "step": i, "total": 1.0}) for i in range(3)]
    (tmp_path / "losses.jsonl").write_text("\n".join(lines)[:-9] + "\n\0\0\n[1]\n")
    assert [entry["step"] for entry in run_files.losses(tmp_path / "losses.jsonl")] == [0, 1]
    assert "losses.jsonl: 3 truncated lines" in capsys.readouterr().err
    assert list(run_files.losses(tmp_path / "none.jsonl")) == []


def test_latest_without_links(tmp_path, monkeypatch, capsys):
    def refused(*args, **kwargs):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    for name in ("monday", "tuesday"):
        (tmp_path / name).mkdir()
    run_files.link_latest(tmp_path / "monday")
    assert run_files.followed(tmp_path / "latest") == tmp_path / "latest" and (tmp_path / "latest").is_symlink()
    monkeypatch.setattr(os, "symlink", refused)
    run_files.link_latest(tmp_path / "tuesday")
    assert run_files.followed(tmp_path / "latest") == tmp_path / "tuesday"
    assert "no link can be made here (Operation not supported)" in capsys.readouterr().err
