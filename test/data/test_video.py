"""Video of a bag's cameras becomes single images, each at the stamp of its message; everything else is copied."""

from pathlib import Path

import numpy as np
import pytest
from test_any_recording import mount

from letocc_core import cli
from letocc_core.data.bags import reader as bags
from letocc_core.data.bags.info import bag_info
from letocc_core.data.bags.recording import Recording
from letocc_core.data.bags.video import video_to_images
from letocc_core.data.bags.writer import BagWriter, optical_frame
from letocc_core.errors import DataError
from letocc_core.geometry.calibration import Calibration

av = pytest.importorskip("av", reason="PyAV is not installed; pip install 'letocc[video]'")

WIDTH, HEIGHT, FRAMES, STEP_NS = 64, 48, 8, 100_000_000
FOXGLOVE = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
FFMPEG = "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data\n"


def brightness(index: int) -> int:
    return 30 + 20 * index


def packets(encoder: str, key_every: int = FRAMES) -> list[bytes]:
    """Pictures that grow brighter, one a packet, as a camera's encoder sends them: no frame waits for a later one."""
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt, context.gop_size = WIDTH, HEIGHT, "yuv420p", key_every
    context.framerate = 10
    if encoder.startswith("libx"):
        context.options = {"tune": "zerolatency", "preset": "ultrafast"}
    out = []
    for i in range(FRAMES):
        picture = np.full((HEIGHT, WIDTH, 3), brightness(i), np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts = i
        out += [bytes(packet) for packet in context.encode(frame)]
    out += [bytes(packet) for packet in context.encode(None)]
    assert len(out) == FRAMES
    return out


def write(path: Path, data: list[bytes], kind: str = bags.COMPRESSED, said: str = "h264") -> Path:
    """A drive whose camera sends these packets."""
    topic = {bags.COMPRESSED: "/front/image_raw/compressed"}.get(kind, "/front/image_raw/ffmpeg")
    with BagWriter(path) as bag:
        for name, text in zip(bags.VIDEOS, (FOXGLOVE, FFMPEG), strict=True):
            bag.register(name, text)
        bag.write_tf_static(STEP_NS, [("base_link", optical_frame("front"), mount())])
        calibration = Calibration(WIDTH, HEIGHT, np.array([[40.0, 0, 31.5], [0, 40, 23.5], [0, 0, 1]]))
        for i, packet in enumerate(data):
            stamp = STEP_NS * (i + 1)
            bag.write_tf(stamp, "odom", "base_link", np.eye(4))
            bag.write_camera_info("front", stamp, calibration)
            header, data_field = bag.header(stamp, optical_frame("front")), np.frombuffer(packet, np.uint8)
            if kind == bags.COMPRESSED:
                fields = {"header": header, "format": said}
            elif kind == bags.VIDEOS[0]:
                fields = {"timestamp": header.stamp, "frame_id": header.frame_id, "format": said}
            else:
                about = {"width": WIDTH, "height": HEIGHT, "pts": i, "flags": 0, "is_bigendian": False}
                fields = {"header": header, "encoding": said, **about}
            bag.write(topic, kind, stamp, **fields, data=data_field)
    return path


@pytest.mark.parametrize(
    ("encoder", "kind", "said"),
    [
        ("libx264", bags.COMPRESSED, "h264"),
        ("libx265", bags.COMPRESSED, "rgb8; hevc compressed"),
        ("libx265", bags.COMPRESSED, "jpeg"),  # said wrongly: the bytes tell
        ("libx264", bags.VIDEOS[0], "h264"),
        ("libx264", bags.VIDEOS[1], "libx264"),
        ("libvpx-vp9", bags.VIDEOS[0], "vp9"),
    ],
)
def test_each_message_becomes_its_image(tmp_path, encoder, kind, said):
    path = write(tmp_path / "video", packets(encoder), kind, said)
    (video,), left_out = video_to_images(path, tmp_path / "out")
    assert (video.images, dict(video.lost), left_out) == (FRAMES, {}, {})
    assert video.images_topic == "/front/image_raw/compressed"
    sets = [item.frame_set for item in Recording(tmp_path / "out")]
    assert [item.stamp_ns for item in sets] == [STEP_NS * (i + 1) for i in range(FRAMES)]
    for i, item in enumerate(sets):
        assert abs(float(item.images[0].mean()) - brightness(i)) < 4
    before, after = bag_info(path), bag_info(tmp_path / "out")
    assert before.missing_to_run and not after.missing_to_run
    assert before.edges == after.edges


def test_what_stands_before_the_first_key_frame_is_counted(tmp_path):
    data = packets("libx264", key_every=4)
    path = write(tmp_path / "video", data[2:])
    (video,), _ = video_to_images(path, tmp_path / "out")
    assert video.images + sum(video.lost.values()) == FRAMES - 2
    stamps = [item.frame_set.stamp_ns for item in Recording(tmp_path / "out")]
    assert stamps[-4:] == [STEP_NS * (i + 1) for i in range(2, 6)]
    pictures = [item.frame_set.images[0].mean() for item in Recording(tmp_path / "out")]
    assert np.abs(np.array(pictures[-4:]) - [brightness(i) for i in range(4, 8)]).max() < 4


def test_the_command_that_a_refusal_names(tmp_path, capsys):
    path = write(tmp_path / "video", packets("libx264"))
    refusal = next(sentence for sentence in bag_info(path).missing_to_run if "video" in sentence)
    command = refusal.split("letocc ")[1].split(";")[0]
    words = command.replace("NEW_BAG", str(tmp_path / "out")).replace("BAG", str(path)).split()
    assert cli.main(words) == 0
    assert f"{FRAMES} images of H.264 to /front/image_raw/compressed" in capsys.readouterr().out
    assert not bag_info(tmp_path / "out").missing_to_run


def test_no_video_and_video_that_is_none(tmp_path):
    path = write(tmp_path / "broken", [b"\0\0\0\1\x67" + bytes(60)] * 3)
    with pytest.raises(DataError, match=r"no image can be decoded: /front/image_raw/compressed: 0 images of H\.264"):
        video_to_images(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with BagWriter(tmp_path / "none") as bag:
        bag.write_tf(STEP_NS, "odom", "base_link", np.eye(4))
    with pytest.raises(DataError, match="no video"):
        video_to_images(tmp_path / "none", tmp_path / "out")
