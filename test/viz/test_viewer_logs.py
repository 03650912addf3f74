"""What goes into the files of Rerun and Foxglove, read back by other libraries."""

import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from letocc_core.errors import ConfigError, DataError, LetOccError, MissingDependencyError
from letocc_core.evaluation.report import CHARTS
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import Calibration, FrameSet, OccFlow
from letocc_core.viz import colours
from letocc_core.viz.viewers.foxglove_log import FIGURES
from letocc_core.viz.viewers.logs import ViewOptions, open_logs
from letocc_core.viz.viewers.scene import Scene

GRID = GridSpec((-4.0, -2.0, -1.0), (4.0, 2.0, 2.0), 0.5)
SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])
CALIBRATION = Calibration(40, 24, np.array([[20.0, 0, 19.5], [0, 20, 11.5], [0, 0, 1]]))
SETS = 3
CAR = (slice(12, 14), slice(3, 5), slice(2, 4))  # x 2 to 3 m, y -0.5 to 0.5 m, z 0 to 1 m


def scene(number: int) -> Scene:
    """A car 2 m ahead that drives to the left at 2 m/s; the second camera has no image in the last set."""
    probability = np.full(GRID.shape, 0.1, np.float32)
    velocity = np.zeros((*GRID.shape, 2), np.float32)
    observed = np.ones(GRID.shape, bool)
    probability[CAR], velocity[CAR] = 0.9, (0.0, 2.0)
    probability[0, 0, 0], observed[0, 0, 0] = 0.8, False  # a guess
    answer = OccFlow(
        START_NS + number * SECOND // 5, GRID, probability, velocity, observed, 0.5, seconds={"encode": 0.02}
    )
    image = np.full((24, 40, 3), (200, 30, 30), np.uint8)
    images = (image, image if number < SETS - 1 else None)
    pose = np.eye(4)
    pose[0, 3] = number
    frame_set = FrameSet(answer.stamp_ns, images, (CALIBRATION,) * 2, np.stack([FORWARD, FORWARD]), pose)
    lidar = np.array([[2.0, 0.0, 0.5], [3.0, 1.0, 0.0]], np.float32)
    return Scene(
        answer, pose, frame_set, ("camera_front", "camera_left"), lidar, answer, {"RayIoU": 0.25}, {"late": number}
    )


def write(path: Path) -> Path:
    with open_logs(ViewOptions((path,))) as logs:
        for number in range(SETS):
            logs.add(scene(number))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    pytest.importorskip("rerun")
    return write(tmp_path_factory.mktemp("rerun") / "deep" / "run.rrd")


@pytest.fixture(scope="module")
def mcap(tmp_path_factory) -> Path:
    pytest.importorskip("foxglove")
    return write(tmp_path_factory.mktemp("foxglove") / "deep" / "run.mcap")


def logged(recording: Path, entity: str) -> dict[int, dict]:
    """Components of an entity by the stamp they were logged at (ns); -1: static."""
    from rerun.chunk import RrdReader

    rows: dict[int, dict] = {}
    for chunk in RrdReader(recording).stream():
        if str(chunk.entity_path) != entity:
            continue
        batch = chunk.to_record_batch()
        timed = "time" in batch.schema.names
        stamps = batch.column("time").cast("int64").to_pylist() if timed else [-1] * batch.num_rows
        names = [name for name in batch.schema.names if ":" in name]
        for stamp, row in zip(stamps, batch.select(names).to_pylist(), strict=True):
            rows.setdefault(stamp, {}).update({k: v for k, v in row.items() if v is not None})
    return rows


def test_a_recording_holds_every_set_at_its_stamp(recording: Path):
    found = logged(recording, "/world/ego/voxels/height")
    assert sorted(found) == [START_NS + i * SECOND // 5 for i in range(SETS)]
    row = found[START_NS]
    centres = np.array(row["Boxes3D:centers"])
    assert centres.shape == (8, 3)
    np.testing.assert_allclose(centres.min(0), (2.25, -0.25, 0.25))
    np.testing.assert_allclose(row["Boxes3D:half_sizes"], [[0.25, 0.25, 0.25]])
    high, low = colours.height_colours(np.array([0.75, 0.25]))
    rgba = {tuple(c.to_bytes(4, "big")[:3]) for c in row["Boxes3D:colors"]}
    assert rgba == {tuple(high), tuple(low)}


def test_a_recording_holds_guesses_motion_pose_and_plots(recording: Path):
    [guess] = logged(recording, "/world/ego/hidden")[START_NS]["Boxes3D:centers"]
    np.testing.assert_allclose(guess, (-3.75, -1.75, -0.75))
    assert logged(recording, "/world/ego/hidden")[START_NS]["Boxes3D:colors"][0] & 0xFF < 100  # faint
    motion = logged(recording, "/world/ego/motion")[START_NS]
    np.testing.assert_allclose(motion["Arrows3D:vectors"], [[0.0, 2.0, 0.0]])
    np.testing.assert_allclose(motion["Arrows3D:origins"], [[2.5, 0.0, 1.0]])
    last = START_NS + 2 * SECOND // 5
    np.testing.assert_allclose(logged(recording, "/world/ego")[last]["Transform3D:translation"], [[2.0, 0, 0]])
    assert np.allclose(logged(recording, "/world/path")[last]["LineStrips3D:strips"], [[[1, 0, 0], [2, 0, 0]]])
    assert logged(recording, "/plots/latency/encode")[last]["Scalars:scalars"] == [20.0]
    assert logged(recording, "/plots/drops/late")[last]["Scalars:scalars"] == [2.0]
    assert logged(recording, "/plots/scores/RayIoU")[last]["Scalars:scalars"] == [0.25]


def test_a_recording_holds_images_with_the_voxels_seen_in_them(recording: Path):
    seen = logged(recording, "/world/ego/cameras/camera_front/voxels")[START_NS]
    layer = np.array(seen["SegmentationImage:buffer"][0], np.uint8).reshape(24, 40)
    assert layer[14, 19] == 4  # the ray of row 15 meets the car at 1 - 2 * 3.5 / 20 = 0.65 m: in the fourth layer
    assert layer[0, 0] == 0
    depth = np.array(logged(recording, "/depth/camera_front")[START_NS]["DepthImage:buffer"][0], np.uint8)
    assert depth.view(np.uint16).reshape(12, 20)[8, 9] == 2000  # mm
    assert "EncodedImage:blob" in logged(recording, "/world/ego/cameras/camera_left/image")[START_NS]
    gone = logged(recording, "/world/ego/cameras/camera_left")[START_NS + 2 * SECOND // 5]
    assert gone == {"Clear:is_recursive": [True]} or any("Clear" in key for key in gone)


def decoded(mcap: Path, topic: str) -> list:
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    with mcap.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [(message.log_time, data) for _, _, message, data in reader.iter_decoded_messages(topics=[topic])]


def test_an_mcap_file_holds_the_voxel_grid_where_the_schema_puts_it(mcap: Path):
    found = decoded(mcap, "/occ_flow_node/voxels")
    assert [stamp for stamp, _ in found] == [START_NS + i * SECOND // 5 for i in range(SETS)]
    grid = found[0][1]
    assert (grid.frame_id, grid.column_count, grid.row_count) == ("base_link", 16, 8)
    assert [f.name for f in grid.fields] == ["red", "green", "blue", "alpha", "probability", "speed"]
    assert (grid.pose.position.x, grid.pose.position.y, grid.pose.position.z) == GRID.lower
    # voxel (12, 3, 2) starts at this byte, by the schema's own formula
    at = 2 * grid.slice_stride + 3 * grid.row_stride + 12 * grid.cell_stride
    red, green, blue, alpha, probability, speed = grid.data[at : at + 6]
    assert (red, green, blue) == tuple(colours.height_colours(np.array([0.25]))[0])
    assert (alpha, probability, speed) == (255, 90, 20)  # 0.9, and 20 steps of 0.1 m/s
    assert 0 < grid.data[3] < 100 and grid.data[6 + 3] == 0  # a guess is faint, free space transparent
    alphas = np.frombuffer(grid.data, np.uint8).reshape(-1, 6)[:, 3]
    assert (alphas == 255).sum() == 8


def test_an_mcap_file_holds_poses_images_objects_clouds_and_figures(mcap: Path):
    [(_, first), *_, (_, last)] = decoded(mcap, "/tf")
    assert [(t.parent_frame_id, t.child_frame_id) for t in first.transforms] == [
        ("odom", "base_link"), ("base_link", "camera_front_optical"), ("base_link", "camera_left_optical"),
    ]  # fmt: skip
    assert len(last.transforms) == 2 and last.transforms[0].translation.x == 2.0
    assert len(decoded(mcap, "/camera_left/image_raw/compressed")) == SETS - 1
    [(_, image), *_] = decoded(mcap, "/camera_front/image_raw/compressed")
    assert image.format == "jpeg" and image.data[:3] == b"\xff\xd8\xff"
    [(_, info), *_] = decoded(mcap, "/camera_front/camera_info")
    assert (info.width, info.height, info.K[0], info.frame_id) == (40, 24, 20.0, image.frame_id)
    [(_, objects), *_] = decoded(mcap, "/occ_flow_node/objects")
    [entity] = objects.entities
    [cube], [arrow] = entity.cubes, entity.arrows
    assert (cube.size.x, cube.size.y, cube.size.z) == (1.0, 1.0, 1.0) and cube.pose.position.x == 2.5
    assert arrow.shaft_length + arrow.head_length == pytest.approx(2.0)
    assert cube.pose.orientation.z == pytest.approx(np.sin(np.pi / 4))  # to the left
    [(_, cloud), *_] = decoded(mcap, "/occ_flow_node/points")
    points = np.frombuffer(cloud.data, np.float32).reshape(8, 6)
    np.testing.assert_allclose(points[0], (2.25, -0.25, 0.25, 0.9, 0.0, 2.0), rtol=1e-6)
    assert len(decoded(mcap, "/points")[0][1].data) == 2 * 12


def test_an_mcap_file_holds_figures_as_json(mcap: Path):
    from mcap.reader import make_reader

    with mcap.open("rb") as file:
        found = [m.data for _, _, m in make_reader(file).iter_messages(topics=["/occ_flow_node/figures"])]
    assert json.loads(found[-1]) == {"latency_ms": {"encode": 20.0}, "dropped": {"late": 2}, "scores": {"RayIoU": 0.25}}


def layout() -> dict:
    return json.loads((Path(__file__).resolve().parents[2] / "config/foxglove_layout.json").read_text())


def test_the_layout_names_topics_that_are_there(mcap: Path):
    from mcap.reader import make_reader

    text = json.dumps(layout())
    with mcap.open("rb") as file:
        topics = {c.topic for c in make_reader(file).get_summary().channels.values()}
    for topic in (
        "/occ_flow_node/voxels",
        "/occ_flow_node/points",
        "/occ_flow_node/objects",
        "/occ_flow_node/figures",
        "/points",
    ):
        assert topic in topics and topic in text


# What the applications read: the types of their panels' settings and the grammar of message paths (names that are no
# identifiers stand in quotes after a dot), as in Lichtblick's sources, which Foxglove's were before.
PATH = re.compile(r'(?P<topic>(/[\w-]+)+)(?P<fields>(\.([\w-]+|"[^"]*"))*)')
CHOICES = {
    "followMode": {"follow-pose", "follow-position", "follow-none"},
    "colorMode": {"flat", "gradient", "colormap", "rgb", "rgba", "rgba-fields"},
    "colorMap": {"turbo", "rainbow"},
    "pointShape": {"circle", "square"},
    "timestampMethod": {"receiveTime", "headerStamp"},
    "xAxisVal": {"timestamp", "index", "custom", "currentCustom"},
    "legendDisplay": {"floating", "top", "left", "none"},
    "direction": {"row", "column"},
}
SETTINGS = {  # of each kind of panel; `foxglovePanelTitle` is everybody's
    "3D": {"cameraState", "followMode", "followTf", "scene", "transforms", "topics", "layers", "publish", "imageMode"},
    "Image": {
        "cameraState",
        "followMode",
        "followTf",
        "scene",
        "transforms",
        "topics",
        "layers",
        "publish",
        "imageMode",
    },
    "Plot": {
        *("paths", "minXValue", "maxXValue", "minYValue", "maxYValue", "showLegend", "legendDisplay", "xAxisVal"),
        *("showPlotValuesInLegend", "showXAxisLabels", "showYAxisLabels", "isSynced", "xAxisPath"),
        *("followingViewWidth", "sidebarDimension"),
    },
    "DiagnosticSummary": {"minLevel", "pinnedIds", "topicToRender", "hardwareIdFilter", "sortByLevel"},
}
SCENE = {
    "enableStats",
    "backgroundColor",
    "labelScaleFactor",
    "meshUpAxis",
    "transforms",
    "syncCamera",
    "topicsVisible",
}
FRAMES = {"editable", "showLabel", "labelSize", "axisScale", "lineWidth", "lineColor", "enablePreloading"}


def entries(node: object) -> Iterator[tuple[str, object]]:
    """All keys with their values, at any depth."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield key, value
        yield from entries(value)
    for value in node if isinstance(node, list) else ():
        yield from entries(value)


def test_the_layout_has_the_settings_that_the_panels_read():
    found = layout()
    assert found.keys() == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}

    def panels(node) -> list[str]:
        return [node] if isinstance(node, str) else panels(node["first"]) + panels(node["second"])

    assert sorted(panels(found["layout"])) == sorted(found["configById"])
    for name, settings in found["configById"].items():
        kind, _, number = name.partition("!")
        assert number and settings.keys() - {"foxglovePanelTitle"} <= SETTINGS[kind], name
        assert settings.get("scene", {}).keys() <= SCENE
        assert settings.get("scene", {}).get("transforms", {}).keys() <= FRAMES
    for key, value in entries(found):
        assert key not in CHOICES or value in CHOICES[key], (key, value)


def test_the_layout_plots_figures_that_are_written(mcap: Path):
    """Each path is one by the grammar, and its first part is a group of the figures of a set."""
    paths = [
        path["value"]
        for _, value in entries(layout())
        if isinstance(value, list)
        for path in value
        if isinstance(path, dict)
    ]
    assert len(paths) == 6
    for path in paths:
        match = PATH.fullmatch(path)
        assert match and match["topic"] == "/occ_flow_node/figures", path
        group, *name = re.findall(r'[\w-]+|"[^"]*"', match["fields"])
        assert group in FIGURES["properties"] and len(name) == 1
        if group == "scores":
            assert name[0].strip('"') in {title for _, _, title in CHARTS}
        else:
            assert name[0] in {"preprocess", "encode", "decode", "output"}


@pytest.mark.parametrize("suffix", [".rrd", ".mcap"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, suffix: str):
    pytest.importorskip({".rrd": "rerun", ".mcap": "foxglove"}[suffix])
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / f"run{suffix}"
    with pytest.raises(DataError, match=r"file.run.*cannot be written"), open_logs(ViewOptions((path,))):
        pass


def test_other_files_and_absent_packages_are_told(tmp_path: Path, monkeypatch):
    with pytest.raises(ConfigError, match=r"run\.mp4: expected a name that ends with \.rrd"):
        ViewOptions((tmp_path / "run.mp4",))
    for module, suffix in (("rerun", ".rrd"), ("foxglove", ".mcap")):
        monkeypatch.setitem(sys.modules, module, None)
        path = tmp_path / f"run{suffix}"
        with (
            pytest.raises(MissingDependencyError, match=r"pip install 'letocc\[view\]'"),
            open_logs(ViewOptions((path,))),
        ):
            pass


def test_a_window_without_a_display_is_refused(monkeypatch):
    pytest.importorskip("rerun")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(LetOccError, match="no display"), open_logs(ViewOptions(window=True)):
        pass


def test_nothing_is_left_of_a_page_that_was_closed(recording: Path):
    """Rerun's command starts the viewer proper as a process of its own, which has to end with it."""
    from urllib.parse import urlsplit

    from letocc_core.viz.viewers.rerun_viewer import RerunViewer

    with RerunViewer([recording], web=True) as viewer:
        port = urlsplit(viewer.address.data.removeprefix("rerun+")).port
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(OSError):
        for _ in range(50):  # s / 10 that the ending may take
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            time.sleep(0.1)
