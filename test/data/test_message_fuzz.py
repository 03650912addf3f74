"""Bags whose messages are dropped, cut off, swapped or renamed, whose sizes and metadata lie: read, or refused by name.

Lies that take nothing from the images leave the sets as they were. The same lies in every run; LETOCC_FUZZ=600 goes on with
others, each test for so many seconds of its process.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_any_recording import STEP_NS, Drive, ahead, content, mount, write_mcap

from letocc_core.data.bags.info import bag_info
from letocc_core.data.bags.recording import Recording
from letocc_core.data.bags.writer import optical_frame
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


def seeds() -> Iterator[int]:
    """The first ones, then others for as long as LETOCC_FUZZ says."""
    end, seed = time.process_time() + SECONDS, 0
    while seed < RUNS or time.process_time() < end:
        yield seed
        seed += 1
    print(f"{seed} cases in {SECONDS:g} s or more")


def tried(seed: int, call: Callable[[], None]) -> None:
    """Call; whatever is raised names the seed."""
    try:
        call()
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error


def test_bags_that_lie(honest, tmp_path):
    for seed in seeds():
        rng = random.Random(seed)
        profile = rng.choice(["ros2", "", "ros1"])
        file = write_mcap(tmp_path / "fuzz.mcap", profile, *lie(rng, honest))
        tried(seed, lambda: check(file))  # noqa: B023


# What must still be read, and how

FRAMES = 8
Sets = list[tuple[int, np.ndarray, list[np.ndarray | None]]]  # stamp (ns), T_world_ego, image of each camera


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """Two cameras, of which `a` is the anchor, a LiDAR and odometry that nobody needs."""
    drive = Drive(tmp_path_factory.mktemp("pair") / "bag", FRAMES)
    drive.static = [("base_link", optical_frame(name), mount()) for name in "ab"]
    for name in "ab":
        drive.info(f"/{name}/camera_info", optical_frame(name))
        drive.jpeg(f"/{name}/image_raw/compressed", optical_frame(name))
    drive.each(
        lambda bag, i, stamp: bag.write_points(stamp, "base_link", {axis: np.ones(3, np.float32) for axis in "xyz"})
    )
    return drive.each(lambda bag, i, stamp: bag.write_odometry("/o", stamp, "odom", "base_link", ahead(i))).write()


def sets_of(path: Path) -> Sets:
    found = [item.frame_set for item in Recording(path)]
    return [(s.stamp_ns, s.T_world_ego, list(s.images)) for s in found]


def harmless(rng: random.Random, parts: tuple[list, list, list], sets: Sets) -> tuple[tuple[list, list, list], Sets]:
    """Some lies, and the sets that a bag with them holds: those of the honest one without the images that are taken."""
    schemas, channels, messages = (list(part) for part in parts)
    topic_of = {number: topic for number, _, topic, _ in channels}
    nth: dict[str, int] = {}
    taken: set[tuple[str, int]] = set()
    out = []
    without_pose = rng.choice([None, *range(1, FRAMES - 1)])  # between two others it is interpolated
    for number, stamp, data in messages:
        topic = topic_of[number]
        i = nth[topic] = nth.get(topic, -1) + 1
        damaged = data[: rng.randrange(4, max(len(data) // 2, 5))]
        if topic.endswith("compressed") and rng.random() < 0.2:
            taken.add((topic[1], i))
            out += [] if rng.random() < 0.5 else [(number, stamp, damaged)]
        elif topic == "/tf" and i == without_pose:
            out += [] if rng.random() < 0.5 else [(number, stamp, damaged)]
        elif (topic in ("/points", "/o") or (topic.endswith("info") and i)) and rng.random() < 0.5:
            out.append((number, stamp, rng.choice([damaged, rng.randbytes(20), b""])))
        else:
            out += [(number, stamp, data)] * rng.choice([1, 1, 1, 2])
    strange = rng.choice(["protobuf", "json", "cdr", "flatbuffer"])
    schemas.append(
        (90, rng.choice(["a/msg/B", "foxglove.Thing", "x"]), rng.choice(["ros2msg", "jsonschema", ""]), b"?")
    )
    channels.append((90, 90, "/stray", strange))
    out.insert(rng.randrange(len(out)), (90, messages[0][1], rng.randbytes(9)))
    if rng.random() < 0.5:
        schemas = [(number, name, "", b"") for number, name, *_ in schemas]
    left = [(i, item) for i, item in enumerate(sets) if ("a", i) not in taken]
    return (schemas, channels, out), [
        (stamp, pose, [images[0], None if ("b", i) in taken else images[1]]) for i, (stamp, pose, images) in left
    ]


def same(found: Sets, expected: Sets) -> None:
    assert [stamp for stamp, *_ in found] == [stamp for stamp, *_ in expected]
    for (_, pose, images), (_, wanted, pictures) in zip(found, expected, strict=True):
        np.testing.assert_allclose(pose, wanted, atol=1e-6)
        for image, picture in zip(images, pictures, strict=True):
            assert (image is None) == (picture is None) and (image is None or np.array_equal(image, picture))


def test_lies_that_take_nothing_from_the_images_leave_the_sets_as_they_were(pair, tmp_path):
    sets, parts = sets_of(pair), content(pair)
    assert [stamp for stamp, *_ in sets] == [STEP_NS * (i + 1) for i in range(FRAMES)]
    for seed in seeds():
        told, expected = harmless(random.Random(seed), parts, sets)
        file = write_mcap(tmp_path / "harmless.mcap", random.Random(seed).choice(["ros2", ""]), *told)
        tried(seed, lambda: same(sets_of(file), expected) if expected else check(file))  # noqa: B023


def replaced(rng: random.Random, tree: Any) -> Any:
    """A tree of mappings and lists with one of its values, at any depth, replaced by one that it should not have."""
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.15:
        return rng.choice([None, "", "banana", -1, 0, 2**63, 1e300, True, [], {}, [None], {"a": 1}])
    key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
    changed = dict(tree) if isinstance(tree, dict) else list(tree)
    changed[key] = replaced(rng, tree[key])
    return changed


def test_metadata_that_lies_takes_no_set(pair, tmp_path):
    """Sizes, times, counts, quality of service, types, names of files: what is read, is read whole."""
    sets, about = sets_of(pair), yaml.safe_load((pair / "metadata.yaml").read_text())
    folder = tmp_path / "told"
    folder.mkdir()
    (file,) = pair.glob("*.mcap")
    (folder / file.name).symlink_to(file)

    def attempt(text: str) -> None:
        (folder / "metadata.yaml").write_text(text)
        try:
            same(sets_of(folder), sets)
            assert str(bag_info(folder))
        except LetOccError as error:
            assert "told" in str(error)

    for seed in seeds():
        rng, told = random.Random(seed), about
        for _ in range(rng.randint(1, 3)):
            told = replaced(rng, told)
        tried(seed, lambda: attempt(yaml.safe_dump(told)))  # noqa: B023
