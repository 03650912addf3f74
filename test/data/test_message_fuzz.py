"""Bags whose messages are dropped, cut off, swapped or renamed, whose sizes and metadata lie: read, or refused by name.

The same lies in every run; LETOCC_FUZZ=600 goes on with others for so many seconds.
"""

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from test_any_recording import Drive, content, write_mcap

from letocc_core.data.bags.info import bag_info
from letocc_core.data.bags.recording import Recording
from letocc_core.errors import LetOccError

RUNS = 25
SECONDS = float(os.environ.get("LETOCC_FUZZ", "0"))


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> tuple[list, list, list]:
    drive = Drive(tmp_path_factory.mktemp("fuzz") / "bag", 6).info().jpeg()
    drive.each(
        lambda bag, i, stamp: bag.write_points(stamp, "base_link", {a: np.full(3, 1.0 + i, np.float32) for a in "xyz"})
    )
    return content(
        drive.each(lambda bag, i, stamp: bag.write_odometry("/o", stamp, "odom", "base_link", np.eye(4))).write()
    )


def lie(rng: random.Random, parts: tuple[list, list, list]) -> tuple[list, list, list]:
    """One to four lies, of messages, channels and definitions."""
    schemas, channels, messages = (list(part) for part in parts)
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(["drop", "cut", "swap", "flip", "topic", "type", "encoding", "schema", "stamp", "repeat"])
        i, k = rng.randrange(len(messages)), rng.randrange(len(channels))
        number, stamp, data = messages[i]
        if kind == "drop":
            messages = [m for m in messages if m[0] != number or rng.random() < 0.5] or messages
        elif kind == "cut":
            messages[i] = (number, stamp, data[: rng.randrange(len(data) + 1)])
        elif kind == "swap":
            messages[i] = (number, stamp, rng.choice(messages)[2])
        elif kind == "flip":
            place = rng.randrange(max(len(data), 1))
            messages[i] = (number, stamp, data[:place] + rng.randbytes(4) + data[place + 4 :])
        elif kind == "topic":
            channels[k] = (
                *channels[k][:2],
                rng.choice(["/tf", "/front/image_raw", "/x/camera_info", "", "/a b"]),
                "cdr",
            )
        elif kind == "type":
            channels[k] = (channels[k][0], rng.choice(schemas)[0], *channels[k][2:])
        elif kind == "encoding":
            channels[k] = (*channels[k][:3], rng.choice(["json", "protobuf", "ros1", ""]))
        elif kind == "schema":
            j = rng.randrange(len(schemas))
            schemas[j] = (
                *schemas[j][:2],
                rng.choice(["ros2msg", "ros2idl", "x", ""]),
                rng.randbytes(rng.randrange(40)),
            )
        elif kind == "stamp":
            messages[i] = (number, rng.choice([0, 1, 2**63 - 1, stamp // 2]), data)
        else:
            messages += messages[: rng.randrange(len(messages))]
    return schemas, channels, messages


def check(file: Path) -> None:
    """Reading either works, with every image in a set or counted, or is refused by an exception of our own."""
    try:
        assert str(bag_info(file))
        recording = Recording(file)
        received = sum(1 for _ in recording)
        assert recording.count == received and recording.report()
    except LetOccError as error:
        assert "fuzz" in str(error) or "/" in str(error)


def test_bags_that_lie(honest, tmp_path):
    end, seed = time.monotonic() + SECONDS, 0
    while seed < RUNS or time.monotonic() < end:
        file = write_mcap(
            tmp_path / "fuzz.mcap", random.Random(seed).choice(["ros2", "", "ros1"]), *lie(random.Random(seed), honest)
        )
        try:
            check(file)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        seed += 1
