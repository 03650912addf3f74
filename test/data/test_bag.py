"""Bags: what is written is read again, cameras are found, faults are named."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from letocc_core.data.bags import pointcloud
from letocc_core.data.bags import reader as bags
from letocc_core.data.bags.info import bag_info
from letocc_core.data.bags.recording import Recording
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.errors import DataError
from letocc_core.stream import images
from letocc_core.stream.types import Calibration

K = np.array([[40.0, 0, 15], [0, 41, 10], [0, 0, 1]])
STEP_NS = 10**8
AHEAD = np.array(
    [[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
)  # of a camera's optical frame, in base_link


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)


def pose(i: int) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", 0.01 * i).as_matrix()
    T[:3, 3] = [1.0 * i, 0.1, 0]
    return T


def write(path: Path, frames: int = 10, storage="mcap", tf: bool = True, info: bool = True, kind="png") -> Path:
    with BagWriter(path, storage) as bag:
        mounts = [("base_link", optical_frame("front"), AHEAD), ("base_link", "lidar", pose(1))]
        bag.write_tf_static(STEP_NS, mounts if tf else mounts[1:])
        for i in range(frames):
            stamp = STEP_NS * (i + 1)
            if tf:
                bag.write_tf(stamp, "odom", "base_link", pose(i))
            if info:
                bag.write_camera_info("front", stamp, Calibration(30, 20, K, np.array([0.1, 0, 0, 0])))
            bag.write_image("front", stamp, picture(i), kind)
            bag.write_points(stamp, "lidar", {axis: np.full(5, i, np.float32) for axis in "xyz"})
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("bag") / "good")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("kind", ["png", "raw"])
def test_everything_written_is_read_again(tmp_path, storage, kind):
    with bags.open_bag(write(tmp_path / "bag", 3, storage, kind=kind)) as bag:
        messages = list(bag.messages(lidar_topics=bag.lidar_topics))
    found = [m for m in messages if isinstance(m, bags.ImageMessage)]
    assert [m.stamp_ns for m in found] == [STEP_NS, 2 * STEP_NS, 3 * STEP_NS]
    for i, message in enumerate(found):
        assert message.frame_id == "front_optical"
        np.testing.assert_array_equal(message.image, picture(i))
    calibration = next(m for m in messages if isinstance(m, bags.CalibrationMessage)).calibration
    assert calibration == Calibration(30, 20, K, np.array([0.1, 0, 0, 0]))
    moving = [m for m in messages if isinstance(m, bags.TransformMessage) and not m.static]
    for i, message in enumerate(moving):
        np.testing.assert_allclose(message.T, pose(i), atol=1e-12)
    sweeps = [m for m in messages if isinstance(m, bags.PointsMessage)]
    np.testing.assert_array_equal(sweeps[2].points, np.full((5, 3), 2))


def test_constant_transforms_come_first_and_are_latched(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_tf(1, "odom", "base_link", pose(0))
        bag.write_camera_info("front", 1, Calibration(30, 20, K))
        bag.write_image("front", 1, picture())
        bag.write_tf_static(2, [("base_link", "front_optical", pose(0))])
    with bags.open_bag(tmp_path / "bag") as bag:
        first = next(bag.messages())
        latched = {c.topic: c.ext.offered_qos_profiles[0].durability.name for c in bag.connections}
    assert isinstance(first, bags.TransformMessage) and first.static
    assert latched["/tf_static"] == "TRANSIENT_LOCAL" and latched["/tf"] == "VOLATILE"


def test_a_single_file_and_a_folder_without_metadata_are_bags_too(good, tmp_path):
    copy = shutil.copytree(good, tmp_path / "good")
    (copy / "metadata.yaml").unlink()
    for path in (copy, copy / "good.mcap"):
        with bags.open_bag(path) as bag:
            assert list(bag.cameras) == ["front"]


def test_an_exception_leaves_no_half_written_bag(tmp_path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag") as bag:
        bag.write_tf(1, "odom", "base_link", pose(0))
        raise RuntimeError
    assert not (tmp_path / "bag").exists()


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    bag = BagWriter(tmp_path / "bag")
    monkeypatch.setattr(bag._writer, "close", lambda: Path("/dev/full").write_bytes(b"x"))
    with pytest.raises(OSError, match="No space left"), bag:
        bag.write_tf(1, "odom", "base_link", pose(0))
    assert not list(tmp_path.iterdir())


def test_an_existing_bag_is_not_overwritten(good):
    with pytest.raises(DataError, match="exists already"):
        BagWriter(good)


def test_own_message_types(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.register("ours/msg/Pair", "int32 a\nfloat32[] b")
        bag.write("/pair", "ours/msg/Pair", 5, a=3, b=np.array([1.5], np.float32))
    with bags.open_bag(tmp_path / "bag") as bag:
        (topic, received, message), *_ = bag.raw(["/pair"])
    assert (topic, received, message.a, message.b.tolist()) == ("/pair", 5, 3, [1.5])


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("mode", ["FILE", "MESSAGE"])
def test_compressed_bags(good, tmp_path, storage, mode):
    """As `ros2 bag record --compression-mode` writes them, with zstd."""
    path = copied(good, tmp_path / "bag", storage, mode)
    assert mode == "MESSAGE" or [p.name for p in path.glob("*.zst*")]
    with bags.open_bag(good) as plain, bags.open_bag(path) as bag:
        assert same_images(bag, plain) == 10


def test_split_bags(good, tmp_path):
    """Two files of one recording, as `ros2 bag record --max-bag-size` writes them."""
    whole = copied(good, tmp_path / "bag", "sqlite3")
    second = copied(good, tmp_path / "second", "sqlite3", later_ns=10**9)
    shutil.copy(second / "second.db3", whole / "second.db3")
    about = yaml.safe_load((whole / "metadata.yaml").read_text())
    about["rosbag2_bagfile_information"]["relative_file_paths"].append("second.db3")
    (whole / "metadata.yaml").write_text(yaml.safe_dump(about))
    with bags.open_bag(whole) as bag:
        stamps = [received for _, received, _ in bag.serialized(["/front/image_raw/compressed"])]
    assert stamps == [STEP_NS * (i + 1) for i in range(20)]


def test_ros1_bags_give_the_same(good, tmp_path):
    for path in (ros1_copy(good, tmp_path / "old.bag"), tmp_path):
        with bags.open_bag(good) as new, bags.open_bag(path) as old:
            assert list(old.cameras) == ["front"] and old.lidar_topics == ["/points"]
            kinds = [[type(m).__name__ for m in bag.messages(lidar_topics=bag.lidar_topics)] for bag in (new, old)]
            assert sorted(kinds[0]) == sorted(kinds[1])
            infos = [
                [m.calibration for m in b.messages() if isinstance(m, bags.CalibrationMessage)] for b in (new, old)
            ]
            assert infos[0] == infos[1] and same_images(old, new) == 10
            for (_, _, a), (_, _, b) in zip(old.serialized(["/tf"]), new.serialized(["/tf"]), strict=True):
                assert bytes(a) == bytes(b)
    assert bag_info(tmp_path / "old.bag").missing_to_run == ()


def same_images(bag: bags.Bag, other: bags.Bag) -> int:
    """How many images both have; they must be the same."""
    pairs = list(
        zip(*([m for m in b.messages() if isinstance(m, bags.ImageMessage)] for b in (bag, other)), strict=True)
    )
    for a, b in pairs:
        assert (a.camera, a.stamp_ns, a.frame_id) == (b.camera, b.stamp_ns, b.frame_id)
        np.testing.assert_array_equal(a.image, b.image)
    return len(pairs)


def copied(bag: Path, path: Path, storage: str, mode: str | None = None, later_ns: int = 0) -> Path:
    """The messages of a bag in another storage, compressed if asked for."""
    plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
    writer = Writer(path, version=8, storage_plugin=plugin)
    if mode:
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    store = get_typestore(Stores.ROS2_KILTED)
    with bags.open_bag(bag) as source, writer:
        out = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store) for c in source.connections}
        for connection, stamp, data in source.serialized(list(out)):
            writer.write(out[connection.topic], stamp + later_ns, data)
    return path


def ros1_copy(bag: Path, path: Path) -> Path:
    """The messages of a bag as ROS 1 has them: headers with a sequence number, matrices with capital letters."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", bags.TRANSFORMS[0]))
    converter = get_typestore(Stores.ROS2_KILTED)
    with bags.open_bag(bag) as source, Writer1(path) as writer:
        out = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store) for c in source.connections}
        for connection, stamp, data in source.serialized(list(out)):
            writer.write(out[connection.topic], stamp, converter.cdr_to_ros1(data, connection.msgtype))
    return path


# Poses


def with_odometry(path: Path, child: str, mount: np.ndarray, topics: tuple[str, ...] = ("/odometry",)) -> Path:
    """A drive whose ego poses come on odometry topics, of a frame `child` that is mounted to base_link at `mount`."""
    with BagWriter(path) as bag:
        static = [("base_link", optical_frame("front"), AHEAD)]
        bag.write_tf_static(STEP_NS, static + ([] if child == "base_link" else [("base_link", child, mount)]))
        for i in range(10):
            stamp, T = STEP_NS * (i + 1), pose(i) @ mount
            bag.write_camera_info("front", stamp, Calibration(30, 20, K))
            bag.write_image("front", stamp, picture(i), "png")
            for topic in topics:
                bag.write_odometry(topic, stamp, "odom", child, T)
    return path


@pytest.mark.parametrize(("child", "mount"), [("base_link", np.eye(4)), ("imu", pose(7))])
def test_poses_from_odometry(tmp_path, child, mount):
    path = with_odometry(tmp_path / "bag", child, mount)
    sets = [item.frame_set for item in Recording(path)]
    assert len(sets) == 10
    for i, item in enumerate(sets):
        np.testing.assert_allclose(item.T_world_ego, pose(i), atol=1e-9)
    info = bag_info(path)
    assert info.missing_to_run == () and info.driven == pytest.approx(9.0)
    assert "odometry: /odometry, with the ego poses" in str(info)


def test_several_odometry_topics_want_a_choice(tmp_path):
    path = with_odometry(tmp_path / "bag", "base_link", np.eye(4), ("/wheels", "/visual"))
    with pytest.raises(DataError, match=r"several odometry topics: /visual, /wheels; choose one"):
        Recording(path)
    assert "several odometry topics" in bag_info(path).missing_to_run[0]
    assert len(list(Recording(path, odometry_topic="/visual"))) == 10
    with pytest.raises(DataError, match="no odometry on /odom; nav_msgs/Odometry topics found: /visual, /wheels"):
        Recording(path, odometry_topic="/odom")


def test_transforms_beat_odometry_that_was_not_asked_for(good):
    assert Recording(good).odometry_topic == ""


# What a camera is


def test_rectified_images_take_the_projection_matrix(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_camera_info("a/left", 1, Calibration(30, 20, K, np.array([0.3, 0, 0, 0])))
        header, rgb = bag.header(1, "left"), picture()
        fields = {"height": 20, "width": 30, "encoding": "rgb8", "is_bigendian": 0, "step": 90, "data": rgb.reshape(-1)}
        for name in ("image_rect_color", "depth/image_raw"):
            bag.write(f"/a/left/{name}", bags.IMAGE, 1, header=header, **fields)
    with bags.open_bag(tmp_path / "bag") as bag:
        assert bag.cameras["a/left"].image_topic == "/a/left/image_rect_color"
        found = [m.calibration for m in bag.messages() if isinstance(m, bags.CalibrationMessage)]
    assert found == [Calibration(30, 20, K)] * 2  # the first one comes before everything, and in its place


def test_unknown_camera_lists_the_known(good):
    with bags.open_bag(good) as bag, pytest.raises(DataError, match="no camera 'back'; cameras found: front"):
        next(bag.messages(["back"]))


def test_uncalibrated_camera(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_camera_info("front", 1, Calibration(30, 20, np.zeros((3, 3))))
        bag.write_image("front", 1, picture())
    with bags.open_bag(tmp_path / "bag") as bag, pytest.raises(DataError, match=r"/front/camera_info.*calibrate"):
        list(bag.messages())


# Faults of a bag


def test_missing_bag_names_its_neighbours(good):
    with pytest.raises(DataError, match="no such bag; beside it: good"):
        bags.open_bag(good.parent / "god")


def test_damaged_ros1_bag(tmp_path):
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(DataError, match=r"old\.bag: the bag cannot be read.*rosbag reindex"):
        bags.open_bag(tmp_path / "old.bag")


def test_folder_that_is_no_bag(tmp_path):
    with pytest.raises(DataError, match=r"no \.mcap, \.db3 or \.bag file"):
        bags.open_bag(tmp_path)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_empty_bag(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage):
        pass
    with pytest.raises(DataError, match="holds no messages"):
        bags.open_bag(tmp_path / "bag")


def test_empty_file(tmp_path):
    (tmp_path / "bag.mcap").touch()
    with pytest.raises(DataError, match="an empty file"):
        bags.open_bag(tmp_path / "bag.mcap")


@pytest.mark.parametrize("share", [0.9, 0.5, 0.001])
def test_truncated_mcap(good, tmp_path, share):
    data = (good / "good.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: int(len(data) * share) + 8])
    with pytest.raises(DataError, match=r"cut\.mcap: truncated.*mcap recover"):
        bags.open_bag(tmp_path / "cut.mcap")


def test_truncated_sqlite(tmp_path):
    path = write(tmp_path / "bag", 40, "sqlite3")
    file = path / "bag.db3"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"bag: the bag cannot be read.*damaged"), bags.open_bag(path) as bag:
        list(bag.messages())


def test_something_else_under_the_name_of_a_bag(tmp_path):
    (tmp_path / "bag.mcap").write_bytes(b"hello " * 20)
    with pytest.raises(DataError, match=r"bag\.mcap: not a recording: it starts with b'hello he'"):
        bags.open_bag(tmp_path / "bag.mcap")


def test_damaged_image_is_named_or_reported(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_camera_info("front", 1, Calibration(30, 20, K))
        bag.write_encoded_image("front", 1, images.encode(picture(), "jpeg")[:-40], "jpeg")
        bag.write_image("front", 2, picture())
    with bags.open_bag(tmp_path / "bag") as bag:
        with pytest.raises(DataError, match=r"/front/image_raw/compressed at 1 ns: JPEG image of .* truncated"):
            list(bag.messages())
        errors: list[DataError] = []
        found = [m.stamp_ns for m in bag.messages(damaged=errors.append) if isinstance(m, bags.ImageMessage)]
    assert found == [2] and len(errors) == 1


# The report


def test_report_of_a_good_bag(good):
    info = bag_info(good)
    assert info.missing_to_run == () and info.missing_to_train == ()
    assert info.seconds == pytest.approx(0.9) and info.driven == pytest.approx(9.0)
    (camera,), (lidar,) = info.cameras, info.lidars
    assert (camera.images, camera.rate_hz) == (10, pytest.approx(10)) and lidar.fields == ("x", "y", "z")
    report = str(info)
    assert "front: 10 images of 30 x 20 at 10.0 Hz, plumb_bob, frame front_optical" in report
    assert "  odom\n    base_link (10 at 10.0 Hz)\n      front_optical (static)" in report
    assert "ready to run: yes" in report and "ready to train: yes" in report


def test_report_of_a_bag_without_transforms(tmp_path):
    info = bag_info(write(tmp_path / "bag", tf=False))
    camera, ego = info.missing_to_run
    assert "front cannot be placed" in camera and "'front_optical'" in camera and "'base_link'" in camera
    assert ego.startswith("10 of 10 image sets have no ego pose") and info.driven is None
    assert "ready to run: no" in str(info)


def test_report_of_a_bag_without_camera_info(tmp_path):
    path = write(tmp_path / "bag", info=False)
    missing = bag_info(path).missing_to_run
    assert any("/front/image_raw/compressed have no camera_info" in m and "/front/camera_info" in m for m in missing)
    with bags.open_bag(path) as bag, pytest.raises(DataError, match=r"no camera.*image_raw/compressed"):
        bag.choose_cameras()


def test_report_of_a_vehicle_that_stands(tmp_path):
    assert any("drives only 3.0 m" in m for m in bag_info(write(tmp_path / "bag", 4)).missing_to_train)


# Image payloads


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("rgb8", lambda rgb: rgb),
        ("bgr8", lambda rgb: rgb[..., ::-1]),
        ("rgba8", lambda rgb: np.dstack([rgb, rgb[..., 0]])),
        ("bgra8", lambda rgb: np.dstack([rgb[..., ::-1], rgb[..., 0]])),
    ],
)
def test_raw_colour(encoding, data):
    rgb = picture()
    payload = np.ascontiguousarray(data(rgb)).reshape(20, -1)
    padded = np.hstack([payload, np.zeros((20, 7), np.uint8)])
    found = images.decode_raw(encoding, 20, 30, padded.shape[1], padded.tobytes(), False, "/topic")
    np.testing.assert_array_equal(found, rgb)


def test_raw_grey_of_8_and_16_bits():
    grey = np.ascontiguousarray(picture()[..., 0])
    wide = grey.astype(np.uint16) << 8 | 0x7F
    for encoding, data, big in (("mono8", grey, False), ("mono16", wide, False), ("mono16", wide.byteswap(), True)):
        found = images.decode_raw(encoding, 20, 30, data.strides[0], data.tobytes(), big, "/topic")
        np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=-1))


def test_bayer_pattern():
    """A uniform colour in a mosaic comes back as that colour: red at even rows and columns for rggb."""
    mosaic = np.empty((20, 30), np.uint8)
    mosaic[::2, ::2], mosaic[1::2, 1::2], mosaic[::2, 1::2], mosaic[1::2, ::2] = 200, 30, 90, 90
    found = images.decode_raw("bayer_rggb8", 20, 30, 30, mosaic.tobytes(), False, "/topic")
    assert (found == [200, 90, 30]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "32FC1"}, "'32FC1' is not supported; expected one of rgb8"),
        ({"step": 80}, "80 bytes a row, expected at least 90"),
        ({"data": b"12"}, "payload of 2 bytes, expected 1800"),
        ({"height": 0}, "30 x 0 image"),
    ],
)
def test_wrong_raw_payload(change, message):
    good = {"encoding": "rgb8", "height": 20, "width": 30, "step": 90, "data": bytes(1800)}
    with pytest.raises(DataError, match=f"/topic.*{message}"):
        images.decode_raw(**{**good, **change}, bigendian=False, source="/topic")


def test_compressed_payloads():
    smooth = cv2.GaussianBlur(picture(), (9, 9), 3)
    np.testing.assert_array_equal(images.decode_compressed(images.encode(smooth, "png"), "x"), smooth)
    assert np.abs(images.decode_compressed(images.encode(smooth, "jpeg"), "x").astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_truncated_compressed_payloads(kind, kept):
    data = images.encode(picture(), kind)
    with pytest.raises(DataError, match=f"/topic: {kind.upper()} image of .* truncated"):
        images.decode_compressed(data[: int(len(data) * kept)], "/topic")


@pytest.mark.parametrize("data", [b"", b"GIF89a...", b"\xff\xd8\xff\xe0 no picture \xff\xda \xff\xd9"])
def test_damaged_compressed_payloads(data):
    with pytest.raises(DataError, match="/topic"):
        images.decode_compressed(data, "/topic")


# Point clouds


class Cloud:
    """A cloud of 2 rows of 2 points with padding in the points and in the rows."""

    def __init__(self, big: bool = False):
        order = ">" if big else "<"
        kind = np.dtype(
            {
                "names": ["x", "y", "z", "ring"],
                "formats": [f"{order}f4"] * 3 + [f"{order}u2"],
                "offsets": [0, 4, 8, 16],
                "itemsize": 24,
            }
        )
        self.points = np.zeros((2, 2), kind)
        self.points["x"], self.points["y"], self.points["z"] = [[1, 2], [3, np.nan]], 5, -1
        self.points["ring"] = [[7, 8], [9, 10]]
        rows = np.frombuffer(self.points.tobytes(), np.uint8).reshape(2, 48)
        self.data = np.hstack([rows, np.full((2, 5), 255, np.uint8)]).reshape(-1)
        self.height, self.width, self.point_step, self.row_step, self.is_bigendian = 2, 2, 24, 53, big
        self.fields = [
            type("Field", (), {"name": n, "offset": o, "datatype": d, "count": 1})
            for n, o, d in (("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("ring", 16, 4))
        ]


@pytest.mark.parametrize("big", [False, True])
def test_points_with_padding_and_missing_returns(big):
    cloud = Cloud(big)
    assert pointcloud.to_structured(cloud, "/points")["ring"].tolist() == [7, 8, 9, 10]
    np.testing.assert_array_equal(pointcloud.to_xyz(cloud, "/points"), [[1, 5, -1], [2, 5, -1], [3, 5, -1]])


def test_wrong_point_clouds():
    short, typed, outside, flat = Cloud(), Cloud(), Cloud(), Cloud()
    short.data = short.data[:-10]
    typed.fields[0].datatype = 9
    outside.fields[3].offset = 23
    flat.fields = flat.fields[:2]
    for cloud, message in (
        (short, "96 bytes"),
        (typed, "datatype 9"),
        (outside, "ends at byte 25"),
        (flat, "no field z"),
    ):
        with pytest.raises(DataError, match=f"/points.*{message}"):
            pointcloud.to_xyz(cloud, "/points")
