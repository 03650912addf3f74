"""Bytes and numbers that lie: whatever comes from outside is taken, or refused by an exception of our own.

Hypothesis tries the same examples in every run. Memory is watched: a refusal comes before what the lie asks for is
allocated.
"""

import json
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from model_cases import model_config
from safetensors import safe_open
from safetensors.torch import save_file
from test_bag import write

from letocc_core import checkpoint, config
from letocc_core.data.bags import reader as bags
from letocc_core.data.bags.pointcloud import to_xyz
from letocc_core.errors import CheckpointError, ConfigError, DataError, LetOccError
from letocc_core.frame import InputConfig
from letocc_core.geometry.calibration import Calibration
from letocc_core.geometry.rectify import Rectifier
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.stream import images
from letocc_core.stream.assembler import AssemblerConfig, FrameAssembler
from letocc_core.training.config import TrainConfig

ALLOWED = 64 * 2**20  # bytes of numpy and Python that refusing may take
SIZE = st.one_of(st.integers(0, 64), st.sampled_from([2**16, 2**31 - 1, 2**31, 2**32 - 1]))
NUMBER = st.one_of(st.floats(width=64), st.sampled_from([0.0, 1.0, 1e300, -1.0]))


def fuzz(examples: int) -> Callable:
    """The same examples in each run, however slow the machine."""
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=health)


def refused_or_taken(call: Callable[[], object]) -> object:
    """What it gives, or None if it was refused as it should be; anything else it raises is a defect."""
    tracemalloc.start()
    try:
        return call()
    except LetOccError:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < ALLOWED, f"{peak} bytes were allocated"


def damage(data: bytes, edits: list[tuple[int, bytes]], kept: float) -> bytes:
    """Some bytes overwritten, the end cut off."""
    out = bytearray(data)
    for place, piece in edits:
        at = place % max(len(out), 1)
        out[at : at + len(piece)] = piece
    return bytes(out[: int(len(out) * kept)])


EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)
KEPT = st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5, 0.1])


# Images


@fuzz(300)
@given(
    encoding=st.one_of(st.sampled_from([*images.ENCODINGS]), st.text(max_size=8)),
    height=SIZE,
    width=SIZE,
    step=SIZE,
    data=st.binary(max_size=512),
    bigendian=st.booleans(),
)
def test_raw_images(encoding: str, height: int, width: int, step: int, data: bytes, bigendian: bool):
    image = refused_or_taken(lambda: images.decode_raw(encoding, height, width, step, data, bigendian, "/camera"))
    assert image is None or (image.shape == (height, width, 3) and image.dtype == np.uint8)


PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_compressed_images(kind: str):
    whole = images.encode(PICTURE, kind)

    @fuzz(200)
    @given(EDITS, KEPT)
    def attempt(edits: list[tuple[int, bytes]], kept: float):
        image = refused_or_taken(lambda: images.decode_compressed(damage(whole, edits, kept), "/camera"))
        assert image is None or (image.ndim == 3 and image.dtype == np.uint8)

    attempt()


def test_compressed_images_that_claim_any_size():
    png = bytearray(images.encode(PICTURE, "png"))
    png[16:24] = struct.pack(">II", 60000, 60000)
    jpeg = bytearray(images.encode(PICTURE, "jpeg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65535, 65535)
    for data, size in ((png, "60000 x 60000"), (jpeg, "65535 x 65535")):
        with pytest.raises(DataError, match=f"claims {size} px, expected 67108864 px or less"):
            images.decode_compressed(bytes(data), "/camera")


# Intrinsics, transforms, points


@fuzz(200)
@given(
    width=SIZE,
    height=SIZE,
    K=st.lists(NUMBER, min_size=9, max_size=9),
    D=st.lists(NUMBER, max_size=16),
    model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "moon"]),
)
@example(width=1, height=1, K=[13.0, 0, 0, 0, 13, 0, 0, 0, 1], D=[], model="equidistant")  # smaller than a pixel
def test_intrinsics(width: int, height: int, K: list[float], D: list[float], model: str):
    """Those that the assembler takes can be used on an image of the size that they name, if it is one that comes."""
    calibration = Calibration(width, height, np.array(K).reshape(3, 3), np.array(D), model)

    def use() -> None:
        FrameAssembler(AssemblerConfig(("front",))).add_calibration("front", calibration, "front_optical")
        if width * height <= 2**16:
            Rectifier(8, 12)(np.zeros((height, width, 3), np.uint8), calibration, "/front")

    refused_or_taken(use)


@fuzz(100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "odom", "base_link", "camera"]),
            st.sampled_from(["odom", "base_link", "camera", "/camera"]),
            st.integers(-(2**62), 2**62),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_transforms(items: list[tuple[str, str, int, bool]]):
    """No order of them closes a loop, and each question is answered or refused."""
    assembler = FrameAssembler(AssemblerConfig(("front",)))
    for parent, child, stamp_ns, static in items:
        refused_or_taken(lambda: assembler.add_transform(parent, child, stamp_ns, np.eye(4), static))  # noqa: B023
        refused_or_taken(lambda: assembler.poses.lookup("odom", "camera", stamp_ns, extrapolate=True))  # noqa: B023


class Named:
    """Stands for a message."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


FIELD = st.builds(
    Named,
    name=st.sampled_from(["x", "y", "z", "intensity"]),
    offset=SIZE,
    datatype=st.integers(0, 9),
    count=SIZE,
)
CLOUD = st.builds(
    Named,
    height=SIZE,
    width=SIZE,
    fields=st.lists(FIELD, max_size=4),
    is_bigendian=st.booleans(),
    point_step=SIZE,
    row_step=SIZE,
    data=st.binary(max_size=256).map(lambda data: np.frombuffer(data, np.uint8)),
)


@fuzz(300)
@given(CLOUD)
def test_point_clouds(cloud: Named):
    points = refused_or_taken(lambda: to_xyz(cloud, "/points"))
    assert points is None or points.shape[1:] == (3,)


# Bags


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bags(storage: str, tmp_path: Path):
    """Damaged anywhere, a bag is read as far as it goes or refused."""
    good = write(tmp_path / "good", 3, storage)
    (file,) = (p for p in good.iterdir() if p.suffix in (".mcap", ".db3"))
    whole = file.read_bytes()

    def read(folder: Path) -> int:
        count = 0
        with bags.open_bag(folder) as bag:
            for _ in bag.messages(lidar_topics=bag.lidar_topics, damaged=lambda error: None):
                count += 1
        return count

    assert read(good) == 2 + 3 * 4 + 1  # the first calibration comes twice

    @fuzz(20)
    @given(EDITS, KEPT)
    def attempt(edits: list[tuple[int, bytes]], kept: float):
        folder = shutil.copytree(good, tmp_path / "bad", dirs_exist_ok=True)
        (folder / file.name).write_bytes(damage(whole, edits, kept))
        refused_or_taken(lambda: read(folder))

    attempt()


# Configurations


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
KEYS = [["model"], ["model", "grid"], ["model", "dim"], ["input", "image_size"], ["model", "encoder"], ["stages"], []]


@fuzz(150)
@given(st.sampled_from(KEYS), PLAIN)
def test_configurations(keys: list[str], value: object):
    data: object = value
    for key in reversed(keys):
        data = {key: data}
    refused_or_taken(lambda: config.from_dict(TrainConfig, data, "fuzz.yaml"))


@fuzz(150)
@given(st.one_of(st.binary(max_size=80), st.text("[]{}&*!:,-? \n\t'\"ab0.", max_size=80).map(str.encode)))
def test_yaml_files(tmp_path: Path, data: bytes):
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(data)
    found = refused_or_taken(lambda: config.read(path))
    assert found is None or isinstance(found, dict)


def test_yaml_that_is_more_than_data(tmp_path: Path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"!!python/object/apply:pathlib.Path.touch [{tmp_path / 'touched'}]")
    with pytest.raises(ConfigError, match=r"evil\.yaml: not valid YAML"):
        config.read(path)
    assert not (tmp_path / "touched").exists()
    path.write_text("[" * 5000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        config.read(path)
    laughs = ["model: &a0 [ha, ha]"] + [f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    path.write_text("\n".join(laughs) + "\ngrid: *a8\n")
    data = config.read(path)
    with pytest.raises(ConfigError, match="expected a mapping of keys") as error:
        config.from_dict(TrainConfig, {"model": data["grid"]}, str(path))
    assert len(str(error.value)) < 1000


# Checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    model = LetOccFlow(model_config())
    sections = {"model": config.to_dict(model.config), "input": config.to_dict(InputConfig())}
    checkpoint.save(path, model, sections)
    return path


def forged(saved: Path, path: Path, **changes) -> Path:
    """The same tensors with another configuration of the model."""
    with safe_open(str(saved), "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    sections = json.loads(metadata["config"])
    sections["model"] |= changes
    save_file(tensors, str(path), metadata | {"config": json.dumps(sections)})
    return path


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"dim": 2_000_000},
            "needs far more than the .* values that its tensors hold|describes no model that can be built",
        ),
        ({"grid": {"lower": [-8e4] * 3, "upper": [8e4] * 3, "voxel_size": 0.4}}, "but its tensors hold only .* values"),
        ({"dim": -8}, "configuration describes no model that can be built"),
        ({"grid": []}, "'model.grid' is .*, expected a mapping of keys"),
        ({"grid": {"voxel_size": float("nan")}}, "expected finite numbers"),
    ],
)
def test_checkpoints_that_ask_for_too_much(saved: Path, tmp_path: Path, changes: dict, text: str):
    path = forged(saved, tmp_path / "forged.safetensors", **changes)
    with pytest.raises(LetOccError, match=text):
        checkpoint.load_model(path)


@fuzz(60)
@given(edits=EDITS, kept=KEPT)
def test_checkpoints(saved: Path, edits: list[tuple[int, bytes]], kept: float):
    """Damage in the header; what the weights are is not for the file to know."""
    header = 8 + struct.unpack("<Q", saved.read_bytes()[:8])[0]
    path = saved.with_name("bad.safetensors")
    path.write_bytes(damage(saved.read_bytes(), [(place % header, piece) for place, piece in edits], kept))
    refused_or_taken(lambda: checkpoint.load_model(path))


def test_a_pickle_is_refused_whatever_it_is_called(tmp_path: Path):
    for protocol in range(2, 6):
        path = tmp_path / f"{protocol}.safetensors"
        path.write_bytes(b"\x80" + bytes([protocol]) + b"}q\x00.")
        with pytest.raises(CheckpointError, match="pickled checkpoint; refused, because"):
            checkpoint.load_model(path)
