"""Which topics make a camera, by the conventions of `image_transport` and `image_pipeline`; one rule, live and offline.

An image and its `camera_info` lie in the same namespace: `/front/image_raw` and `/front/camera_info`. Behind the name of
the image may stand a transport: `/front/image_raw/compressed`. A camera is called by its namespace, or `ROOT` where it has
none: `/image_raw` and `/camera_info`. Where a namespace has several images, an image's own
`camera_info` has the same ending (`image_rect`, `camera_info_rect`); `camera_info` alone is for all of them.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from letocc_core.errors import DataError

TRANSPORTS = ("compressed", "compressedDepth", "theora", "zstd", "ffmpeg", "foxglove", "avif", "draco")
RECTIFIED = re.compile(r"(^|[_/])rect(ified)?([_/]|$)", re.IGNORECASE)
NO_PICTURE = re.compile(  # words in a topic's name that stand for what no camera sees
    r"(^|[_/])(masks?|labels?|segmentation|semantics?|instances?|confidence|disparity|normals?)([_/]|$)", re.IGNORECASE
)
BY_NAME = "by its name"  # how it is known
MEASURED = re.compile(r"^(16|32|64)[USF]C\d+$")  # encodings of numbers, as OpenCV names them
COLOUR = re.compile(r"^(rgba?|bgra?|bayer|yuv|yuyv|uyvy|nv\d\d|i420|8UC[34])", re.IGNORECASE)
DEPTH = re.compile(r"(^|[_/])depth([_/]|$)", re.IGNORECASE)
ROOT = "root_camera"
PREFERRED = ("image_raw", "image")  # of several images of a camera; then those that are rectified, then by name


@dataclass(frozen=True)
class CameraTopics:
    """The topics of one camera."""

    name: str  # by `name_of`
    info_topic: str
    image_topic: str

    @property
    def rectified(self) -> bool:
        """The images are rectified already: P holds their intrinsics and there is no distortion."""
        return is_rectified(image_of(self.image_topic).rpartition("/")[2])


def is_rectified(name: str) -> bool:
    """Whether an image's name says that it is rectified: `image_rect`, `image_rect_color`, `rect/image`."""
    return RECTIFIED.search(name) is not None


def image_of(topic: str) -> str:
    """The image that a topic carries: the topic without its transport, which an image in a namespace may be called like."""
    above, _, last = topic.rpartition("/")
    name = above.lstrip("/")
    return above if last in TRANSPORTS and ("/" in name or name.startswith("image")) else topic


def name_of(namespace: str) -> str:
    """What the camera of a namespace is called."""
    return namespace.strip("/") or ROOT


def info_names(image: str) -> tuple[str, ...]:
    """Names of the `camera_info` that may belong to an image of this name (without namespace), its own ones first.

    `image_rect_color`: camera_info_rect_color, camera_info_rect, camera_info.
    """
    _, _, ending = image.partition("image")
    words = ending.strip("_").split("_") if ending.strip("_") else []
    return tuple("_".join(["camera_info", *words[:n]]) for n in range(len(words), -1, -1))


def find_cameras(infos: Collection[str], images: Collection[str]) -> Iterator[CameraTopics]:
    """The cameras that some `camera_info` and image topics make, one a namespace, by name.

    Of several images of a namespace the first of `PREFERRED`, compressed before raw, is taken.
    """
    found: dict[str, list[CameraTopics]] = {}
    for topic in images:
        for image in dict.fromkeys((image_of(topic), topic)):  # the latter where the image has no name of its own
            namespace, _, leaf = image.rpartition("/")
            info = next((t for name in info_names(leaf) if (t := f"{namespace}/{name}") in infos), None)
            if info is not None:
                found.setdefault(namespace, []).append(CameraTopics(name_of(namespace), info, topic))
                break
    for namespace in sorted(found):
        yield min(found[namespace], key=_preference)


def _preference(camera: CameraTopics) -> tuple:
    image = image_of(camera.image_topic)
    leaf = image.rpartition("/")[2]
    rank = PREFERRED.index(leaf) if leaf in PREFERRED else len(PREFERRED)
    return rank, not is_rectified(leaf), leaf, image == camera.image_topic


def no_picture(topic: str, encoding: str) -> str | None:
    """What an image topic holds that is no picture of a camera; None for a picture.

    Args:
        encoding: of `sensor_msgs/Image`, or the format of `CompressedImage`; empty if not known.
    """
    pixels = encoding.partition(";")[0].strip()
    if topic.endswith("/compressedDepth") or "compresseddepth" in encoding.lower() or MEASURED.match(pixels):
        return f"depth or another measurement ({encoding.strip() or 'compressedDepth'})"
    about = "/".join(image_of(topic).split("/")[-2:])
    if NO_PICTURE.search(about):
        return f"no picture of a camera, {BY_NAME}"
    if DEPTH.search(about) and not COLOUR.match(pixels):
        return f"depth, {BY_NAME}"
    return None


def require_stamp(stamp_ns: int, source: str) -> int:
    """The stamp (ns) of a header itself; raises `DataError`, headed by `source` (a topic), for the zero of an empty one."""
    if stamp_ns <= 0:
        raise DataError(f"{source}: stamped {stamp_ns} ns; its publisher must fill header.stamp")
    return stamp_ns
