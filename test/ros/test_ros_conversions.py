"""Messages to arrays and back, by hand-worked values; nothing is sent."""

import dataclasses
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from ros_rig import CALIBRATION, REPOSITORY, until
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from letocc_core.data.bags import answers, pointcloud
from letocc_core.data.bags.writer import BagWriter
from letocc_core.errors import ConfigError, DataError
from letocc_core.geometry import se3
from letocc_core.geometry.calibration import from_camera_info
from letocc_core.geometry.grid import GridSpec
from letocc_core.stream import images, packing
from letocc_core.stream.consumers.costmap import OCCUPIED, UNKNOWN, Band
from letocc_core.stream.consumers.objects import MovingObject
from letocc_core.stream.types import OccFlow
from letocc_ros import conversions, parameters
from letocc_ros.health import RECENT, REPEAT, Health
from letocc_ros.msg import OccFlowGrid
from letocc_ros.session import header_stamp_ns
from letocc_ros.view.markers import (
    ObstacleTypes,
    colour_ramp,
    obstacle_types,
    to_markers,
    to_object_markers,
    to_obstacles,
)
from letocc_ros.worker import LatestWorker

STAMP = 1_234_567_890_987_654_321
GRID = GridSpec((-1.0, -2.0, 0.0), (0.5, 0.0, 2.0), 0.5)  # 3 x 4 x 4 voxels


def answer(**changes) -> OccFlow:
    """Two occupied voxels: (0, 1, 2) moves, (2, 3, 0) stands; (1, 0, 3) is likely but not seen."""
    probability = np.zeros(GRID.shape, np.float32)
    velocity = np.zeros((*GRID.shape, 2), np.float32)
    observed = np.ones(GRID.shape, bool)
    probability[0, 1, 2], probability[2, 3, 0], probability[1, 0, 3] = 1.0, 0.75, 0.9
    probability[1, 1, 1] = 0.25
    velocity[0, 1, 2] = 3.0, -4.0
    observed[1, 0] = False
    return OccFlow(STAMP, GRID, probability, velocity, observed, 0.5, **changes)


def markers(item: OccFlow, coloured_by: str = "height", min_speed: float = 0.5) -> tuple[Marker, Marker]:
    """Voxels and motion, as a subscriber has them."""
    sent = to_markers(item, "base_link", coloured_by, (0.0, 0.5, 1.0), min_speed)
    motion, voxels = deserialize_message(sent, MarkerArray).markers
    for marker in (motion, voxels):  # what lies behind the lists is in its place
        assert marker.text == marker.mesh_resource == marker.texture_resource == "" and not marker.uv_coordinates
    assert len(serialize_message(MarkerArray(markers=[motion, voxels]))) == len(sent)
    assert (motion.ns, voxels.ns) == ("motion", "voxels")
    return voxels, motion


def test_stamps():
    time = conversions.from_ns(STAMP)
    assert (time.sec, time.nanosec) == (1_234_567_890, 987_654_321)
    assert conversions.to_ns(time) == STAMP


def test_grid_message_by_hand():
    message = conversions.to_grid_message(answer(), "base_link")
    assert (message.size_x, message.size_y, message.size_z) == (3, 4, 4)
    assert (message.origin.x, message.origin.y, message.origin.z) == (-1.0, -2.0, 0.0)
    assert message.header.frame_id == "base_link"
    assert message.voxel_size == 0.5
    flat = (0 * 4 + 1) * 4 + 2, (2 * 4 + 3) * 4 + 0
    assert list(message.occupied) == list(flat)
    assert list(message.vx) == [3.0, 0.0]
    assert list(message.vy) == [-4.0, 0.0]
    assert [message.probability[i] for i in flat] == [254, 190]  # 0.75 * 254 = 190.5, to even
    assert message.probability[(1 * 4 + 1) * 4 + 1] == 64  # 0.25 * 254 = 63.5, to even
    assert message.probability[(1 * 4 + 0) * 4 + 3] == OccFlowGrid.NOT_SEEN
    assert sum(p == OccFlowGrid.NOT_SEEN for p in message.probability) == 4
    assert message.threshold == 0.5


@pytest.mark.parametrize("semantic", [False, True])
def test_grid_message_survives_the_wire(semantic: bool):
    labels = np.arange(48, dtype=np.uint8).reshape(GRID.shape) % 3
    before = answer(labels=labels, class_names=("car", "pole", "road")) if semantic else answer()
    message = conversions.to_grid_message(before, "base_link")
    after = conversions.from_grid_message(deserialize_message(serialize_message(message), OccFlowGrid))
    assert after.stamp_ns == STAMP
    assert after.grid == GRID
    assert np.array_equal(after.observed, before.observed)
    assert np.array_equal(after.occupied, before.occupied)
    assert np.abs(after.probability - before.probability)[before.observed].max() <= 0.5 / 254 + 1e-6
    assert np.array_equal(after.velocity[after.occupied], before.velocity[before.occupied])
    assert after.class_names == before.class_names
    if semantic:
        assert np.array_equal(after.labels[after.occupied], labels[before.occupied])


def test_where_rays_end_survives_the_wire():
    ends = np.zeros(GRID.shape, bool)
    ends[1, 1, 1] = True  # a probability of 0.25, the threshold is 0.5
    message = conversions.to_grid_message(answer(ends=ends), "base_link")
    told = conversions.from_grid_message(deserialize_message(serialize_message(message), OccFlowGrid))
    np.testing.assert_array_equal(told.ends, ends)
    assert np.argwhere(told.occupied).tolist() == [[0, 1, 2], [1, 1, 1], [2, 3, 0]]
    assert conversions.from_grid_message(conversions.to_grid_message(answer(), "base_link")).ends is None


def test_what_is_hidden_survives_the_wire_and_old_messages_do_not_tell():
    hidden = np.zeros(GRID.shape, bool)
    hidden[2, 3, 0] = hidden[1, 1, 1] = True
    message = conversions.to_grid_message(answer(hidden=hidden), "base_link")
    assert message.visibility[(2 * 4 + 3) * 4] == message.visibility[(1 * 4 + 1) * 4 + 1] == OccFlowGrid.HIDDEN
    assert message.visibility[(1 * 4 + 0) * 4 + 3] == OccFlowGrid.NOT_SEEN
    assert sum(v == OccFlowGrid.SEEN for v in message.visibility) == 48 - 4 - 2
    after = conversions.from_grid_message(deserialize_message(serialize_message(message), OccFlowGrid))
    assert np.array_equal(after.hidden, hidden) and after.occupied[2, 3, 0]
    before = conversions.to_grid_message(answer(), "base_link")
    assert len(before.visibility) == 0 and conversions.from_grid_message(before).hidden is None
    old = SimpleNamespace(**{name: getattr(message, name) for name in message.get_fields_and_field_types()})
    del old.visibility  # the definition that a bag of before has
    assert packing.unpack(old).hidden is None
    message.visibility = message.visibility[:-1]
    with pytest.raises(DataError, match="47 visibilities, expected 3 x 4 x 4, or none"):
        conversions.from_grid_message(message)


def test_bags_of_answers_are_read_with_and_without_what_is_hidden(tmp_path, monkeypatch):
    hidden = np.zeros(GRID.shape, bool)
    hidden[2, 3, 0] = True
    item = answer(hidden=hidden)
    with answers.AnswerBag(tmp_path / "new") as bag:
        bag.write(item, np.eye(4))
    assert np.array_equal(next(answers.read_answers(tmp_path / "new")).hidden, hidden)
    old = answers.answer_definition().split("uint8 SEEN = 0")[0]
    monkeypatch.setattr(answers, "answer_definition", lambda: old)
    write = BagWriter.write

    def without_visibility(self, topic, kind, stamp_ns, **fields):
        fields.pop("visibility", None)
        write(self, topic, kind, stamp_ns, **fields)

    monkeypatch.setattr(BagWriter, "write", without_visibility)
    with answers.AnswerBag(tmp_path / "old") as bag:
        bag.write(item, np.eye(4))
    found = next(answers.read_answers(tmp_path / "old"))
    assert found.hidden is None and np.array_equal(found.occupied, item.occupied)


def test_constants_are_those_of_the_message():
    assert (
        *(OccFlowGrid.SEEN, OccFlowGrid.HIDDEN),
        OccFlowGrid.NOT_SEEN,
    ) == (packing.SEEN, packing.HIDDEN, packing.NOT_SEEN)


def test_an_empty_answer_survives_the_wire():
    nothing = dataclasses.replace(answer(), probability=np.zeros(GRID.shape, np.float32))
    message = deserialize_message(serialize_message(conversions.to_grid_message(nothing, "base_link")), OccFlowGrid)
    assert not conversions.from_grid_message(message).occupied.any()
    assert conversions.to_point_cloud(nothing, "base_link").width == 0
    voxels, motion = markers(nothing)
    assert voxels.action == motion.action == Marker.DELETE


@pytest.mark.parametrize(
    ("field", "value", "text"), [("size_x", 5, "48 probabilities, expected 5 x 4 x 4"), ("vx", [1.0], "2 occupied")]
)
def test_a_grid_message_that_contradicts_itself(field: str, value, text: str):
    message = conversions.to_grid_message(answer(), "base_link")
    setattr(message, field, value)
    with pytest.raises(DataError, match=f"at {STAMP} ns: .*{text}"):
        conversions.from_grid_message(message)


def test_points():
    cloud = conversions.to_point_cloud(answer(), "base_link")
    points = pointcloud.to_structured(deserialize_message(serialize_message(cloud), PointCloud2), "points")
    assert points.dtype.names == ("x", "y", "z", "probability", "vx", "vy")
    assert points.tolist() == [(-0.75, -1.25, 1.25, 1.0, 3.0, -4.0), (0.25, -0.25, 0.25, 0.75, 0.0, 0.0)]


def test_points_between_two_heights():
    cloud = conversions.to_point_cloud(answer(), "base_link", lowest=0.5, highest=2.0)
    assert pointcloud.to_structured(cloud, "points")["z"].tolist() == [1.25]


def test_markers():
    voxels, motion = markers(answer())
    assert voxels.type == Marker.CUBE_LIST
    assert motion.type == Marker.LINE_LIST
    assert voxels.scale.x == voxels.scale.y == voxels.scale.z == 0.5
    assert [(p.x, p.y, p.z) for p in voxels.points] == [(-0.75, -1.25, 1.25), (0.25, -0.25, 0.25)]
    assert len(voxels.colors) == 2
    assert voxels.colors[0] != voxels.colors[1]  # two heights
    assert [(p.x, p.y, p.z) for p in motion.points] == [(-0.75, -1.25, 1.25), (2.25, -5.25, 1.25)]  # 3, -4 m/s
    assert (motion.colors[0].r, motion.colors[0].g, motion.colors[0].b) == (0.0, 0.5, 1.0)
    assert not markers(answer(), min_speed=6.0)[1].points


@pytest.mark.parametrize(
    ("coloured_by", "steps"),
    [
        ("height", (42, 0)),  # layers 2 and 0 of 4: 2 / 3 * 63, 0
        ("probability", (63, 47)),  # 1 and 0.75: 47.25
        ("speed", (32, 0)),  # 5 of 10 m/s: 31.5, to even
    ],
)
def test_colours_of_voxels(coloured_by: str, steps: tuple[int, int]):
    colours = markers(answer(), coloured_by)[0].colors
    np.testing.assert_allclose([(c.r, c.g, c.b, c.a) for c in colours], colour_ramp()[list(steps)], atol=1e-6)


def test_objects_as_markers():
    moving = MovingObject((1.0, 2.0, 0.5), (4.0, 2.0, 1.5), (0.0, 3.0), 40)
    nothing, box, arrow = to_object_markers([moving], STAMP, "base_link", (0.0, 0.5, 1.0)).markers
    assert nothing.action == Marker.DELETEALL
    assert (box.type, arrow.type) == (Marker.CUBE, Marker.ARROW)
    assert (box.pose.position.x, box.pose.position.y, box.pose.position.z) == (1.0, 2.0, 0.5)
    assert (box.scale.x, box.scale.y, box.scale.z) == (4.0, 2.0, 1.5)
    np.testing.assert_allclose(
        [box.pose.orientation.z, box.pose.orientation.w], [0.5**0.5] * 2
    )  # heads left: 90 degrees
    assert [(p.x, p.y, p.z) for p in arrow.points] == [(1.0, 2.0, 0.5), (1.0, 5.0, 0.5)]
    assert arrow.color.b == 1.0
    assert conversions.to_ns(box.header.stamp) == STAMP
    assert len(to_object_markers([], STAMP, "base_link", (0.0, 0.5, 1.0)).markers) == 1


def test_costmap():
    costmap = conversions.to_costmap(answer(), "base_link", Band(0.5, 2.0))  # layers 1 to 3
    cells = np.array(costmap.data).reshape(costmap.info.height, costmap.info.width)  # [y, x]
    assert cells.shape == (4, 3)
    assert cells[1, 0] == OCCUPIED
    assert cells[0, 1] == UNKNOWN  # no camera sees the column
    assert cells[1, 1] == 25  # 99 * 0.25
    assert cells[3, 2] == 0  # occupied, but below the band
    assert (costmap.info.origin.position.x, costmap.info.origin.position.y) == (-1.0, -2.0)
    assert costmap.info.resolution == 0.5
    everything_above = conversions.to_costmap(answer(), "base_link", Band(50.0, 60.0))
    assert set(everything_above.data) == {UNKNOWN}


def test_objects_as_obstacles_of_nav2():
    """Both versions of nav2_dynamic_msgs; the size is along the axes, the object heads left."""
    item = MovingObject((1.0, 2.0, 0.5), (4.0, 2.0, 1.5), (0.0, 3.0), 40)
    header = conversions.make_header(STAMP, "base_link")
    for old in (True, False):
        own = {"header": None} if old else {"score": 0.0}
        types = ObstacleTypes(lambda **fields: SimpleNamespace(**fields), lambda own=own: SimpleNamespace(**own))
        array = to_obstacles([item], types, header)
        [obstacle] = array.obstacles
        assert array.header is header and (obstacle.header is header if old else obstacle.score == 1.0)
        assert (obstacle.position.x, obstacle.position.y, obstacle.position.z) == (1.0, 2.0, 0.5)
        assert (obstacle.velocity.x, obstacle.velocity.y) == (0.0, 3.0)
        np.testing.assert_allclose([obstacle.size.x, obstacle.size.y, obstacle.size.z], (2.0, 4.0, 1.5))
    assert obstacle_types() is None or obstacle_types().array is not None


def test_bands_of_heights_are_read_and_checked():
    bands = parameters.NodeParameters(costmap_bands=("low 0.1 0.6", "high 0.6 2.5")).bands
    assert bands == {"costmap": Band(0.3, 2.0), "costmap_low": Band(0.1, 0.6), "costmap_high": Band(0.6, 2.5)}
    for wrong, said in (
        ("low 0.1", "such as 'low 0.1 0.6'"),
        ("low a b", "such as 'low 0.1 0.6'"),
        ("low 2 1", "expected the first below the second"),
        ("a/b 0 1", "letters and digits"),
    ):
        with pytest.raises(ConfigError, match=said):
            parameters.NodeParameters(costmap_bands=(wrong,))
    with pytest.raises(ConfigError, match="none of them twice"):
        parameters.NodeParameters(costmap_bands=("low 0 1", "low 1 2"))


def test_hidden_points_are_left_out():
    hidden = np.zeros(GRID.shape, bool)
    hidden[2, 3, 0] = True
    assert conversions.to_point_cloud(answer(hidden=hidden), "base_link").width == 1
    assert conversions.to_point_cloud(answer(), "base_link").width == 2


def test_hidden_matter_is_faint():
    hidden = np.zeros(GRID.shape, bool)
    hidden[2, 3, 0] = True
    voxels, _ = markers(answer(hidden=hidden))
    assert [colour.a for colour in voxels.colors] == [1.0, 0.25]


def test_raw_images():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (4, 6, 3), np.uint8)
    message = conversions.rgb_to_image(rgb, STAMP, "camera")
    assert np.array_equal(conversions.image_to_rgb(message, "/camera"), rgb)
    padded = np.zeros((4, 24), np.uint8)
    padded[:, :18] = rgb[..., ::-1].reshape(4, 18)
    message = Image(encoding="bgr8", height=4, width=6, step=24, data=padded.reshape(-1).tolist())
    assert np.array_equal(conversions.image_to_rgb(message, "/camera"), rgb)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": "32FC1"}, "encoding '32FC1' is not supported"),
        ({"step": 3}, "with 3 bytes a row, expected at least 18"),
        ({"height": 40}, "payload of 72 bytes, expected 720"),
        ({"data": b""}, "payload of 0 bytes"),
    ],
)
def test_raw_images_that_lie(changes: dict, text: str):
    message = conversions.rgb_to_image(np.zeros((4, 6, 3), np.uint8), STAMP, "camera")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(DataError, match=f"/camera/image_raw at {STAMP} ns: .*{text}"):
        conversions.image_to_rgb(message, "/camera/image_raw")


def test_compressed_images():
    rgb = np.kron(np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    png = conversions.rgb_to_compressed(rgb, STAMP, "camera", "png")
    assert np.array_equal(conversions.image_to_rgb(png, "/camera"), rgb)
    jpeg = conversions.rgb_to_compressed(rgb, STAMP, "camera")
    assert jpeg.format == "jpeg"
    assert np.abs(conversions.image_to_rgb(jpeg, "/camera").astype(int) - rgb).mean() < 12
    half = CompressedImage(header=jpeg.header, format="jpeg", data=jpeg.data[: len(jpeg.data) // 2])
    with pytest.raises(DataError, match=f"/camera/x at {STAMP} ns: JPEG image of .* is truncated"):
        conversions.image_to_rgb(half, "/camera/x")


def test_cv_bridge_knows_further_encodings(monkeypatch: pytest.MonkeyPatch):
    class Bridge:
        def imgmsg_to_cv2(self, message, desired_encoding):
            if message.encoding == "nonsense":
                raise ValueError("no such encoding")
            return np.full((message.height, message.width, 3), 7, np.uint8)

    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=Bridge, CvBridgeError=ValueError))
    known = conversions.image_to_rgb(Image(encoding="nv24", height=2, width=2, step=4), "/camera")
    assert (known == 7).all()
    with pytest.raises(DataError, match="cv_bridge cannot turn encoding 'nonsense'"):
        conversions.image_to_rgb(Image(encoding="nonsense", height=2, width=2, step=4), "/camera")


def quarter_turn() -> TransformStamped:
    message = TransformStamped()
    message.transform.rotation.z = message.transform.rotation.w = 0.5**0.5
    message.transform.translation.x = 3.0
    return message


def test_cv_bridge_gives_the_same_pixels():
    bridge = pytest.importorskip("cv_bridge", reason="comes with a ROS installation").CvBridge()
    colourless = {"uyvy", "yuyv", "8UC1", "8UC3", "8UC4"}  # for cv_bridge
    for encoding in {e for e, (_, size, _) in images.ENCODINGS.items() if size == 1} - colourless:
        row = 6 * images.ENCODINGS[encoding][0]
        data = np.random.default_rng(0).integers(0, 256, 4 * row, np.uint8)
        message = Image(encoding=encoding, height=4, width=6, step=row, data=data.tolist())
        expected = bridge.imgmsg_to_cv2(message, desired_encoding="rgb8")
        np.testing.assert_array_equal(conversions.image_to_rgb(message, "/camera"), expected, encoding)


def test_sensor_msgs_py_reads_the_same_points():
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="comes with a ROS installation")
    cloud = conversions.to_point_cloud(answer(), "base_link")
    expected = [(-0.75, -1.25, 1.25, 1.0, 3.0, -4.0), (0.25, -0.25, 0.25, 0.75, 0.0, 0.0)]
    assert [tuple(point) for point in point_cloud2.read_points(cloud)] == expected
    assert pointcloud.to_structured(cloud, "points").tolist() == expected


def test_tf_transformations_gives_the_same_rotations():
    library = pytest.importorskip("tf_transformations", reason="comes with a ROS installation")
    for quaternion in np.random.default_rng(0).normal(size=(20, 4)):
        unit = quaternion / np.linalg.norm(quaternion)
        expected = se3.from_quaternion(unit, np.zeros(3))
        np.testing.assert_allclose(library.quaternion_matrix(unit), expected, atol=1e-12)


def test_camera_info_and_transforms_survive():
    info = conversions.calibration_to_camera_info(CALIBRATION, STAMP, "camera")
    assert from_camera_info(info) == CALIBRATION
    T = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    message = conversions.matrix_to_transform(T, STAMP, "odom", "base_link")
    np.testing.assert_allclose(conversions.transform_to_matrix(message), T, atol=1e-12)
    message.transform.rotation.w = 5.0
    with pytest.raises(DataError, match="has length 5"):
        conversions.transform_to_matrix(message)


def test_stamp_of_serialised_messages():
    assert header_stamp_ns(serialize_message(conversions.to_grid_message(answer(), "base_link"))) == STAMP
    sent = to_markers(answer(), "base_link", "height", (0.0, 0.5, 1.0), 0.5)
    assert header_stamp_ns(sent, offset=4) == STAMP
    with pytest.raises(DataError, match="of 3 bytes"):
        header_stamp_ns(b"abc")


def test_parameter_file_and_documentation_are_made_from_the_declarations():
    text = (REPOSITORY / "config" / "occ_flow.yaml").read_text()
    assert text == parameters.yaml_text(), "write it anew: python -m letocc_ros.parameters yaml > config/occ_flow.yaml"
    assert yaml.safe_load(text)["/**"]["ros__parameters"] == parameters.defaults()
    page = (REPOSITORY / "README.md").read_text()
    assert parameters.markdown_table() in page, "paste it anew: python -m letocc_ros.parameters table"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"slop": -0.1}, r"'slop' is -0.1, expected 0 to 1 s"),
        ({"transport": "theora"}, "'transport' is 'theora', expected one of compressed, raw"),
        ({"cameras": ("a", "a")}, r"'cameras' is \['a', 'a'\], expected one name or more, none twice"),
        ({"cameras": ("front camera",)}, "'front camera/image_raw' is not a topic name"),
        ({"odometry_topic": "odom!"}, "'odometry_topic': 'odom!' is not a topic name"),
        ({"motion_colour": (1.0, 2.0, 0.0)}, r"'motion_colour' is \[1.0, 2.0, 0.0\], expected three numbers, 0 to 1"),
        ({"costmap_min_height": 3.0}, "'costmap_min_height' is 3.0 m, expected less than"),
    ],
)
def test_impossible_parameters(changes: dict, text: str):
    with pytest.raises(ConfigError, match=text):
        parameters.NodeParameters(**changes)


def test_every_parameter_is_described():
    for field in dataclasses.fields(parameters.NodeParameters):
        descriptor = parameters.descriptor(field)
        assert descriptor.description
        assert descriptor.additional_constraints.endswith(("while active", "while unconfigured"))
        assert Parameter(field.name, value=parameters.defaults()[field.name]).type_ != Parameter.Type.NOT_SET
        if field.metadata["range"]:
            assert descriptor.floating_point_range or descriptor.integer_range


def test_the_worker_takes_the_newest():
    begun, go, done = threading.Event(), threading.Event(), []

    def work(item: int) -> None:
        begun.set()
        go.wait(10)
        done.append(item)

    worker = LatestWorker(work, "test")
    assert worker.submit(1) is None
    assert begun.wait(10)
    assert worker.submit(2) is None
    assert worker.submit(3) == 2  # replaced before its turn
    go.set()
    until(lambda: done == [1, 3], 10, "items 1 and 3 worked on")
    assert worker.stop(10) is None
    assert not worker.alive


def test_a_stopped_worker_gives_back_what_waited():
    begun, go = threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.set()
        go.wait(10)

    worker = LatestWorker(work, "test")
    worker.submit(1)
    assert begun.wait(10)
    worker.submit(2)
    threading.Timer(0.2, go.set).start()  # item 1 ends while the worker is being stopped
    assert worker.stop(10) == 2


def test_health_names_causes_and_forgets_them():
    now, said = [0.0], []
    health = Health("node", said.append, lambda: now[0])
    health.clear({"front": "/front/image_raw", "left": "/left/image_raw"})
    assert health.statuses("active")[0].message == "waiting for image sets"
    health.arrived("/front/image_raw")
    for stamp in range(3):
        health.drop("no_camera_info", ("left",), f"no camera_info on /left/camera_info at {stamp}")
    health.set_in(["front"])
    health.reset("time went back: by 1 s")
    health.set_out(0.020, {"encode": 0.01}, heard=1)
    now[0] = 1.0
    status, front, left = health.statuses("active")
    values = values_of(status)
    assert status.level == status.WARN
    assert "no camera_info on /left/camera_info at 2" in status.message
    assert "the past is forgotten: time went back: by 1 s" in status.message
    assert said == ["no camera_info on /left/camera_info at 0", "the past is forgotten: time went back: by 1 s"]
    assert values["dropped: no_camera_info"] == "3"
    assert values["sets out"] == "1"
    assert values["rate (Hz)"] == "0.2"  # one in 5 s
    assert (values["latency median (ms)"], values["encode p95 (ms)"]) == ("20.0", "10.0")
    assert values["history reset: time went back"] == "1"
    assert values["age of /front/image_raw (s)"] == "1.0"
    assert 10 < float(values["memory (MB)"]) < 100_000
    assert (values_of(front)["images in sets"], values_of(left)["images in sets"]) == ("1", "0")
    now[0] = RECENT + 1
    status, front, left = health.statuses("active")
    assert status.level == status.ERROR  # nothing goes out any more
    assert "no image on /left/image_raw yet" in status.message
    assert "no image on /front/image_raw for 4 s" in status.message
    assert "camera_info" not in status.message
    assert front.level == left.level == status.WARN
    assert said[2:] == [
        "no image on /front/image_raw for 4 s",
        "no image on /left/image_raw yet",
    ]  # the log says it too
    health.failure = "no such checkpoint"
    assert health.statuses("unconfigured")[0].message == "no such checkpoint"


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def test_health_repeats_what_lasts_and_measures_rates():
    now, said = [0.0], []
    health = Health("node", said.append, lambda: now[0])
    health.clear({"front": "/front"})
    while now[0] < 1.5 * REPEAT:
        now[0] += 0.25
        health.arrived("/front")
        health.drop("superseded", (), "too slow")
        health.set_out(0.1, {}, heard=0)
    assert said == ["too slow", "too slow"]
    assert values_of(health.statuses("active")[1])["rate (Hz)"] == "4.2"  # 21 in the 5 s, both ends included
    now[0] += 1.01 * RECENT - 0.1
    health.arrived("/front")
    health.set_out(0.1, {}, heard=0)
    now[0] += 0.2
    (status, _) = health.statuses("active")
    assert (status.level, status.message) == (status.OK, "running; nobody listens to an output that is switched on")


def test_health_tells_a_faster_camera_from_one_that_never_joins():
    now, said = [0.0], []
    health = Health("node", said.append, lambda: now[0])
    health.clear({"anchor": "/anchor", "other": "/other"})

    def run(joining: list[str]) -> DiagnosticStatus:
        for _ in range(8):
            now[0] += 0.5
            for topic in ("/anchor", "/other"):
                health.arrived(topic)
            health.set_in(joining)
            health.set_out(0.1, {}, heard=1)
            health.drop_unmatched("other", "other at 5 ns: no image of the anchor within 0.02 s")
        return health.statuses("active")[0]

    assert run(["anchor", "other"]).message == "running"
    status = run(["anchor"])
    assert status.message == "other at 5 ns: no image of the anchor within 0.02 s; see parameter 'slop'"
    assert values_of(status)["dropped: unmatched"] == "16"


def test_health_says_that_the_network_is_at_work():
    now, said = [0.0], []
    health = Health("node", said.append, lambda: now[0])
    health.clear({})
    health.set_begun()
    now[0] = 8.0
    assert health.statuses("active")[0].message == "the network has been at work on one set for 8 s"
    health.set_done()
    now[0] = 20.0
    assert health.statuses("active")[0].message == "waiting for image sets"


def test_the_benchmark_s_answer_is_of_the_size_it_says():
    from letocc_ros.bench import large_answer

    answer = large_answer()
    assert answer.occupied.sum() == 30_000 and answer.grid.shape == (200, 200, 16)
    assert len(conversions.to_grid_message(answer, "base_link").occupied) == 30_000
