"""Anybody's recording: what is odd about it is read, or refused with its cause; nothing is believed wrongly.

Each test makes a bag with one property that users of other tools have met, and checks the value that comes out.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from letocc_core.data.bags import reader as bags
from letocc_core.data.bags import storage
from letocc_core.data.bags.info import bag_info, slop_for
from letocc_core.data.bags.recording import Recording, _OneClock, choose_lidar
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.errors import CalibrationError, DataError
from letocc_core.geometry.calibration import validate
from letocc_core.stream import images
from letocc_core.stream.topics import find_cameras, info_names, is_rectified
from letocc_core.stream.types import Calibration

HEIGHT, WIDTH = 24, 32
K = np.array([[20.0, 0, 15.5], [0, 20.0, 11.5], [0, 0, 1]])
LEVEL = Rotation.from_matrix(
    [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
).as_matrix()  # optical axes of a camera that looks ahead
STEP_NS = 10**8


def smooth(seed: int = 0) -> np.ndarray:
    """A picture without fine detail, so that mosaics and halved colours change it little."""
    small = np.random.default_rng(seed).integers(40, 216, (3, 4, 3), np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def ahead(x: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def mount(rotation: np.ndarray = LEVEL) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = rotation
    T[:3, 3] = [1, 0, 1.5]
    return T


class Drive:
    """A bag of one or more cameras that are driven ahead at 10 m/s, ten images a second, written message by message."""

    def __init__(self, path: Path, frames: int = 12, parent: str = "odom", storage: str = "mcap"):
        self.path, self.frames, self.parent, self.storage = path, frames, parent, storage
        self.static = [("base_link", optical_frame("front"), mount())]
        self.steps: list[Callable[[BagWriter, int, int], None]] = []

    def each(self, step: Callable[[BagWriter, int, int], None]) -> "Drive":
        """What to write at each instant: called with the bag, the position and the stamp (ns)."""
        self.steps.append(step)
        return self

    def info(self, topic: str = "/front/camera_info", frame: str = "front_optical", **fields) -> "Drive":
        """Intrinsics on a topic: fields of the message over those of the 32 x 24 image."""
        return self.each(lambda bag, i, stamp: write_info(bag, topic, stamp, frame, **fields))

    def jpeg(self, topic: str = "/front/image_raw/compressed", frame: str = "front_optical", **options) -> "Drive":
        """A compressed image on a topic; `delay` (s), `format` and `data` as asked for."""
        return self.each(lambda bag, i, stamp: write_compressed(bag, topic, stamp, frame, i, **options))

    def raw(self, topic: str, encoding: str, rows: np.ndarray, frame: str = "front_optical", **fields) -> "Drive":
        """The same raw image again and again."""
        return self.each(lambda bag, i, stamp: write_raw(bag, topic, stamp, frame, encoding, rows, **fields))

    def write(self, poses: bool = True) -> Path:
        with BagWriter(self.path, self.storage) as bag:
            bag.write_tf_static(STEP_NS, self.static)
            for i in range(self.frames):
                stamp = STEP_NS * (i + 1)
                if poses:
                    bag.write_tf(stamp, self.parent, "base_link", ahead(i))
                for step in self.steps:
                    step(bag, i, stamp)
        return self.path


def write_info(bag: BagWriter, topic: str, stamp: int, frame: str, **fields) -> None:
    matrix = np.asarray(fields.pop("k", K), np.float64)
    projection = np.asarray(fields.pop("p", np.hstack([matrix, np.zeros((3, 1))])), np.float64)
    roi = bag.message("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    about = {
        "height": HEIGHT,
        "width": WIDTH,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": matrix.reshape(-1),
        "r": np.eye(3).reshape(-1),
        "p": projection.reshape(-1),
        "binning_x": 0,
        "binning_y": 0,
        "roi": roi,
    }
    about["d"] = np.asarray(fields.pop("d", about["d"]), np.float64)
    bag.write(topic, bags.CAMERA_INFO, stamp, header=bag.header(stamp, frame), **(about | fields))


def write_compressed(
    bag: BagWriter, topic: str, stamp: int, frame: str, seed: int, delay: float = 0.0, format="png", data=None
) -> None:
    data = images.encode(smooth(seed), "png") if data is None else data
    stamp += round(delay * 1e9)
    values = np.frombuffer(data, np.uint8)
    bag.write(topic, bags.COMPRESSED, stamp, header=bag.header(stamp, frame), format=format, data=values)


def write_raw(bag: BagWriter, topic: str, stamp: int, frame: str, encoding: str, rows: np.ndarray, **fields) -> None:
    about = {"height": HEIGHT, "width": WIDTH, "is_bigendian": 0, "step": rows.strides[0]} | fields
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    bag.write(topic, bags.IMAGE, stamp, header=bag.header(stamp, frame), encoding=encoding, data=data, **about)


def good(path: Path, **options) -> Path:
    return Drive(path, **options).info().jpeg().write()


def calibrations(path: Path) -> dict[str, Calibration]:
    with bags.open_bag(path) as bag:
        return {m.camera: m.calibration for m in bag.messages() if isinstance(m, bags.CalibrationMessage)}


def pictures(path: Path) -> list[np.ndarray]:
    with bags.open_bag(path) as bag:
        return [m.image for m in bag.messages() if isinstance(m, bags.ImageMessage)]


# The right intrinsics for the right image


@pytest.mark.parametrize(
    ("image", "infos", "right"),
    [
        ("image_raw/compressed", ("camera_info", "camera_info_rect"), "camera_info"),
        ("image_raw", ("camera_info_rect", "camera_info", "camera_info_z"), "camera_info"),
        ("image_rect_color/compressed", ("camera_info", "camera_info_raw"), "camera_info"),
        ("image_rect", ("camera_info", "camera_info_rect"), "camera_info_rect"),
        ("image_rect_color", ("camera_info", "camera_info_rect", "camera_info_rect_color"), "camera_info_rect_color"),
        ("image_raw", ("camera_info", "camera_info_raw"), "camera_info_raw"),
        ("image_color/compressed", ("camera_info",), "camera_info"),
        ("raw", ("camera_info",), "camera_info"),
        ("compressed", ("camera_info",), "camera_info"),
        ("image_raw", ("camera_info_rect",), None),
        ("image_rect", ("camera_info_raw",), None),
    ],
)
def test_which_camera_info_belongs_to_an_image(image, infos, right):
    found = list(find_cameras({f"/a/b/{name}" for name in infos}, [f"/a/b/{image}"]))
    assert [(c.name, c.info_topic, c.image_topic) for c in found] == (
        [("a/b", f"/a/b/{right}", f"/a/b/{image}")] if right else []
    )


def test_of_several_images_the_raw_compressed_one_is_taken():
    topics = ["/a/image_rect/compressed", "/a/image_raw", "/a/image_raw/compressed", "/a/left/image_raw", "/a/image"]
    (found,) = find_cameras({"/a/camera_info"}, topics)
    assert found.image_topic == "/a/image_raw/compressed" and not found.rectified
    assert info_names("image") == ("camera_info",)
    assert [is_rectified(n) for n in ("image_rect", "image_rectified", "image_corrected", "direct")] == [
        True,
        True,
        False,
        False,
    ]


def test_raw_images_keep_their_distortion_beside_a_rectified_camera_info(tmp_path):
    D = np.array([-0.3, 0.1, 0, 0, 0])
    drive = Drive(tmp_path / "bag").jpeg().info(d=D).info("/front/camera_info_rect", k=np.diag([16.0, 16, 1]))
    path = drive.write()
    assert calibrations(path)["front"] == Calibration(WIDTH, HEIGHT, K, D)
    assert "/front/image_raw/compressed with /front/camera_info\n" in str(bag_info(path))


def test_rectified_images_take_the_projection_matrix_of_their_own_info(tmp_path):
    other = K * [[0.8], [0.8], [1]]
    drive = Drive(tmp_path / "bag").jpeg("/front/image_rect_color/compressed")
    drive.info(d=[0.1, 0, 0, 0, 0], p=np.hstack([other, np.zeros((3, 1))])).info("/front/camera_info_raw")
    path = drive.write()
    assert calibrations(path)["front"] == Calibration(WIDTH, HEIGHT, other)
    assert ", rectified, frame front_optical" in str(bag_info(path))


def test_a_rectified_camera_without_projection_matrix(tmp_path):
    path = Drive(tmp_path / "bag").jpeg("/front/image_rect/compressed").info(p=np.zeros((3, 4))).write()
    assert calibrations(path)["front"] == Calibration(WIDTH, HEIGHT, K)


def test_images_without_intrinsics_of_their_own_are_named(tmp_path):
    path = good(tmp_path / "bag")
    other = Drive(tmp_path / "other").info().jpeg().jpeg("/rear/raw/compressed", "rear_optical").write()
    assert bag_info(path).missing_to_run == ()
    (sentence,) = bag_info(other).missing_to_run
    assert "/rear/raw/compressed have no camera_info beside them: record /rear/camera_info" in sentence


@pytest.mark.parametrize("image", ["/image_raw", "/image_raw/compressed", "/image_rect/compressed"])
def test_a_camera_without_a_namespace(tmp_path, image):
    """As v4l2_camera and usb_cam publish by default."""
    drive = Drive(tmp_path / "bag")
    drive = drive.jpeg(image) if image.endswith("compressed") else drive.raw(image, "rgb8", smooth())
    info = bag_info(drive.info("/camera_info").write())
    assert [(c.name, c.image_topic, c.info_topic) for c in info.cameras] == [("root_camera", image, "/camera_info")]
    assert info.missing_to_run == () and info.grouping.complete == 12
    assert f"-r root_camera{image}:={image} -r root_camera/camera_info:=/camera_info" in info.notes[0]
    assert len(list(Recording(tmp_path / "bag", ["root_camera"]))) == 12
    without = bag_info(Drive(tmp_path / "without").jpeg(image).write())
    assert any("have no camera_info beside them: record /camera_info" in text for text in without.missing_to_run)


@pytest.mark.parametrize(
    ("image", "note"),
    [
        ("image_raw/compressed", None),
        ("image_color/compressed", "a node hears these images with image_topic:=image_color"),
        ("image_raw", "a node hears these images with transport:=raw"),
        ("image_rect", "a node hears these images with image_topic:=image_rect transport:=raw"),
        ("compressed", "one name for all cameras; remap /front/compressed"),
    ],
)
def test_how_a_node_hears_the_images_is_said(tmp_path, image, note):
    drive = Drive(tmp_path / "bag").info()
    topic = f"/front/{image}"
    path = (drive.jpeg(topic) if image.endswith("compressed") else drive.raw(topic, "rgb8", smooth())).write()
    notes = bag_info(path).notes
    assert notes == () if note is None else note in notes[-1]


def test_the_raw_and_the_rectified_images_of_one_camera(tmp_path):
    """As ZED publishes them, in two namespaces with one frame."""
    drive = Drive(tmp_path / "bag").jpeg("/zed/left/image_rect/compressed").info("/zed/left/camera_info")
    path = drive.jpeg("/zed/left_raw/image_raw/compressed").info("/zed/left_raw/camera_info").write()
    assert "if they are images of one camera, leave one out: --cameras" in bag_info(path).missing_to_run[0]
    assert bag_info(path, ["zed/left"]).missing_to_run == ()


def realsense(path: Path) -> Path:
    """Colour, depth, and depth in the frame of the colour camera."""
    depth = np.full((HEIGHT, WIDTH), 2500, np.uint16)
    drive = Drive(path).jpeg("/camera/color/image_raw/compressed").info("/camera/color/camera_info")
    drive.raw("/camera/depth/image_rect_raw", "16UC1", depth, "depth_optical")
    drive.info("/camera/depth/camera_info", "depth_optical")
    drive.raw("/camera/aligned_depth_to_color/image_raw", "16UC1", depth).info(
        "/camera/aligned_depth_to_color/camera_info"
    )
    drive.static.append(("base_link", "depth_optical", mount()))
    return drive.write()


def test_depth_images_are_no_cameras(tmp_path):
    path = realsense(tmp_path / "bag")
    info = bag_info(path)
    assert [c.name for c in info.cameras] == ["camera/color"] and info.missing_to_run == ()
    assert info.left_out["/camera/depth/image_rect_raw"] == "depth or another measurement (16UC1)"
    assert "/camera/aligned_depth_to_color/image_raw: depth" in str(info)
    assert Recording(path).cameras == ("camera/color",)
    with pytest.raises(DataError, match=r"no camera 'camera/depth'.*/camera/depth/image_rect_raw is depth.*--cameras"):
        Recording(path, ["camera/depth"])


@pytest.mark.parametrize(
    ("topic", "encoding"),
    [
        ("/front/depth/image_raw", "32FC1"),
        ("/front/depth/image_raw", "mono16"),
        ("/front/segmentation/image_raw", "mono8"),
        ("/front/semantic_labels/image_raw", "8UC1"),
        ("/front/confidence/image", "32FC1"),
    ],
)
def test_masks_and_measurements_are_left_out(tmp_path, topic, encoding):
    kind = {"32FC1": np.float32, "mono16": np.uint16}.get(encoding, np.uint8)
    drive = Drive(tmp_path / "bag").jpeg().info().raw(topic, encoding, np.ones((HEIGHT, WIDTH), kind), "other")
    info = bag_info(drive.info(f"{topic.rpartition('/')[0]}/camera_info", "other").write())
    assert [c.name for c in info.cameras] == ["front"] and list(info.left_out) == [topic]
    assert info.missing_to_run == ()


def test_compressed_depth_is_no_camera_and_a_mask_is_one_when_asked_for(tmp_path):
    drive = Drive(tmp_path / "bag").jpeg().info()
    drive.jpeg("/d/image/compressedDepth", format="16UC1; compressedDepth").info("/d/camera_info")
    drive.jpeg("/mask/image_raw/compressed").info("/mask/camera_info", "mask_optical")
    path = drive.write()
    assert list(bag_info(path).left_out) == ["/d/image/compressedDepth", "/mask/image_raw/compressed"]
    assert Recording(path, ["mask"]).cameras == ("mask",)
    assert [c.name for c in bag_info(path, ["front", "mask"]).cameras] == ["front", "mask"]


def test_a_colour_camera_whose_name_speaks_of_depth(tmp_path):
    drive = Drive(tmp_path / "bag").raw("/depth_camera/image_raw", "rgb8", smooth()).info("/depth_camera/camera_info")
    assert [c.name for c in bag_info(drive.write()).cameras] == ["depth_camera"]


@pytest.mark.parametrize(
    ("rotation", "problem"),
    [
        (np.eye(3), "would look up.*body frame"),
        (Rotation.from_euler("z", 90, degrees=True).as_matrix(), "would look up"),
        (LEVEL @ np.diag([1, -1, -1]), "stand on its head"),  # OpenGL: y up, z backward
        (LEVEL, None),
        (Rotation.from_euler("zy", [120, 35], degrees=True).as_matrix() @ LEVEL, None),
    ],
)
def test_frames_that_are_no_optical_frames(tmp_path, rotation, problem):
    drive = Drive(tmp_path / "bag").info().jpeg()
    drive.static = [("base_link", "front_optical", mount(rotation))]
    found = " ".join(bag_info(drive.write()).missing_to_run)
    if problem is None:
        assert found == ""
    else:
        assert re.search(problem, found)


def test_an_inverted_mount_is_pointed_out(tmp_path):
    drive = Drive(tmp_path / "bag").info().jpeg()
    drive.static = [("base_link", "front_optical", mount(LEVEL.T))]
    assert "lies on its side" in bag_info(drive.write()).notes[0]


def test_intrinsics_of_another_size(tmp_path):
    wrong = Drive(tmp_path / "wrong").info(width=64, height=48).jpeg().write()
    (sentence, *_) = bag_info(wrong).missing_to_run
    assert (
        "images on /front/image_raw/compressed are of 32 x 24 px, but /front/camera_info is of 64 x 48 px" in sentence
    )
    halved = Drive(tmp_path / "halved").info(width=16, height=12, binning_x=2, binning_y=2).jpeg().write()
    (sentence, *_) = bag_info(halved).missing_to_run
    assert "is of 8 x 6 px (it says 16 x 12 px with a binning of 2 x 2); they must describe the same image" in sentence
    scaled = Drive(tmp_path / "scaled").info(k=np.diag([2.0, 2, 1]) @ K).jpeg().write()
    info = bag_info(scaled)
    assert info.missing_to_run == () and "principal point (32, 24) px lies far off" in info.notes[0]
    assert bag_info(good(tmp_path / "good")).notes == ()


D5 = [-0.3, 0.1, 0.01, 0.02, 0.03]


@pytest.mark.parametrize(
    ("model", "D", "expected"),
    [
        ("plumb_bob", [*D5, 0, 0, 0], ("plumb_bob", D5)),
        ("plumb_bob", [*D5[:4]], ("plumb_bob", D5[:4])),
        ("radtan", D5, ("plumb_bob", D5)),
        ("", D5, ("plumb_bob", D5)),
        ("rational_polynomial", D5, ("rational_polynomial", D5)),
        ("rational_polynomial", [*D5, 0.1, 0.2, 0.3, 0, 0, 0], ("rational_polynomial", [*D5, 0.1, 0.2, 0.3])),
        ("fisheye", D5[:4], ("equidistant", D5[:4])),
        ("Kannala_Brandt", [*D5[:4], 0], ("equidistant", D5[:4])),
    ],
)
def test_distortion_as_drivers_write_it(tmp_path, model, D, expected):
    found = calibrations(Drive(tmp_path / "bag").info(distortion_model=model, d=D).jpeg().write())["front"]
    assert (found.distortion_model, found.D.tolist()) == expected
    validate(found, "front")


def test_more_coefficients_than_a_model_has(tmp_path):
    path = Drive(tmp_path / "bag").info(d=[*D5, 0.1, 0.2, 0.3]).jpeg().write()
    with bags.open_bag(path) as bag, pytest.raises(DataError, match=r"8 .*'plumb_bob'.*'rational_polynomial'"):
        list(bag.messages())


# Images as they are


def mosaic(rgb: np.ndarray) -> np.ndarray:
    """RGGB."""
    out = rgb[..., 1].copy()
    out[0::2, 0::2], out[1::2, 1::2] = rgb[0::2, 0::2, 0], rgb[1::2, 1::2, 2]
    return out


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed_mosaics_are_demosaiced(tmp_path, kind):
    rgb = smooth()
    data = cv2.imencode(f".{kind}", mosaic(rgb), [cv2.IMWRITE_JPEG_QUALITY, 98] if kind == "jpeg" else [])[1].tobytes()
    path = Drive(tmp_path / "bag", 3).info().jpeg(data=data, format=f"bayer_rggb8; {kind} compressed ").write()
    difference = np.abs(pictures(path)[0].astype(int) - rgb)
    assert difference[2:-2, 2:-2].mean() < 4 and difference.max() < 70
    assert np.abs(rgb[..., 0].astype(int) - rgb[..., 2]).mean() > 20  # which no grey picture could be near to


def test_encodings_in_capitals():
    rgb = smooth()
    data = cv2.imencode(".png", mosaic(rgb))[1].tobytes()
    lower, upper = (images.decode_compressed(data, "t", name) for name in ("bayer_rggb8; png", "BAYER_RGGB8; png"))
    np.testing.assert_array_equal(lower, upper)
    assert np.abs(upper.astype(int) - rgb).mean() < 4
    raw = rgb.tobytes()
    for name in ("rgb8", "RGB8", "Rgb8 ", "8uc3"):
        found = images.decode_raw(name, HEIGHT, WIDTH, 3 * WIDTH, raw, False, "t")
        np.testing.assert_array_equal(found, rgb[..., ::-1] if name == "8uc3" else rgb)
    with pytest.raises(DataError, match="'BAYER_XXXX8', which is not a known mosaic"):
        images.decode_compressed(data, "t", "BAYER_XXXX8; png")


def test_a_mosaic_that_was_made_colour_before_compression_stays_as_it_is():
    rgb = smooth()
    data = images.encode(rgb, "png")
    np.testing.assert_array_equal(images.decode_compressed(data, "t", "bayer_rggb8; png compressed bgr8"), rgb)
    grey = cv2.imencode(".png", rgb[..., 1])[1].tobytes()
    with pytest.raises(DataError, match="'bayer_xxxx8', which is not a known mosaic"):
        images.decode_compressed(grey, "t", "bayer_xxxx8; png compressed")


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "NV12", "i420", "yv12"])
def test_brightness_and_colour_in_planes(encoding, padding):
    rgb = smooth()
    planes = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    count = HEIGHT * WIDTH
    y, u, v = planes[:count], planes[count : count * 5 // 4], planes[count * 5 // 4 :]

    def padded(values: np.ndarray, width: int, more: int) -> np.ndarray:
        return np.pad(values.reshape(-1, width), ((0, 0), (0, more)), constant_values=99).reshape(-1)

    first, second = (u, v) if encoding.lower() in ("nv12", "i420") else (v, u)
    if encoding.lower().startswith("nv"):
        colour = padded(np.stack([first, second], -1).reshape(-1), WIDTH, padding)
    else:
        colour = np.concatenate([padded(plane, WIDTH // 2, padding // 2) for plane in (first, second)])
    data = np.concatenate([padded(y, WIDTH, padding), colour])
    found = images.decode_raw(encoding, HEIGHT, WIDTH, WIDTH + padding, data, False, "t")
    assert np.abs(found.astype(int) - rgb).mean() < 6
    with pytest.raises(DataError, match="expected even numbers of pixels and 1152 bytes"):
        images.decode_raw(encoding, HEIGHT, WIDTH, WIDTH, data[:-200], False, "t")


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuyv", (0, 1, 2, 3)), ("yuv422_yuy2", (0, 1, 2, 3)), ("uyvy", (1, 0, 3, 2))]
)
def test_pairs_of_pixels(encoding, order):
    yuv = np.array([150, 100, 60, 180])  # Y0 U Y1 V
    pair = yuv[list(order)].astype(np.uint8)
    found = images.decode_raw(encoding, 1, 2, 4, pair, False, "t")[0].astype(float)
    for pixel, y in zip(found, (150, 60), strict=True):  # ITU-R BT.601, studio range
        luma = 1.164 * (y - 16)
        expected = [luma + 1.596 * 52, luma - 0.813 * 52 + 0.392 * 28, luma - 2.017 * 28]
        np.testing.assert_allclose(pixel, np.clip(expected, 0, 255), atol=1.5)


@pytest.mark.parametrize(("largest", "bits"), [(1023, 10), (4095, 12), (16383, 14), (65535, 16)])
def test_16_bit_images_use_as_many_bits_as_their_values(tmp_path, largest, bits):
    ramp = np.linspace(0, largest, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    path = Drive(tmp_path / "bag", 3).info().raw("/front/image_raw", "mono16", ramp).write()
    found = pictures(path)[0][..., 0]
    np.testing.assert_array_equal(found, (ramp >> (bits - 8)).astype(np.uint8))
    assert found.max() == 255
    said = [note for note in bag_info(path).notes if "16-bit" in note]
    assert said == [] if bits == 16 else f"front: 16-bit images of which {bits} bits are used" in said[0]


def test_the_encoding_says_how_many_bits_and_a_brighter_image_corrects_a_darker_one():
    values = np.full((2, 2), 800, np.uint16)

    def decoded(encoding: str, values: np.ndarray, depth: images.BitDepth | None = None) -> int:
        return int(images.decode_raw(encoding, 2, 2, 4, values.view(np.uint8), False, "t", depth)[0, 0, 0])

    assert decoded("mono12", values) == 800 >> 4 and decoded("mono16", values) == 800 >> 2
    depth = images.BitDepth()
    assert [decoded("mono16", v, depth) for v in (values, values * 5, values)] == [800 >> 2, 4000 >> 4, 800 >> 4]
    data = cv2.imencode(".png", np.full((2, 2), 3000, np.uint16))[1].tobytes()
    assert images.decode_compressed(data, "t", "mono16; png compressed")[0, 0].tolist() == [3000 >> 4] * 3


@pytest.mark.parametrize(
    ("format", "data", "name"),
    [
        ("h264", b"\0\0\0\1\x67\x64", "H.264"),
        ("rgb8; hevc", b"anything", "H.265"),
        ("jpeg", b"\0\0\1\x40\1", "H.265"),
        ("jpeg", b"\0\0\0\1\x67", "H.264"),
    ],
)
def test_video_is_refused_with_the_command_that_converts_it(tmp_path, format, data, name):
    path = Drive(tmp_path / "bag", 3).info().jpeg(data=data + bytes(90), format=format).write()
    info = bag_info(path)
    assert any(f"{name} video" in s and "letocc bag images BAG --out NEW" in s for s in info.missing_to_run)


# Ready only if it is


def test_an_image_that_cannot_be_decoded_is_not_ready(tmp_path):
    path = (
        Drive(tmp_path / "bag").info().raw("/front/image_raw", "jpeg2000", np.zeros((HEIGHT, WIDTH), np.uint8)).write()
    )
    assert any("encoding 'jpeg2000' is not supported" in sentence for sentence in bag_info(path).missing_to_run)


def three(path: Path, delays: Sequence[float]) -> Path:
    """Cameras a, b, c whose images come later than the instant by `delays` (s)."""
    drive = Drive(path, 15)
    drive.static = [("base_link", optical_frame(name), mount()) for name in "abc"]
    for name, delay in zip("abc", delays, strict=True):
        drive.jpeg(f"/{name}/image_raw/compressed", optical_frame(name), delay=delay)
        drive.info(f"/{name}/camera_info", optical_frame(name))
    drive.each(lambda bag, i, stamp: bag.write_tf(stamp + STEP_NS // 2, "odom", "base_link", ahead(i + 0.5)))
    return drive.write()


def test_cameras_that_do_not_fire_together(tmp_path):
    path = three(tmp_path / "bag", (0, 0.031, -0.03))
    info = bag_info(path)
    assert [round(c.offset, 3) for c in info.cameras] == [0, 0.031, -0.03]
    assert "b: 15 images" in str(info) and "+31 ms from a" in str(info)
    (sentence,) = info.missing_to_run
    assert (
        "from a, b +31 ms, c -30 ms, with a slop of 0.02 s" in sentence and "--slop 0.035 groups 15 of 15" in sentence
    )
    assert info.grouping.complete == 0 and "ready to run: no" in str(info)
    grouped = bag_info(path, slop=0.035)
    assert grouped.missing_to_run == () and grouped.grouping.complete == grouped.grouping.sets >= 14
    sets = list(Recording(path, slop=0.035))
    assert len(sets) >= 14 and all(image is not None for item in sets for image in item.frame_set.images)


@pytest.mark.parametrize(
    ("delays", "order", "slop"),
    [
        ((0, 0.031, -0.03), "abc", 0.035),
        ((0, 0.031, -0.03), "ba", 0.035),
        ((0.02, 0.0, -0.03), "ba", 0.02),  # what is given suffices
        ((0, 0.004, 0.0), "abc", 0.02),
        ((0, 0, 0.0), "a", 0.02),
        ((0, 0, 1e6), "abc", 0.02),  # no slop makes these more
    ],
)
def test_the_slop_that_a_recording_needs(tmp_path, delays, order, slop):
    path = three(tmp_path / "bag", delays)
    topics = [f"/{name}/image_raw/compressed" for name in order]
    assert slop_for(path, topics) == slop
    assert slop_for(path, [*topics, "/d/image_raw/compressed"], 0.07) == 0.07
    assert slop_for(path, ["/d/image_raw/compressed", *topics]) == 0.02  # without its anchor, nobody knows


def test_the_anchor_that_lies_in_the_middle_is_proposed(tmp_path):
    info = bag_info(three(tmp_path / "bag", (-0.045, 0.0, 0.045)))
    assert "--cameras b,a,c --slop 0.05 groups 15 of 15" in " ".join(info.missing_to_run)


def test_cameras_of_two_clocks(tmp_path):
    info = bag_info(three(tmp_path / "bag", (0, 0, 1e6)))
    assert any("c" in sentence for sentence in info.missing_to_run) and "ready to run: no" in str(info)


def with_two_parents(path: Path) -> Path:
    """A map frame on /tf, drifting odometry as a message: both say where base_link is."""
    drive = Drive(path, parent="map").info().jpeg()
    drive.each(lambda bag, i, stamp: bag.write_odometry("/odom", stamp, "odom", "base_link", ahead(2 * i)))
    return drive.write()


def test_chosen_odometry_wins_over_transforms(tmp_path):
    path = with_two_parents(tmp_path / "bag")
    assert bag_info(path).odometry_topic == "/odom" and bag_info(path).missing_to_run == ()
    by_odometry = [item.frame_set for item in Recording(path)]
    np.testing.assert_allclose([s.T_world_ego[0, 3] for s in by_odometry], 2 * np.arange(12), atol=1e-6)
    by_transforms = [item.frame_set for item in Recording(path, fixed_frame="map")]
    np.testing.assert_allclose([s.T_world_ego[0, 3] for s in by_transforms], np.arange(12), atol=1e-6)
    with_map = [item.frame_set for item in Recording(path, odometry_topic="/odom")]
    np.testing.assert_allclose([s.T_world_ego[0, 3] for s in with_map], 2 * np.arange(12), atol=1e-6)
    assert bag_info(path).driven == pytest.approx(22.0)


def test_two_parents_on_tf_are_named(tmp_path):
    drive = good_drive = Drive(tmp_path / "bag", parent="map").info().jpeg()
    good_drive.each(lambda bag, i, stamp: bag.write_tf(stamp, "odom", "base_link", ahead(2 * i)))
    sentences = bag_info(drive.write()).missing_to_run
    assert any("'base_link' has several parents, map and odom" in s and "--odometry-topic" in s for s in sentences)


def test_frames_of_other_names_are_named_with_the_option(tmp_path):
    drive = Drive(tmp_path / "bag").info().jpeg()
    drive.each(lambda bag, i, stamp: bag.write_odometry("/Odometry", stamp, "camera_init", "body", ahead(i)))
    path = drive.write(poses=False)
    found = " ".join(bag_info(path).missing_to_run)
    assert "'body'" in found and "--base-frame body" in found
    world = good(tmp_path / "world", parent="world")
    found = " ".join(bag_info(world).missing_to_run)
    assert "frames seen: base_link, front_optical, world" in found and "--fixed-frame NAME" in found
    assert bag_info(world, fixed_frame="world").missing_to_run == ()
    with pytest.raises(DataError, match=r"frames seen: .*world.*--fixed-frame"):
        list(Recording(world))


def test_odometry_of_a_frame_above_the_base_frame(tmp_path):
    """FAST-LIO's `body` is the root of the vehicle's own tree."""
    drive = Drive(tmp_path / "bag").info().jpeg()
    drive.static.append(("body", "base_link", ahead(0.5)))
    drive.each(lambda bag, i, stamp: bag.write_odometry("/Odometry", stamp, "camera_init", "body", ahead(i)))
    path = drive.write(poses=False)
    sets = [item.frame_set for item in Recording(path, fixed_frame="camera_init")]
    np.testing.assert_allclose([s.T_world_ego[0, 3] for s in sets], np.arange(12) + 0.5, atol=1e-6)


# One odd topic does not spoil a bag


def content(path: Path) -> tuple[list, list, list]:
    """Schemas, channels and messages of a bag, for `write_mcap`."""
    with bags.open_bag(path) as bag:
        schemas, channels = {}, []
        for c in bag.connections:
            schemas.setdefault(c.msgtype, (len(schemas) + 1, c.msgtype, "ros2msg", c.msgdef.data.encode()))
            channels.append((c.id, schemas[c.msgtype][0], c.topic, "cdr"))
        messages = [(c.id, ns, bytes(data)) for c, ns, data in bag.serialized([c.topic for c in bag.connections])]
    return list(schemas.values()), channels, messages


def write_mcap(path: Path, profile: str, schemas: list, channels: list, messages: list) -> Path:
    """Without chunks and summary, by the specification's records."""

    def text(value: str | bytes) -> bytes:
        value = value.encode() if isinstance(value, str) else value
        return struct.pack("<I", len(value)) + value

    def record(kind: int, body: bytes) -> bytes:
        return bytes([kind]) + struct.pack("<Q", len(body)) + body

    with path.open("wb") as file:
        file.write(b"\x89MCAP0\r\n" + record(1, text(profile) + text("test")))
        for number, name, encoding, data in schemas:
            file.write(record(3, struct.pack("<H", number) + text(name) + text(encoding) + text(data)))
        for number, schema, topic, encoding in channels:
            file.write(record(4, struct.pack("<HH", number, schema) + text(topic) + text(encoding) + text("")))
        for channel, stamp, data in messages:
            file.write(record(5, struct.pack("<HIQQ", channel, 0, stamp, stamp) + data))
        file.write(record(15, bytes(4)) + record(2, bytes(20)) + b"\x89MCAP0\r\n")
    return path


STRAYS = {
    "protobuf": ((90, "foxglove.ImageAnnotations", "protobuf", b"\n\xff\xfe\x00dummy"), "protobuf", b"\x08\x01"),
    "json": ((90, "Diagnostics", "jsonschema", b"{}"), "json", b"{}"),
    "flatbuffer": ((90, "Thing", "flatbuffer", b"\x90\x91"), "flatbuffer", b"\0\0"),
    "empty_schema": ((90, "my_msgs/msg/State", "", b""), "cdr", b"\0\1\0\0"),
    "wrong_schema": ((90, "my_msgs/msg/State", "ros2msg", b"this is ; no definition"), "cdr", b"\0\1\0\0"),
}


@pytest.mark.parametrize("profile", ["ros2", ""])
@pytest.mark.parametrize("stray", STRAYS)
def test_a_stray_channel(tmp_path, stray, profile):
    schemas, channels, messages = content(good(tmp_path / "bag"))
    schema, encoding, data = STRAYS[stray]
    file = write_mcap(
        tmp_path / "stray.mcap",
        profile,
        [*schemas, schema],
        [*channels, (90, 90, "/stray", encoding)],
        [*messages[:9], (90, messages[9][1], data), *messages[9:]],
    )
    info = bag_info(file)
    assert info.missing_to_run == () and info.cameras[0].images == 12
    assert info.left_out == ({} if encoding == "cdr" else {"/stray": f"encoded as {encoding}"})
    assert len(list(Recording(file))) == 12


def test_definitions_that_are_lost_are_those_of_ros(tmp_path):
    schemas, channels, messages = content(good(tmp_path / "bag"))
    empty = [(number, name, "", b"") for number, name, _, _ in schemas]
    assert len(list(Recording(write_mcap(tmp_path / "empty.mcap", "ros2", empty, channels, messages)))) == 12


def test_a_recording_in_protobuf_says_so(tmp_path):
    schema = [(1, "foxglove.CompressedImage", "protobuf", b"\n\x05")]
    file = write_mcap(tmp_path / "a.mcap", "", schema, [(1, 1, "/CAM_FRONT", "protobuf")], [(1, 5, b"\x08\x01")])
    with pytest.raises(DataError, match=r"/CAM_FRONT is encoded as protobuf; expected messages of ROS") as caught:
        bag_info(file)
    assert "damaged" not in str(caught.value)


def test_ros1_in_mcap(tmp_path):
    source = good(tmp_path / "bag")
    _, channels, messages = content(source)
    ros1 = get_typestore(Stores.ROS1_NOETIC)
    ros1.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", bags.TRANSFORMS[0]))
    ros2 = get_typestore(Stores.ROS2_KILTED)
    with bags.open_bag(source) as bag:
        kinds = {c.id: c.msgtype for c in bag.connections}
    names = sorted(set(kinds.values()))
    schemas = [
        (i + 1, kind.replace("/msg/", "/"), "ros1msg", ros1.generate_msgdef(kind)[0].encode())
        for i, kind in enumerate(names)
    ]
    file = write_mcap(
        tmp_path / "old.mcap",
        "ros1",
        schemas,
        [(number, names.index(kinds[number]) + 1, topic, "ros1") for number, _, topic, _ in channels],
        [(number, stamp, bytes(ros2.cdr_to_ros1(data, kinds[number]))) for number, stamp, data in messages],
    )
    assert len(list(Recording(file))) == 12
    np.testing.assert_array_equal(pictures(file)[5], pictures(source)[5])


def test_point_clouds_that_drivers_fill_sparingly(tmp_path):
    points = np.random.default_rng(0).uniform(2, 9, (7, 3)).astype(np.float32)

    def cloud(bag: BagWriter, topic: str, stamp: int, **changes) -> None:
        fields = [
            bag.message("sensor_msgs/msg/PointField", name=name, offset=4 * i, datatype=7, count=1)
            for i, name in enumerate("xyz")
        ]
        about = {"height": 1, "width": 7, "fields": fields, "is_bigendian": False, "point_step": 12, "row_step": 84}
        about |= {"data": points.view(np.uint8).reshape(-1), "is_dense": True} | changes
        bag.write(topic, bags.POINTS, stamp, header=bag.header(stamp, "base_link"), **about)

    empty = {"width": 0, "fields": [], "point_step": 0, "row_step": 0, "data": np.zeros(0, np.uint8)}
    drive = Drive(tmp_path / "bag").info().jpeg()
    drive.each(lambda bag, i, stamp: cloud(bag, "/velodyne", stamp, row_step=0))
    drive.each(lambda bag, i, stamp: cloud(bag, "/obstacles", stamp, **empty) if i == 0 else None)
    drive.each(lambda bag, i, stamp: cloud(bag, "/camera/depth/points", stamp))
    path = drive.write()
    info = bag_info(path)
    assert info.lidar_topic == "/velodyne" and info.left_out == {"/obstacles": "its clouds are empty"}
    assert info.missing_to_run == () and [s.points for s in info.lidars] == [7, 7]
    sweeps = [item.sweep for item in Recording(path)]
    np.testing.assert_allclose(sweeps[3].points, points, atol=1e-5)
    with bags.open_bag(path) as bag, pytest.raises(DataError, match=r"no point clouds on /obstacles.*empty"):
        choose_lidar(bag, "/obstacles")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("profiles", ["", "- history: banana", None])
def test_metadata_that_was_edited(tmp_path, storage, profiles):
    path = good(tmp_path / "bag", storage=storage)
    about = yaml.safe_load((path / "metadata.yaml").read_text())
    topics = about["rosbag2_bagfile_information"]["topics_with_message_count"]
    for topic in topics:
        topic["topic_metadata"]["offered_qos_profiles"] = profiles
        topic["message_count"] = 0
    (path / "metadata.yaml").write_text(yaml.safe_dump(about))
    assert len(list(Recording(path))) == 12 and bag_info(path).missing_to_run == ()


@pytest.mark.parametrize("text", ["", "a: [", "rosbag2_bagfile_information: 3", "\ufeff"])
def test_metadata_that_cannot_be_read_is_gone_without(tmp_path, text):
    path = good(tmp_path / "bag")
    (path / "metadata.yaml").write_text(text)
    info = bag_info(path)
    assert info.missing_to_run == () and "metadata.yaml cannot be read" in info.notes[0]


@pytest.mark.parametrize("name", ["run#3", "what?", "50%20done", "with space", "übung", os.fsdecode(b"latin_\xfc")])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_names_of_any_kind(tmp_path, name, storage):
    folder = good(tmp_path / "bag", storage=storage).rename(tmp_path / name)
    file = next(p for p in folder.iterdir() if p.suffix in (".mcap", ".db3"))
    renamed = file.rename(folder / f"{name}{file.suffix}")
    for path in (folder, renamed):
        info = bag_info(path)
        assert info.missing_to_run == () and info.cameras[0].images == 12
        str(info).encode("utf-8")


def test_a_write_ahead_log_beside_the_database(tmp_path):
    """A recorder that was killed leaves messages in it; also where the folder cannot be written."""
    folder = good(tmp_path / "bag", storage="sqlite3")
    file = next(folder.glob("*.db3"))
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    (topic,) = database.execute("SELECT id FROM topics WHERE name LIKE '%image_raw%'").fetchone()
    (data,) = database.execute("SELECT data FROM messages WHERE topic_id = ?", (topic,)).fetchone()
    stamp = 13 * STEP_NS
    later = data[:4] + struct.pack("<iI", *divmod(stamp, 10**9)) + data[12:]
    database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", (topic, stamp, later))
    database.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for part in folder.glob("*.db3*"):
        shutil.copy(part, killed)
    database.close()
    killed.chmod(0o555)
    with bags.open_bag(killed) as bag:
        stamps = [m.stamp_ns for m in bag.messages() if isinstance(m, bags.ImageMessage)]
    killed.chmod(0o755)
    assert stamps == [STEP_NS * (i + 1) for i in range(13)]


def test_a_database_of_something_else_is_not_called_damaged(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "notes.db3")) as database:
        database.execute("CREATE TABLE notes (text)")
        database.commit()
    with pytest.raises(DataError, match="a database of SQLite, but no recording: it has the tables notes, expected"):
        bag_info(tmp_path / "notes.db3")


def test_a_time_of_receipt_that_is_no_number(tmp_path):
    path = good(tmp_path / "bag", storage="sqlite3")
    with contextlib.closing(sqlite3.connect(path / "bag.db3")) as database:
        database.execute("UPDATE messages SET timestamp = 'noon' WHERE id = 4")  # an image
        database.commit()
    assert slop_for(path, ["/front/image_raw/compressed"]) == 0.02
    assert len(pictures(path)) == 12


def test_compressed_and_renamed_files(tmp_path):
    source = good(tmp_path / "bag")
    file = next(source.glob("*.mcap"))
    lone = tmp_path / "lone"
    lone.mkdir()
    packed = lone / "rec_0.mcap.zstd"
    packed.write_bytes(storage.zstd().compress(file.read_bytes()))
    shutil.copy(file, lone.parent / "drive.data")
    renamed = shutil.copytree(source, tmp_path / "renamed")
    (renamed / file.name).rename(renamed / "monday.mcap")
    for path in (lone, packed, tmp_path / "drive.data", renamed):
        assert len(list(Recording(path))) == 12
    assert "read instead: monday.mcap" in bag_info(renamed).notes[0]
    (renamed / "monday.mcap").unlink()
    (renamed / "monday.mcap.gz").write_bytes(b"\x1f\x8b" + bytes(50))
    with pytest.raises(DataError, match=r"packed with gzip; unpack it first: gunzip 'monday\.mcap\.gz'"):
        bag_info(renamed / "monday.mcap.gz")
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(DataError, match=r"rec_0\.mcap\.zstd: .*cut off"):
        bag_info(lone)


def test_split_recordings(tmp_path):
    """Two files; the later has none of the constant transforms, and each is a recording of its own."""
    whole = good(tmp_path / "bag")
    schemas, channels, messages = content(whole)
    split = tmp_path / "split"
    split.mkdir()
    parts = {"rec_10.mcap": messages[20:], "rec_9.mcap": messages[:20]}
    for name, some in parts.items():
        write_mcap(split / name, "ros2", schemas, channels, some)
    assert len(list(Recording(split))) == 12  # without metadata
    about = {"rosbag2_bagfile_information": {"relative_file_paths": ["rec_9.mcap", "rec_10.mcap"]}}
    (split / "metadata.yaml").write_text(yaml.safe_dump(about))
    assert len(list(Recording(split))) == 12
    assert "one of 2 files of a recording; give the folder" in " ".join(bag_info(split / "rec_9.mcap").notes)
    (split / "rec_10.mcap").unlink()
    with pytest.raises(
        DataError, match=r"metadata\.yaml lists rec_10\.mcap, which is not there.*delete metadata\.yaml"
    ):
        bag_info(split)


def test_a_path_that_is_near_a_recording(tmp_path):
    """Its metadata, the folder above it, and what Git left in its place."""
    path = good(tmp_path / "drives" / "monday")
    assert len(list(Recording(path / "metadata.yaml"))) == 12
    with pytest.raises(DataError, match=r"drives: no \.mcap.*such as those inside: monday$"):
        bag_info(path.parent)
    pointer = tmp_path / "pointer.mcap"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    with pytest.raises(DataError, match=r"pointer\.mcap: a Git LFS pointer.*git lfs pull"):
        bag_info(pointer)


def test_a_bag_of_ros1_that_was_never_finished(tmp_path):
    for path in (tmp_path / "drive.bag.active", tmp_path / "drive.bag"):
        path.write_bytes(b"#ROSBAG V2.0\n" + b"\x45\0\0\0" + bytes(4096))
    with pytest.raises(DataError, match=r"drive\.bag\.active: the recorder was killed.*rosbag reindex") as caught:
        bag_info(tmp_path / "drive.bag.active")
    assert "damaged" not in str(caught.value)
    (tmp_path / "drive.bag").unlink()
    with pytest.raises(DataError, match="rosbag reindex"):
        bag_info(tmp_path)


def test_what_cannot_be_opened_is_not_called_damaged(tmp_path):
    path = good(tmp_path / "bag")
    file = next(path.glob("*.mcap"))
    file.unlink()
    file.symlink_to(file.name)  # a loop: whoever runs this, it cannot be opened
    with pytest.raises(DataError) as caught:
        bag_info(path)
    assert "damaged" not in str(caught.value)


# What is dropped is counted


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    drive = Drive(tmp_path / "bag").info().jpeg()
    drive.each(lambda bag, i, stamp: write_compressed(bag, "/front/image_raw/compressed", stamp, "front_optical", 0))
    points = {axis: np.ones(4, np.float32) for axis in "xyz"}
    drive.each(lambda bag, i, stamp: bag.write_points(stamp, "base_link", points))
    drive.each(lambda bag, i, stamp: bag.write_points(stamp + STEP_NS // 3, "base_link", points))
    recording = Recording(drive.write())
    assert len(list(recording)) == 12
    assert recording.dropped == {"image: duplicate": 12, "sweep: unmatched": 12}
    assert "12 image sets of 1 camera\n  left out: 12 x image: duplicate" in recording.report()


def test_calibration_errors_name_the_topic():
    with pytest.raises(CalibrationError, match=r"^/a/camera_info: size is 0 x 4 px"):
        validate(Calibration(0, 4, K), "/a/camera_info")


# Two robots, two clocks, and what begins late


def test_transforms_of_another_robot_are_left_out(tmp_path):
    """Those of /tf count; constant ones that are repeated as they are do no harm."""
    drive = Drive(tmp_path / "bag").info().jpeg()

    def other(bag: BagWriter, i: int, stamp: int) -> None:
        bag._write_transforms("/robot2/tf", stamp, [("odom", "base_link", ahead(100 - 5 * i))])
        bag._write_transforms("/robot2/tf_static", stamp, [*drive.static, ("base_link", "arm", ahead(1))])

    path = drive.each(other).write()
    info = bag_info(path)
    assert "whose place /tf gives" in info.left_out["/robot2/tf"] and len(info.left_out) == 1
    assert info.driven == pytest.approx(11) and any(edge.child == "arm" for edge in info.edges)
    recording = Recording(path)
    assert [item.frame_set.T_world_ego[0, 3] for item in recording] == list(range(12))
    assert "note: /robot2/tf: left out" in recording.report()


def test_transforms_in_a_namespace_alone_are_taken(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag._write_transforms("/r/tf_static", STEP_NS, [("base_link", "front_optical", mount())])
        for i in range(12):
            stamp = STEP_NS * (i + 1)
            bag._write_transforms("/r/tf", stamp, [("odom", "base_link", ahead(i))])
            write_info(bag, "/front/camera_info", stamp, "front_optical")
            write_compressed(bag, "/front/image_raw/compressed", stamp, "front_optical", i)
    info = bag_info(tmp_path / "bag")
    assert info.missing_to_run == () and "-r /tf:=/r/tf -r /tf_static:=/r/tf_static" in str(info)


def again(bag: BagWriter, topic: str, kind: str, received: int, **fields) -> None:
    """A message whose header has another time than that of its receipt."""
    bag.write_raw(topic, kind, received, bag.typestore.serialize_cdr(bag.message(kind, **fields), kind))


def test_a_recording_of_a_playback_that_looped(tmp_path):
    """The second run, with other poses, changes neither the sets nor the sweeps of the first; it is counted."""
    path = tmp_path / "bag"
    with BagWriter(path) as bag:
        bag.write_tf_static(1, [("base_link", "front_optical", mount())])
        write_info(bag, "/front/camera_info", 1, "front_optical")
        for run, i in ((run, i) for run in range(2) for i in range(15)):
            stamp, received = STEP_NS * (i + 1), STEP_NS * (i + 1 + 20 * run)
            place = bag.message("geometry_msgs/msg/Vector3", x=float(i + 50 * run), y=0.0, z=0.0)
            turn = bag.message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
            transform = bag.message(
                "geometry_msgs/msg/TransformStamped",
                header=bag.header(stamp, "odom"),
                child_frame_id="base_link",
                transform=bag.message("geometry_msgs/msg/Transform", translation=place, rotation=turn),
            )
            again(bag, "/tf", "tf2_msgs/msg/TFMessage", received, transforms=[transform])
            values = np.frombuffer(images.encode(smooth(i), "png"), np.uint8)
            header = bag.header(stamp, "front_optical")
            again(
                bag, "/front/image_raw/compressed", bags.COMPRESSED, received, header=header, format="png", data=values
            )
    info = bag_info(path)
    assert info.driven == pytest.approx(14) and "after 15 images time goes back by 1.4 s" in " ".join(info.notes)
    recording = Recording(path)
    sets = [item.frame_set for item in recording]
    assert [s.stamp_ns for s in sets] == [STEP_NS * (i + 1) for i in range(15)]
    assert [s.T_world_ego[0, 3] for s in sets] == list(range(15))
    assert recording.dropped["set: back in time"] == 15 and "split the recording there" in recording.report()


def test_which_clock_a_stamp_is_of():
    clock = _OneClock()
    asked = [1, 3, 2.5, 4, 2.9, 3.9, 4.0, 4.1, 4.0]  # s: back by less than one is jitter, by more another run
    assert [clock.takes(round(t * 1e9)) for t in asked] == [True, True, True, True, False, False, False, True, True]


def pair(path: Path, of_b: range, frames: int = 60) -> Path:
    """Cameras a, and b at some of the instants only."""
    drive = Drive(path, frames).info("/a/camera_info", "a_optical").jpeg("/a/image_raw/compressed", "a_optical")
    drive.static = [("base_link", optical_frame(name), mount()) for name in "ab"]
    drive.info("/b/camera_info", "b_optical")
    topic = "/b/image_raw/compressed"
    return drive.each(lambda bag, i, t: i in of_b and write_compressed(bag, topic, t, "b_optical", i)).write()


@pytest.mark.parametrize(
    ("of_b", "note"),
    [(range(40, 60), "b begins 4.0 s after the others"), (range(40), "b ends 2.0 s before the others")],
)
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_cameras_that_begin_late_or_end_early(tmp_path, of_b, note, order):
    info = bag_info(pair(tmp_path / "bag", of_b), cameras=order)
    assert info.missing_to_run == () and any(text.startswith(note) for text in info.notes)
    assert info.grouping.complete == info.grouping.sets >= 20


def test_a_camera_without_images_is_named(tmp_path):
    info = bag_info(pair(tmp_path / "bag", range(0), 12))
    assert [c.name for c in info.cameras] == ["a"] and any("b has /b/camera_info but no image" in t for t in info.notes)


@pytest.mark.parametrize(
    ("without", "ready", "text"),
    [
        (range(1), True, "1 of 60 image sets have no ego pose"),
        (range(20), False, "20 of 60 image sets have no ego pose"),
        (range(20, 40), False, "18 of 60 image sets have no ego pose: 2100000000 ns lies in a gap of 2.1 s"),
    ],
)
def test_instants_without_a_pose(tmp_path, without, ready, text):
    """Within 0.2 s before the next transform an image set still finds its place; the recording loses as many as is said."""
    drive = Drive(tmp_path / "bag", 60)
    drive.each(lambda bag, i, stamp: i not in without and bag.write_tf(stamp, "odom", "base_link", ahead(i)))
    info = bag_info(drive.info().jpeg().write(poses=False))
    assert (info.missing_to_run == ()) == ready and any(text in t for t in (*info.notes, *info.missing_to_run))
    recording = Recording(tmp_path / "bag")
    assert len(list(recording)) == 60 - int(text.split()[0])


def test_a_pose_that_jumps(tmp_path):
    drive = Drive(tmp_path / "bag").info().jpeg()
    drive.each(lambda bag, i, stamp: bag.write_tf(stamp, "odom", "base_link", ahead(i + 500 * (i > 5))))
    note = "the ego pose jumps by 501.0 m between the images at 600000000 and 700000000 ns"
    assert any(text.startswith(note) for text in bag_info(drive.write(poses=False)).notes)


def test_images_without_a_stamp(tmp_path):
    drive = Drive(tmp_path / "bag").info()
    values = np.frombuffer(images.encode(smooth(), "png"), np.uint8)
    fields = {"format": "png", "data": values}
    topic = "/front/image_raw/compressed"
    drive.each(lambda bag, i, t: again(bag, topic, bags.COMPRESSED, t, header=bag.header(0, "front_optical"), **fields))
    (sentence,) = bag_info(drive.write()).missing_to_run
    assert sentence.startswith(f"front: no image on {topic} has a stamp") and "header.stamp" in sentence


def clouds(path: Path, frame: str = "base_link", delay: int = 0) -> Path:
    """A LiDAR that may be of an unknown frame, or of another clock (ns later)."""
    columns = {axis: np.ones(3, np.float32) for axis in "xyz"}
    drive = Drive(path).info().jpeg()
    return drive.each(lambda bag, i, stamp: bag.write_points(stamp + delay, frame, columns)).write()


@pytest.mark.parametrize(
    ("frame", "delay", "reason"),
    [
        ("nowhere", 0, "'nowhere' has not been seen"),
        ("base_link", 10**12, "none lies within 0.1 s of an image"),
        ("base_link", 0, ""),
    ],
)
def test_a_lidar_that_training_would_refuse_is_not_ready(tmp_path, frame, delay, reason):
    info = bag_info(clouds(tmp_path / "bag", frame, delay))
    assert info.missing_to_run == () and len(info.missing_to_train) == bool(reason)
    assert not reason or (reason in info.missing_to_train[0] and "data.bag.lidar=false" in info.missing_to_train[0])


def test_frames_that_contradict_each_other_are_named(tmp_path):
    """Of image and camera_info, of two constant transforms, and of rectified images that were turned."""
    drive = Drive(tmp_path / "bag").jpeg("/front/image_rect/compressed", frame="front_link")
    turned = Rotation.from_euler("y", 3, degrees=True).as_matrix().reshape(-1)
    drive.info(r=turned).static.append(("base_link", "front_optical", ahead(2) @ mount()))
    notes = " ".join(bag_info(drive.write()).notes)
    assert "its images are in frame 'front_link', its camera_info in 'front_optical', which counts" in notes
    assert "from 'front_optical' to 'base_link' was sent with different values" in notes
    assert "rectified by a rotation of 3.0 degrees" in notes


def test_a_file_that_lies_topic_after_topic(tmp_path):
    """Without an index, messages are put in order of time."""
    schemas, channels, messages = content(pair(tmp_path / "bag", range(60)))
    file = write_mcap(tmp_path / "sorted.mcap", "ros2", schemas, channels, sorted(messages))
    recording = Recording(file)
    assert sum(all(image is not None for image in item.frame_set.images) for item in recording) == 60
    assert not recording.dropped and bag_info(file).missing_to_run == ()


def test_a_calibration_that_cannot_be_is_counted_once(tmp_path):
    drive = Drive(tmp_path / "bag").info("/a/camera_info", "a_optical").jpeg("/a/image_raw/compressed", "a_optical")
    drive.static = [("base_link", optical_frame(name), mount()) for name in "ab"]
    drive.info("/b/camera_info", "b_optical", k=np.zeros((3, 3))).jpeg("/b/image_raw/compressed", "b_optical")
    recording = Recording(drive.write())
    assert len(list(recording)) == 12 and recording.dropped["unreadable message"] == 12


def test_a_camera_that_names_no_frame(tmp_path):
    (sentence,) = bag_info(Drive(tmp_path / "bag").info(frame="").jpeg(frame="").write()).missing_to_run
    assert "front cannot be placed: /front/camera_info names no frame" in sentence and "header.frame_id" in sentence


def test_rectified_images_of_a_distorted_camera_need_p(tmp_path):
    drive = Drive(tmp_path / "bag").info(d=[-0.3, 0.1, 0, 0, 0], p=np.zeros((3, 4)))
    (sentence,) = bag_info(drive.jpeg("/front/image_rect/compressed").write()).missing_to_run
    assert "/front/camera_info: P, of rectified images: focal lengths are 0 and 0 px" in sentence
