"""Nodes beside ours, as their own processes over DDS: the example, and the viewer of a running node."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

import ros_rig as rig

from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import OccFlow
from letocc_ros import grid, player

GRID = GridSpec((-10.0, -10.0, -1.0), (10.0, 10.0, 3.0), 0.5)
OCCUPANCY = "/occ_flow_node/occupancy"


@pytest.fixture(scope="module", autouse=True)
def _own_domain() -> None:
    rig.isolate_ros()


def answer_with(point: tuple[float, float, float], velocity: tuple[float, float]) -> OccFlow:
    """One voxel at a point (m) that moves (m/s)."""
    probability, flow = np.zeros(GRID.shape, np.float32), np.zeros((*GRID.shape, 2), np.float32)
    at = tuple(np.floor((np.array(point) - GRID.lower) / GRID.voxel_size).astype(int))
    probability[at], flow[at] = 0.9, velocity
    return OccFlow(rig.START_NS, GRID, probability, flow, np.ones(GRID.shape, bool), threshold=0.5)


def test_messages_become_arrays_and_back():
    answer = answer_with((3.0, 1.0, 0.5), (0.0, -2.0))
    again = grid.from_message(grid.to_message(answer, "base_link"))
    assert again.grid == GRID and np.array_equal(again.occupied, answer.occupied)
    np.testing.assert_allclose(again.velocity, answer.velocity)
    np.testing.assert_allclose(grid.centres(again)[0, 0, 0], (-9.75, -9.75, -0.75))
    points = grid.occupied_points(again)
    np.testing.assert_allclose(grid.centres(again)[again.occupied], points.centres)
    assert grid.states_of(again, points.centres).occupied.all()


def test_the_example_warns_of_what_moves_near_by_and_of_nothing_else():
    command = [sys.executable, str(rig.REPOSITORY / "examples" / "near_and_moving.py")]
    process = rig.NodeProcess(command=command)
    try:
        with rig.Peer() as peer:
            for point, velocity in (
                ((3.0, 1.0, 0.5), (0.2, 0.0)),  # stands
                ((8.0, 1.0, 0.5), (0.0, -2.0)),  # is far
                ((3.0, 1.0, -0.6), (0.0, -2.0)),  # is the road
                ((-2.0, -3.0, 0.5), (1.5, 2.0)),  # to be told
            ):
                message = grid.to_message(answer_with(point, velocity), "base_link")
                peer.publish(OCCUPANCY, message)
                rig.until(lambda: peer.node.count_subscribers(OCCUPANCY), rig.DEADLINE, "the example listens")
                for _ in range(3):
                    peer.publish(OCCUPANCY, message)
                    time.sleep(0.2)
            process.wait_for("something moves")
    finally:
        status = process.stop()
    told = [line for line in process.lines if "something moves" in line]
    assert all("2.5 m/s, at x -1.8 m, y -2.8 m" in line for line in told), process.output
    assert status == 0, process.output


def test_what_a_running_node_answers_is_seen_with_its_images(tmp_path: Path, monkeypatch):
    """`letocc view --live` beside the node: every answer is written with the images that it came from, by the node's slop."""
    pytest.importorskip("foxglove")
    reader = pytest.importorskip("mcap.reader")
    sets, path = 6, tmp_path / "live.mcap"
    bag = rig.write_bag(tmp_path / "bag", sets, delay_ns=45_000_000)
    checkpoint = rig.write_checkpoint(tmp_path / "tiny.safetensors")
    monkeypatch.setattr(player, "SETTLE", 3.0)  # s: it knows of node and viewer before it begins
    view = [sys.executable, "-m", "letocc_core.cli", "view", "--live", "--save", str(path)]
    cameras = f"cameras:=[{', '.join(rig.CAMERAS)}]"
    with rig.node_process(f"checkpoint:={checkpoint}", cameras, f"recording:={bag}"):
        viewer = rig.NodeProcess(command=view)
        try:
            with rig.Peer() as peer:
                rig.until(
                    lambda: peer.node.count_subscribers(OCCUPANCY),
                    rig.DEADLINE,
                    f"the viewer listens:\n{viewer.output}",
                )
            played = player.play(bag, as_fast=True, patience=20)
            assert played.unanswered == 0
            time.sleep(1.0)
        finally:
            status = viewer.stop()
    assert status == 0, viewer.output
    with path.open("rb") as file:
        summary = reader.make_reader(file).get_summary()
    counts = {summary.channels[i].topic: n for i, n in summary.statistics.channel_message_counts.items()}
    assert counts["/occ_flow_node/voxels"] == sets
    assert {counts[f"/{camera}/image_raw/compressed"] for camera in rig.CAMERAS} == {sets}


def test_the_viewer_says_which_node_it_misses(tmp_path: Path, monkeypatch):
    from letocc_core.errors import DataError
    from letocc_core.viz.viewers.logs import ViewOptions
    from letocc_ros.view import live

    monkeypatch.setattr(live, "PATIENCE", 0.5)
    with pytest.raises(DataError, match="/nobody: no active node of this name"):
        live.view_live("/nobody", ViewOptions((tmp_path / "x.mcap",)))
