"""Images and intrinsics as drivers publish them: deep, mosaicked, paired pixels, cut out of the sensor."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from letocc_core.errors import DataError
from letocc_core.geometry.calibration import Calibration, from_camera_info
from letocc_core.stream import images

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
WIDE = RGB.astype(np.uint16) << 8 | 0x5A  # the upper byte is the value
K = [[400.0, 0, 319.5], [0, 410.0, 239.5], [0, 0, 1]]


def decode(encoding: str, payload: np.ndarray, bigendian: bool = False) -> np.ndarray:
    rows = np.ascontiguousarray(payload)
    height, width = rows.shape[:2]
    return images.decode_raw(encoding, height, width, rows.strides[0], rows.tobytes(), bigendian, "/topic")


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("rgba16", [0, 1, 2, 0]), ("bgra16", [2, 1, 0, 0])],
)
def test_sixteen_bits_a_channel(encoding: str, channels: list[int], bigendian: bool):
    payload = WIDE[..., channels].astype(">u2" if bigendian else "<u2")
    np.testing.assert_array_equal(decode(encoding, payload, bigendian), RGB)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_deep_mosaic_is_the_mosaic_of_its_upper_bytes(pattern: str):
    np.testing.assert_array_equal(
        decode(f"bayer_{pattern}16", WIDE[..., 0]), decode(f"bayer_{pattern}8", np.ascontiguousarray(RGB[..., 0]))
    )


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_every_mosaic_gives_its_colours_back(pattern: str):
    """The four letters name the pixels of the upper left corner, row by row."""
    values = {"r": 200, "g": 90, "b": 30}
    corner = np.array([values[letter] for letter in pattern], np.uint8).reshape(2, 2)
    assert (decode(f"bayer_{pattern}8", np.tile(corner, (8, 8))) == [200, 90, 30]).all()


def test_pairs_of_pixels_by_hand():
    """Y 128, U and V 128 are grey of 1.164 * (128 - 16) = 130; UYVY and YUY2 differ in the order alone."""
    uyvy = np.full((2, 4, 2), 128, np.uint8)
    uyvy[..., 1] = np.array([[16, 235, 128, 128]] * 2)  # luma: black, white, grey, grey
    expected = np.array([0, 255, 130, 130])[None, :, None]
    for encoding, payload in (("yuv422", uyvy), ("uyvy", uyvy), ("yuv422_yuy2", uyvy[..., ::-1])):
        assert np.abs(decode(encoding, payload).astype(int) - expected).max() <= 1
    with pytest.raises(DataError, match="/topic: 3 x 2 image is not possible in 'yuv422'"):
        decode("yuv422", np.zeros((2, 3, 2), np.uint8))


def test_depth_images_are_no_pictures():
    with pytest.raises(DataError, match="image encoding '16UC1' is not supported"):
        decode("16UC1", WIDE[..., 0])


def test_an_orientation_in_the_file_is_ignored():
    """EXIF says: turn by 90 degrees; the calibration is of the image as it is stored."""
    jpeg = images.encode(np.zeros((8, 16, 3), np.uint8), "jpeg")
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (16, 8, 3)
    assert images.decode_compressed(turned, "/topic").shape == (8, 16, 3)


def jpeg(*options: int) -> bytes:
    """A smooth picture with noise, 96 x 128."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (128, 96), interpolation=cv2.INTER_CUBIC), options)[1].tobytes()


def test_jpeg_pixels_are_those_of_opencv():
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    for options in ((), sampling, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)):
        data = jpeg(*options)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(images.decode_compressed(data, "/topic"), expected)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_damage_behind_an_intact_header_is_noticed(kind: str):
    """A third of the picture itself is lost, wherever."""
    data = jpeg() if kind == "jpeg" else images.encode(images.decode_compressed(jpeg(), ""), "png")
    first = data.index(b"\xff\xda") + 14 if kind == "jpeg" else 60
    lost = (len(data) - first) // 3
    for at in range(first, len(data) - lost - 20, 97):
        with pytest.raises(DataError, match=f"/topic: {kind.upper()} image .* cannot be decoded"):
            images.decode_compressed(data[:at] + data[at + lost :], "/topic")


def test_jpeg_as_webcams_write_it():
    """Without the usual tables, and with some bytes too many before the marker of the end."""
    whole = short = jpeg()
    while (at := short.find(b"\xff\xc4")) > 0:
        short = short[:at] + short[at + 2 + int.from_bytes(short[at + 2 : at + 4], "big") :]
    assert len(short) < len(whole)
    padded = short[:-2] + bytes(10) + short[-2:]
    np.testing.assert_array_equal(images.decode_compressed(padded, ""), images.decode_compressed(whole, ""))
    with pytest.raises(DataError, match="extraneous bytes before marker 0xd9"):
        images.decode_compressed(short[:-2] + bytes(40) + short[-2:], "/topic")


def info(x: int = 0, y: int = 0, width: int = 0, height: int = 0, binning: int = 0) -> SimpleNamespace:
    """A `sensor_msgs/CameraInfo` of a 640 x 480 sensor."""
    roi = SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height)
    P = np.hstack([np.array(K) * [[0.9], [0.9], [1]], np.zeros((3, 1))])
    return SimpleNamespace(
        width=640,
        height=480,
        k=np.ravel(K),
        d=[0.1, 0, 0, 0],
        p=P.ravel(),
        distortion_model="plumb_bob",
        roi=roi,
        binning_x=binning,
        binning_y=binning,
    )


def test_intrinsics_of_the_whole_sensor():
    expected = Calibration(640, 480, np.array(K), np.array([0.1, 0, 0, 0]))
    assert from_camera_info(info()) == from_camera_info(info(width=640, height=480, binning=1)) == expected


def test_intrinsics_of_a_region_and_of_binned_pixels():
    cut = from_camera_info(info(x=100, y=40, width=320, height=200))
    assert (cut.width, cut.height, cut.K[0, 2], cut.K[1, 2], cut.K[0, 0]) == (320, 200, 219.5, 199.5, 400)
    binned = from_camera_info(info(binning=2))
    assert (binned.width, binned.height, binned.K[0, 0], binned.K[1, 1]) == (320, 240, 200, 205)
    assert (binned.K[0, 2], binned.K[1, 2]) == (159.5, 119.5)  # (319.5 + 0.5) / 2 - 0.5
    both = from_camera_info(info(x=100, y=40, width=320, height=200, binning=2))
    assert (both.width, both.height, both.K[0, 2]) == (160, 100, 109.5)


def test_intrinsics_of_a_rectified_image():
    found = from_camera_info(info(), rectified=True)
    assert (found.K[0, 0], found.D.size) == (360.0, 0)
