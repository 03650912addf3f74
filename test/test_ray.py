"""Work as Ray tasks is the work that processes do, also where a worker is lost; `-m slow` starts a local Ray."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from letocc_core import ray_tasks
from letocc_core.cli import main
from letocc_core.data.bags.convert import kitti_tracking_to_bag, parts_to_bags
from letocc_core.data.bags.recording import Recording
from letocc_core.errors import ConfigError, DataError, LetOccError
from letocc_core.processes import THREADS, on_ray, single_threaded

STREETS = (
    "config/street.yaml", "data.simulator.scenes=2", "data.simulator.frames=5", "data.simulator.variety=0",
    "data.simulator.cue_intervals=[0.05]", "data.votes=null", "stages.0.objective.queries=0",
    "input.image_size=[32,56]",
)  # fmt: skip


def test_without_ray_the_option_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["cues", "flow", *STREETS, "--ray", "local"]) == 1
    assert "--ray needs Ray" in (error := capsys.readouterr().err) and "pip install 'letocc[ray]'" in error


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """Two workers on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'letocc[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the functions of this file
        with on_ray("local", 2):
            yield


def opened(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch(exist_ok=False)


def here(_: int) -> tuple[str, dict[str, str]]:
    return os.getcwd(), {name: os.environ[name] for name in THREADS}


def refuse() -> None:
    raise DataError("street.npz: found nothing")


def die(folder: Path) -> None:
    opened(folder)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_tasks_are_what_processes_are(ray, tmp_path: Path):
    """In the caller's folder, on one thread, opened once a process; an exception is the one that was raised."""
    with single_threaded(2, opened, (tmp_path,)) as pool:
        assert list(pool.map(here, range(6))) == [(os.getcwd(), dict.fromkeys(THREADS, "1"))] * 6
        with pytest.raises(DataError, match=r"^street\.npz: found nothing$"):
            pool.submit(refuse).result()
    assert 1 <= len(list(tmp_path.iterdir())) <= 2


@pytest.mark.slow
def test_a_task_that_no_process_survives_is_given_up(ray, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(ray_tasks, "RUN_AGAIN", 1)
    with single_threaded(2) as pool, pytest.raises(LetOccError, match="lost 2 times"):
        pool.submit(die, tmp_path).result()
    assert len(list(tmp_path.iterdir())) == 2  # a process each


@pytest.mark.slow
def test_only_this_machine_is_listened_to(ray):
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {c.laddr.ip for p in ours for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening and listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert not [p for p in ours if "8265" in str([c.laddr.port for c in p.net_connections("inet")])]  # its dashboard


@pytest.mark.slow
def test_a_wrong_address_is_named():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'letocc[ray]'")
    with pytest.raises(ConfigError, match="--ray is 'nowhere:1', where no Ray answers"), on_ray("nowhere:1", 2):
        pass


def kill_one(killed: list[int], deadline: float) -> None:
    """Kill the first process that runs a task of ours, 0.3 s after it was seen to."""
    while not killed and time.monotonic() < deadline:
        time.sleep(0.02)
        with suppress(psutil.Error):  # some end while they are looked at
            running = [p for p in psutil.Process().children(recursive=True) if p.name() == "ray::_call"]
            if running:
                time.sleep(0.3)
                running[0].kill()
                killed.append(running[0].pid)


@pytest.mark.slow
def test_drives_are_converted_where_a_worker_was_killed(ray, tmp_path: Path):
    """Bags of two drives, the worker of one killed half-way: both are whole, and nothing half-written is left."""
    roots = tmp_path / "kitti"
    command = ["simulate", "--format", "kitti-tracking", "--out", str(roots), "--scenes", "2", "--seconds", "6"]
    assert main([*command, "--size", "375", "1242"]) == 0
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(killed, time.monotonic() + 60), daemon=True)
    killer.start()
    bags = list(parts_to_bags(kitti_tracking_to_bag, roots, ["0000", "0001"], tmp_path / "bags", 2))
    killer.join()
    assert killed and not psutil.pid_exists(killed[0])
    assert sorted(p.name for p in (tmp_path / "bags").iterdir()) == ["0000", "0001"]
    for name, bag in zip(("0000", "0001"), bags, strict=True):
        alone = kitti_tracking_to_bag(roots, name, tmp_path / "alone" / name)
        by_ray, plain = (list(Recording(path)) for path in (bag, alone))
        assert len(by_ray) == len(plain) > 50
        for one, other in zip(by_ray, plain, strict=True):
            assert np.array_equal(one.frame_set.images[0], other.frame_set.images[0])
            assert np.array_equal(one.frame_set.T_world_ego, other.frame_set.T_world_ego)


def arrays(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        if not path.name.startswith("."):  # what the lost worker had begun
            with np.load(path) as file:
                found[path.name] = dict(file)
    return found


@pytest.mark.slow
def test_streets_and_their_flow_are_the_same_where_a_worker_was_killed(ray, tmp_path: Path):
    """`letocc cues flow`, by Ray with a worker killed in the middle, and by one process of this machine."""
    from letocc_core.training.compute_cues import compute_flow, cue_source

    sources = {
        name: cue_source([*STREETS, f"data.cache={tmp_path / name}"], None, workers, {"cue": "dis"})
        for name, workers in (("ray", 2), ("plain", 0))
    }
    killed: list[int] = []
    killer = threading.Thread(target=kill_one, args=(killed, time.monotonic() + 60), daemon=True)
    killer.start()
    summaries = {name: compute_flow(source, source.data.workers, (1, 1)).summary for name, source in sources.items()}
    killer.join()
    assert killed and not psutil.pid_exists(killed[0])
    assert set(summaries.values()) == {"1 streets with their flow"}
    by_ray, plain = arrays(tmp_path / "ray"), arrays(tmp_path / "plain")
    assert len(plain) == 4 and by_ray.keys() == plain.keys()
    for name, values in plain.items():
        for key, value in values.items():
            assert np.array_equal(by_ray[name][key], value), (name, key)
