"""Image payloads as ROS 2 carries them <-> RGB arrays. Pure numpy and OpenCV, shared by the live node and bag reader.

Raw payloads are `sensor_msgs/Image` (encoding, height, width, step, bytes), compressed ones
`sensor_msgs/CompressedImage` (JPEG or PNG bytes). Arrays are uint8 RGB [height, width, 3]. Many sensors use 10, 12 or 14
bits of 16-bit channels: `BitDepth` says which value is white.
"""

import re
import struct
from array import array
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg

from letocc_core.errors import DataError

# encoding -> (channels, bytes a channel, OpenCV conversion to RGB or None where the data are RGB already)
ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (3, 1, None),
    "bgr8": (3, 1, cv2.COLOR_BGR2RGB),
    "8UC3": (3, 1, cv2.COLOR_BGR2RGB),
    "rgba8": (4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, 1, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (1, 2, cv2.COLOR_GRAY2RGB),
    "rgb16": (3, 2, None),
    "bgr16": (3, 2, cv2.COLOR_BGR2RGB),
    "rgba16": (4, 2, cv2.COLOR_RGBA2RGB),
    "bgra16": (4, 2, cv2.COLOR_BGRA2RGB),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGRBG2RGB),
    "bayer_rggb16": (1, 2, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr16": (1, 2, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg16": (1, 2, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg16": (1, 2, cv2.COLOR_BayerGRBG2RGB),
    "yuv422": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
}
BITS = {  # encodings of 16-bit channels of which so many bits are used
    f"{name}{bits}": bits
    for name in ("mono", "bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")
    for bits in (10, 12, 14)
}
ENCODINGS |= {name: ENCODINGS[name[:-2] + "16"] for name in BITS}
PLANES = {  # brightness of each pixel, then colour of each 2 x 2 pixels
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
    "i420": cv2.COLOR_YUV2RGB_I420,
    "yv12": cv2.COLOR_YUV2RGB_YV12,
}
SUPPORTED = (*ENCODINGS, *PLANES)
BY_LOWER_CASE = {name.lower(): name for name in SUPPORTED}
VIDEO = {  # words in a format or the name of an encoder
    **{"h264": "H.264", "avc": "H.264", "libx264": "H.264", "h265": "H.265", "hevc": "H.265", "libx265": "H.265"},
    **{"av1": "AV1", "libsvtav1": "AV1", "libaomav1": "AV1", "vp8": "VP8", "vp9": "VP9"},
}
VIDEO_REMEDY = (
    "make images of a recording with: letocc bag images BAG --out NEW_BAG; let the driver of a live camera send JPEG"
)
START_CODES = (b"\0\0\0\1", b"\0\0\1")  # with which H.264 and H.265 begin
H265_UNITS = {32, 33, 34, 35, 39}  # types of what an H.265 stream may begin with, which H.264 has not so

Payload = bytes | bytearray | memoryview | array | np.ndarray  # messages hold array.array, bags bytes
MAX_PIXELS = 2**26  # of a compressed image: a few bytes can claim any size
MAX_PADDING = 16  # bytes before a JPEG marker that are none of the picture's: webcams' own encoders leave up to ten
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers that are followed by the image's size


class BitDepth:
    """How many bits of 16-bit channels one stream of images uses: by its encoding's name, or by the largest value so far.

    Values that all fit into 10, 12 or 14 bits are taken to use no more; from the first that does not fit, more are used.
    """

    def __init__(self) -> None:
        self.bits: int | None = None  # 10, 12, 14 or 16; None before the first image of 16-bit channels

    def __str__(self) -> str:
        """A remark for people; empty where there is nothing to say."""
        if self.bits is None or self.bits == 16:
            return ""
        return f"16-bit images of which {self.bits} bits are used, by their largest value or their encoding: {2**self.bits - 1} is white"

    def to_bytes(self, values: np.ndarray, encoding: str = "") -> np.ndarray:
        """uint16 -> uint8 of the same shape; the largest value that the bits hold is white."""
        if encoding in BITS:
            self.bits = BITS[encoding]
        else:
            largest = int(values.max(initial=0))
            self.bits = max(self.bits or 10, next(bits for bits in (10, 12, 14, 16) if largest < 2**bits))
        return (values >> (self.bits - 8)).clip(max=255).astype(np.uint8)


def decode(message: Any, source: str, depth: BitDepth | None = None) -> np.ndarray:
    """RGB array, uint8 [h, w, 3], of a `sensor_msgs` Image or CompressedImage, of rclpy or of rosbags.

    Raises as `decode_raw` and `decode_compressed` do.
    """
    if hasattr(message, "format"):
        return decode_compressed(message.data, source, message.format, depth)
    return decode_raw(
        message.encoding,
        message.height,
        message.width,
        message.step,
        message.data,
        bool(message.is_bigendian),
        source,
        depth,
    )


def decode_raw(
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: Payload,
    bigendian: bool,
    source: str,
    depth: BitDepth | None = None,
) -> np.ndarray:
    """RGB array, uint8 [height, width, 3], of a raw image payload.

    Args:
        step: bytes a row, padding included.
        source: topic (and stamp) for the messages.
        depth: of the images of this topic so far; None: of this image alone.

    Raises:
        DataError: an encoding that is no colour or grey image, a step too small for a row, or too few bytes.
    """
    data = np.frombuffer(data, np.uint8)
    encoding = usual_name(encoding)
    if encoding in PLANES:
        return _decode_planes(encoding, height, width, step, data, source)
    if encoding not in ENCODINGS:
        raise DataError(
            f"{source}: image encoding '{encoding}' is not supported; expected one of {', '.join(SUPPORTED)}"
        )
    channels, size, conversion = ENCODINGS[encoding]
    row = width * channels * size
    if height <= 0 or width <= 0 or step < row:
        raise DataError(
            f"{source}: {width} x {height} image in '{encoding}' with {step} bytes a row, expected at least {row}; "
            "the driver fills width, height, step or encoding wrongly"
        )
    if len(data) < step * (height - 1) + row:
        raise DataError(f"{source}: image payload of {len(data)} bytes, expected {step * height} ({height} x {step})")
    rows = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    if size == 2:
        values = np.ascontiguousarray(rows).view(">u2" if bigendian else "<u2")
        rows = (depth or BitDepth()).to_bytes(values, encoding)
    image = np.ascontiguousarray(rows).reshape(height, width, channels)
    try:
        return image if conversion is None else cv2.cvtColor(image, conversion)
    except cv2.error as error:  # such as an odd number of columns in pairs of pixels
        raise DataError(f"{source}: {width} x {height} image is not possible in '{encoding}': {error}") from error


def _decode_planes(encoding: str, height: int, width: int, step: int, data: np.ndarray, source: str) -> np.ndarray:
    """YUV 4:2:0: `height` rows of brightness, then half as many bytes of colour, with the same padding a row."""
    step = step if len(data) >= step * height * 3 // 2 and step > width else width
    expected = step * height * 3 // 2
    if height <= 0 or width <= 0 or height % 2 or width % 2 or len(data) < expected:
        raise DataError(
            f"{source}: {width} x {height} image in '{encoding}' of {len(data)} bytes, expected even numbers of pixels and "
            f"{width * height * 3 // 2} bytes or more"
        )
    rows = data[:expected]
    if step > width and encoding in ("i420", "yv12"):  # half a row of colour has half the padding
        grey, colour = rows[: step * height].reshape(height, step)[:, :width], rows[step * height :]
        colour = colour.reshape(height, step // 2)[:, : width // 2] if step % 2 == 0 else colour[:0]
        rows = np.concatenate([grey.reshape(-1), colour.reshape(-1)])
    elif step > width:
        rows = rows.reshape(height * 3 // 2, step)[:, :width].reshape(-1)
    if len(rows) != width * height * 3 // 2:
        raise DataError(f"{source}: '{encoding}' with an odd number of bytes a row ({step}) has no half rows")
    return cv2.cvtColor(np.ascontiguousarray(rows).reshape(height * 3 // 2, width), PLANES[encoding])


def decode_compressed(data: Payload, source: str, format: str = "", depth: BitDepth | None = None) -> np.ndarray:
    """RGB array, uint8 [h, w, 3], of the bytes of a JPEG or PNG file.

    As the sensor sees it: an orientation in the file, as of telephones, would contradict the calibration.

    Args:
        format: of `sensor_msgs/CompressedImage`: a grey file with `bayer_...` there is the sensor's mosaic.
        depth: of the images of this topic so far; None: of this image alone.

    Raises `DataError` for another format, for a file that is cut off or damaged as far as its format can tell, and for
    one that claims a size beyond `MAX_PIXELS`, before memory is taken for it.
    """
    data = np.frombuffer(data, np.uint8)
    if (video := video_of(data[:8].tobytes(), format)) is not None:  # its images depend on those before
        raise DataError(f"{source}: {video} video, expected single images (JPEG, PNG); {VIDEO_REMEDY}")
    name, complete = _container(data.tobytes(), source)
    if not complete:
        raise DataError(f"{source}: {name} image of {len(data)} bytes is truncated; it was cut off when it was written")
    height, width = _declared_size(data.tobytes(), name)
    if height * width > MAX_PIXELS:
        raise DataError(f"{source}: {name} image that claims {width} x {height} px, expected {MAX_PIXELS} px or less")
    image = _decode_jpeg(data, source) if name == "JPEG" else _decode_png(data, source)
    encoding = usual_name(format.partition(";")[0])
    if image.dtype == np.uint16:
        image = (depth or BitDepth()).to_bytes(image, encoding)
    if image.shape[2] == 1:
        mosaic = encoding.lower().startswith("bayer")
        return cv2.cvtColor(image, _mosaic(encoding, source) if mosaic else cv2.COLOR_GRAY2RGB)
    return image


def usual_name(encoding: str) -> str:
    """An encoding as ROS writes it; some drivers write it in capitals."""
    return BY_LOWER_CASE.get(encoding.strip().lower(), encoding.strip())


def _mosaic(encoding: str, source: str) -> int:
    """OpenCV's conversion of a mosaic."""
    if encoding not in ENCODINGS:
        known = ", ".join(name for name in ENCODINGS if name.startswith("bayer"))
        raise DataError(f"{source}: the format says '{encoding}', which is not a known mosaic; expected one of {known}")
    conversion = ENCODINGS[encoding][2]
    assert conversion is not None  # every mosaic has one
    return conversion


def video_of(start: bytes, format: str) -> str | None:
    """Name of the video codec of compressed data, by their first eight bytes and what they are said to be; None: none."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"[._]", "", format.lower()))
    name = next((VIDEO[word] for word in words if word in VIDEO), None)
    if name is None and start.startswith(START_CODES):
        unit = start.lstrip(b"\0")[1:2] or b"\0"
        name = "H.265" if not unit[0] & 0x81 and unit[0] >> 1 in H265_UNITS else "H.264"
    return name


def encode(image: np.ndarray, kind: Literal["jpeg", "png"], quality: int = 95) -> bytes:
    """JPEG (of `quality` 1 to 100) or PNG (lossless) bytes of an RGB uint8 [h, w, 3] image."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(".jpg" if kind == "jpeg" else ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise DataError(f"an image of shape {image.shape} and type {image.dtype} cannot be written as {kind}")
    return data.tobytes()


def _container(data: bytes, source: str) -> tuple[str, bool]:
    """Name of the image format by its first bytes, and whether its end marker is there."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")  # end of image after the last start of scan
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", b"IEND" in data[-64:]
    raise DataError(
        f"{source}: compressed image of {len(data)} bytes starts with '{data[:4].hex()}', expected JPEG (ffd8ff) or "
        "PNG (89504e47)"
    )


def _decode_jpeg(data: np.ndarray, source: str, strict: bool = True) -> np.ndarray:
    """uint8 [h, w, 3] RGB, or [h, w, 1] of a grey file.

    By the decoder of OpenCV, which would fill what it cannot read with grey and say nothing, with its warnings heard.
    """
    try:
        grey = simplejpeg.decode_jpeg_header(data, strict=False)[2] == "Gray"
        return simplejpeg.decode_jpeg(data, colorspace="GRAY" if grey else "RGB", strict=strict)
    except (ValueError, KeyError) as error:  # KeyError: of a colour space that no JPEG has
        padding = re.search(r"(\d+) extraneous bytes before marker", str(error))
        if strict and padding and int(padding[1]) <= MAX_PADDING:
            return _decode_jpeg(data, source, strict=False)
        raise _damaged("JPEG", data, source, f": {error}") from error


def _decode_png(data: np.ndarray, source: str) -> np.ndarray:
    """uint8 or uint16, [h, w, 3] RGB, or [h, w, 1] of a grey file."""
    grey = len(data) > 25 and data[25] in (0, 4)  # colour type: grey, grey with transparency
    kind = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(data, kind | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise _damaged("PNG", data, source)
    return image[..., None] if grey else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _damaged(name: str, data: np.ndarray, source: str, reason: str = "") -> DataError:
    return DataError(
        f"{source}: {name} image of {len(data)} bytes cannot be decoded{reason}; the file or message is damaged"
    )


def _declared_size(data: bytes, name: str) -> tuple[int, int]:
    """Height and width (px) by a file's header; zeros where it does not say."""
    if name == "PNG" and len(data) >= 24:
        return struct.unpack_from(">II", data, 16)[::-1]
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in START_OF_FRAME:
            return struct.unpack_from(">HH", data, place + 5)
        place += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, place + 2)[0]
    return 0, 0
