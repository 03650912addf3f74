"""Ordinary failures of a machine end in one line, with the path and what to do; bugs show where they are."""

import argparse
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from letocc_core import cli
from letocc_core.cli.failures import explain
from letocc_core.errors import DataError, LetOccError

REPOSITORY = Path(__file__).resolve().parents[2]


def outcome(error: BaseException, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit status and what was printed when a command raises."""

    def fail(options: argparse.Namespace) -> None:
        raise error

    return cli.run(argparse.Namespace(run=fail)), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/out/a"),
            "letocc: /out/a: Permission denied; choose a place",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/cd/x"),
            "letocc: /cd/x: Read-only file system; the file system",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/d/x"), "letocc: /d/x: No space left on device; free space"),
        (OSError(errno.ENOSPC, "No space left", "/dev/shm/x"), "letocc: the shared memory /dev/shm is too small"),
        (OSError(errno.EIO, "Input/output error", os.fsdecode(b"/d/\xfc")), "letocc: /d/\\udcfc: Input/output error"),
        (
            RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. It is possible"),
            "--loader-workers 0",
        ),
        (RuntimeError("unable to write to file </torch_12_3>: No space left on device (28)"), "--shm-size"),
        (MemoryError(), "letocc: not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "letocc: not enough memory (CUDA out of memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "letocc: not UTF-8 text"),
        (DataError("/bag: as it is"), "letocc: /bag: as it is"),
    ],
)
def test_one_line(error, said, capsys):
    status, printed = outcome(error, capsys)
    assert status == 1 and printed.startswith("letocc: ") and said in printed
    assert printed.count("\n") == 1 and "Traceback" not in printed


def test_an_interrupt_is_none_whatever_an_import_makes_of_it(capsys):
    """A compiled module that is interrupted while it is imported raises `ImportError`, from which follows what ROS lacks."""
    interrupt, failed, lacking = KeyboardInterrupt(), ImportError("initialization failed"), LetOccError("needs ROS 2")
    failed.__cause__, lacking.__cause__ = interrupt, failed
    for error in (interrupt, failed, lacking):
        assert outcome(error, capsys) == (cli.INTERRUPTED, "letocc: interrupted\n")
    full = OSError(errno.ENOSPC, "No space left on device", "/d/x")
    full.__context__, lacking.__cause__ = interrupt, None  # on the way out
    assert [outcome(error, capsys)[0] for error in (full, lacking)] == [1, 1]


def test_a_full_disk_is_named_by_where_the_command_writes(capsys):
    """What is written to a file that is open knows no name."""

    def fail(options):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert cli.run(argparse.Namespace(run=fail, out=Path("/disk/out"))) == 1
    assert capsys.readouterr().err.startswith("letocc: /disk/out: No space left on device; free space")


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shapes differ"), ZeroDivisionError(), OSError("text")])
def test_a_bug_shows_its_traceback_and_where_to_report_it(error, capsys):
    status, printed = outcome(error, capsys)
    assert status == 1 and explain(error) is None
    assert "Traceback" in printed and "report it" in printed.splitlines()[-1]


LOADS_CLIPS = """
import argparse, sys
import torch
from torch.utils.data import DataLoader
from letocc_core import cli
clips = [torch.zeros(2**20) for _ in range(4)]
sys.exit(cli.run(argparse.Namespace(run=lambda options: list(DataLoader(clips, num_workers=1)) and 0)))
"""


def test_a_shared_memory_that_is_too_small():
    """A real one of 1 MiB, as containers may have it, for a process that loads clips of 4 MiB."""
    own = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted over /dev/shm here")
    command = [*own, sys.executable, "-c", LOADS_CLIPS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("letocc: the shared memory /dev/shm is too small"), done.stderr


def test_a_device_that_is_not_there(capsys):
    status = cli.run(argparse.Namespace(run=lambda options: pytest.fail("was begun"), device="cuda:77"))
    assert status == 1 and "--device is 'cuda:77', which this machine cannot use" in capsys.readouterr().err


def test_names_that_the_terminal_cannot_print(tmp_path):
    """In a locale that is not UTF-8, of a bag whose name is neither."""
    folder = tmp_path / os.fsdecode(b"stra\xdfe \xe2\x82\xac")
    folder.mkdir()
    environment = os.environ | {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    command = [sys.executable, "-m", "letocc_core.cli", "bag", "info", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith(b"letocc: ") and b"Traceback" not in done.stderr


def test_a_configuration_with_a_byte_order_mark(tmp_path):
    from letocc_core import config
    from letocc_core.training.config import TrainConfig

    text = (REPOSITORY / "config" / "robot.yaml").read_text("utf-8")
    (tmp_path / "marked.yaml").write_text(text, "utf-8-sig")
    assert config.load(TrainConfig, tmp_path / "marked.yaml") == config.load(
        TrainConfig, REPOSITORY / "config" / "robot.yaml"
    )
