"""Turns the video of a bag's cameras into single images, which everything else here reads; the rest is copied as it is."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from letocc_core.data.bags import reader as bags
from letocc_core.data.bags.writer import BagWriter
from letocc_core.errors import DataError, LetOccError, show
from letocc_core.stream import images
from letocc_core.stream.topics import image_of

DECODERS = {"H.264": "h264", "H.265": "hevc", "AV1": "av1", "VP8": "vp8", "VP9": "vp9"}  # PyAV's names


@dataclass
class ConvertedVideo:
    """What became of one topic of video."""

    topic: str  # of the video
    codec: str
    images_topic: str
    images: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # messages that gave no image, by reason

    def __str__(self) -> str:
        lost = "".join(f"; left out: {number} x {reason}" for reason, number in self.lost.items())
        return f"{self.topic}: {self.images} images of {self.codec} to {self.images_topic}{lost}"


def video_to_images(
    path: str | Path, out: str | Path, quality: int = 95
) -> tuple[list[ConvertedVideo], dict[str, str]]:
    """Write a bag with JPEG images in place of video.

    Each message becomes the image that it holds, at its own stamp. Those before the first key frame hold none.

    Args:
        path: bag folder or file, with H.264, H.265, AV1, VP8 or VP9 in `sensor_msgs/CompressedImage`,
            `foxglove_msgs/CompressedVideo` or `ffmpeg_image_transport_msgs/FFMPEGPacket`.
        out: bag folder to write.
        quality: of JPEG, 1 to 100.

    Returns what became of each topic of video, and topics that were left out with the reason.

    Raises `DataError`: no video in the bag, one of another kind, or one that cannot be decoded; `LetOccError` without PyAV.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise LetOccError("video is decoded by PyAV, which is not installed: pip install 'letocc[video]'") from error

    with bags.open_bag(path) as bag:
        found = [
            ConvertedVideo(topic, _codec(bag, topic), f"{image_of(topic)}/compressed") for topic in bag.video_topics
        ]
        if not found:
            raise DataError(
                f"{show(path)}: no video; expected a topic of CompressedImage or of a video type that holds H.264 or the like"
            )
        left_out = dict(bag.skipped)
        with BagWriter(out) as writer:
            for video in found:
                for received_ns, fields in _decode(bag, video, quality):
                    writer.write(video.images_topic, bags.COMPRESSED, received_ns, **fields)
                if not video.images:
                    raise DataError(f"{show(path)}: no image can be decoded: {video}")
            types = {}
            for connection in bag.connections:
                if connection.msgcount and connection.topic not in bag.video_topics:
                    try:
                        types[connection.topic] = bag.written_types(connection)
                    except DataError as error:
                        left_out[connection.topic] = str(error)
            for connection, received_ns, data in bag.serialized(tuple(types)):
                writer.copy(connection, types[connection.topic], received_ns, data)
    return found, left_out


def _decode(bag: bags.Bag, video: ConvertedVideo, quality: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(receive time in ns, fields of `CompressedImage`) of each image of a topic of video; what is lost is counted."""
    import av

    decoder: Any = av.CodecContext.create(DECODERS[video.codec], "r")
    waiting: dict[int, tuple[int, Any]] = {}  # by the number of the message: receive time and header

    def images_of(packet: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for frame in decoder.decode(packet):
            received_ns, header = waiting.pop(frame.pts)
            video.images += 1
            jpeg = images.encode(frame.to_ndarray(format="rgb24"), "jpeg", quality)
            yield received_ns, {"header": header, "format": "jpeg", "data": np.frombuffer(jpeg, np.uint8)}

    def unreadable(topic: str, error: DataError) -> None:
        video.lost["message that cannot be read"] += 1

    for number, (_, received_ns, message) in enumerate(bag.received([video.topic], unreadable)):
        packet = av.Packet(bytes(message.data))
        packet.pts = number
        waiting[number] = received_ns, _header(message)
        try:
            yield from images_of(packet)
        except av.error.FFmpegError:
            waiting.pop(number, None)
            video.lost["message without a frame that can be decoded, as before the first key frame"] += 1
    yield from images_of(None)
    if waiting:
        video.lost["frame that builds on others, which are missing"] += len(waiting)


def _header(message: Any) -> Any:
    """`std_msgs/Header` of a message; CompressedVideo has its fields instead."""
    if hasattr(message, "header"):
        return message.header
    return bags.header(message.timestamp, message.frame_id)


def _codec(bag: bags.Bag, topic: str) -> str:
    """Name of the codec of a topic, by its first message."""
    for _, message in bag.readable([topic]):
        said = str(getattr(message, "format", "") or getattr(message, "encoding", ""))
        name = images.video_of(bytes(message.data[:8]), said)
        if name in DECODERS:
            return name
        raise DataError(f"{show(bag.path)}: {topic}: video format is '{said}', expected one of {', '.join(DECODERS)}")
    raise DataError(f"{show(bag.path)}: {topic}: none of its messages can be read")
