"""Image payloads as ROS 2 carries them <-> RGB arrays. Pure numpy and OpenCV, shared by the live node and bag reader.

Raw payloads are `sensor_msgs/Image` (encoding, height, width, step, bytes), compressed ones
`sensor_msgs/CompressedImage` (JPEG or PNG bytes). Arrays are uint8 RGB [height, width, 3]. Of 16-bit channels the
upper byte is taken: 65535 is white.
"""

import re
import struct
from typing import Literal

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

MAX_PIXELS = 2**26  # of a compressed image: a few bytes can claim any size
MAX_PADDING = 16  # bytes before a JPEG marker that are none of the picture's: webcams' own encoders leave up to ten
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers that are followed by the image's size


def decode_raw(
    encoding: str, height: int, width: int, step: int, data: bytes | np.ndarray, bigendian: bool, source: str
) -> np.ndarray:
    """RGB array, uint8 [height, width, 3], of a raw image payload.

    Args:
        step: bytes a row, padding included.
        source: topic (and stamp) for the messages.

    Raises:
        DataError: an encoding that is no colour or grey image, a step too small for a row, or too few bytes.
    """
    if encoding not in ENCODINGS:
        raise DataError(
            f"{source}: image encoding '{encoding}' is not supported; expected one of {', '.join(ENCODINGS)}"
        )
    channels, size, conversion = ENCODINGS[encoding]
    row = width * channels * size
    data = np.frombuffer(data, np.uint8)
    if height <= 0 or width <= 0 or step < row:
        raise DataError(
            f"{source}: {width} x {height} image in '{encoding}' with {step} bytes a row, expected at least {row}; "
            "the driver fills width, height, step or encoding wrongly"
        )
    if len(data) < step * (height - 1) + row:
        raise DataError(f"{source}: image payload of {len(data)} bytes, expected {step * height} ({height} x {step})")
    rows = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    if size == 2:
        rows = (np.ascontiguousarray(rows).view(">u2" if bigendian else "<u2") >> 8).astype(np.uint8)
    image = np.ascontiguousarray(rows).reshape(height, width, channels)
    try:
        return image if conversion is None else cv2.cvtColor(image, conversion)
    except cv2.error as error:  # such as an odd number of columns in pairs of pixels
        raise DataError(f"{source}: {width} x {height} image is not possible in '{encoding}': {error}") from error


def decode_compressed(data: bytes | np.ndarray, source: str) -> np.ndarray:
    """RGB array, uint8 [h, w, 3], of the bytes of a JPEG or PNG file.

    As the sensor sees it: an orientation in the file, as of telephones, would contradict the calibration.

    Raises `DataError` for another format, for a file that is cut off or damaged as far as its format can tell, and for
    one that claims a size beyond `MAX_PIXELS`, before memory is taken for it.
    """
    data = np.frombuffer(data, np.uint8)
    name, complete = _container(data.tobytes(), source)
    if not complete:
        raise DataError(f"{source}: {name} image of {len(data)} bytes is truncated; it was cut off when it was written")
    height, width = _declared_size(data.tobytes(), name)
    if height * width > MAX_PIXELS:
        raise DataError(f"{source}: {name} image that claims {width} x {height} px, expected {MAX_PIXELS} px or less")
    return _decode_jpeg(data, source) if name == "JPEG" else _decode_png(data, source)


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
    """The decoder of OpenCV, which would fill what it cannot read with grey and say nothing, with its warnings heard."""
    try:
        return simplejpeg.decode_jpeg(data, strict=strict)
    except ValueError as error:
        padding = re.search(r"(\d+) extraneous bytes before marker", str(error))
        if strict and padding and int(padding[1]) <= MAX_PADDING:
            return _decode_jpeg(data, source, strict=False)
        raise _damaged("JPEG", data, source, f": {error}") from error


def _decode_png(data: np.ndarray, source: str) -> np.ndarray:
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise _damaged("PNG", data, source)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


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
