"""`letocc view`: a saved answer is reproduced, or the difference is told; its picture is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from letocc_core import checkpoint, cli
from letocc_core import config as configuration
from letocc_core.data.bags.answers import AnswerBag
from letocc_core.errors import DataError
from letocc_core.evaluation.view import Difference, view_snapshot
from letocc_core.geometry.grid import GridSpec
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.snapshot import Snapshot
from letocc_core.stream.types import Calibration, FrameSet

STREET = Path(__file__).resolve().parents[2] / "config" / "street.yaml"
GRID = {"lower": [-6.4, -6.4, -1.0], "upper": [6.4, 6.4, 5.4], "voxel_size": 0.8}
K = np.array([[50.0, 0, 39.5], [0, 50, 23.5], [0, 0, 1]])
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """An untrained checkpoint."""
    section = yaml.safe_load(STREET.read_text())["model"]
    config = configuration.from_dict(
        ModelConfig, section | {"grid": GRID, "fields": {"sdf_start": 0.0}, "motion_branch": None}, "street.yaml"
    )
    torch.manual_seed(0)
    model = LetOccFlow(config)
    torch.nn.init.normal_(model.fields.flow[-1].weight, std=0.5)
    path = tmp_path_factory.mktemp("view") / "model.safetensors"
    checkpoint.save(path, model, {"model": configuration.to_dict(config), "input": {"image_size": [32, 56]}})
    return path


@pytest.fixture
def snapshot(saved: Path) -> Snapshot:
    """What the node would save after three sets of one camera."""
    pipeline = OccFlowPipeline.from_checkpoint(saved)
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 256, (48, 80, 3), np.uint8)
        pose = np.eye(4)
        pose[0, 3] = 0.5 * i
        pipeline.step(FrameSet(i * 200_000_000, (image,), (Calibration(80, 48, K),), FORWARD[None], pose))
    about = {"checkpoint": str(saved), "cameras": ["camera_front"], "versions": {"letocc": "0.1.0"}}
    return replace(pipeline.last, about=about)


def test_the_answer_is_reproduced_and_drawn(snapshot: Snapshot, tmp_path: Path, capsys):
    path = snapshot.save(tmp_path / "snapshot")
    assert cli.main(["view", str(path)]) == 0
    assert "the same answer" in capsys.readouterr().out
    with Image.open(tmp_path / "snapshot.png") as picture:
        assert picture.size[0] == 1800
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100


def test_another_answer_is_told_with_its_difference(snapshot: Snapshot, tmp_path: Path, capsys):
    answer = snapshot.answer
    probability = answer.probability.copy()
    probability[3, 3, 3] += 0.25 if probability[3, 3, 3] < 0.5 else -0.25
    path = replace(snapshot, answer=replace(answer, probability=probability)).save(tmp_path / "changed")
    assert cli.main(["view", str(path), "--out", str(tmp_path / "picture.png")]) == 1
    assert "ANOTHER ANSWER: largest difference 0.25 in probability" in capsys.readouterr().out
    assert (tmp_path / "picture.png").is_file()


def test_differences_by_hand(snapshot: Snapshot):
    answer = snapshot.answer
    assert str(Difference.between(answer, answer)) == "the same answer, bit by bit"
    velocity = answer.velocity.copy()
    velocity[1, 1, 1] += (0.0, -0.5)
    lowered = replace(answer, velocity=velocity, threshold=1.0)
    found = Difference.between(answer, lowered)
    assert (found.probability, found.velocity) == (0.0, pytest.approx(0.5))
    assert found.occupied == answer.occupied.sum() and not found.equal
    with pytest.raises(DataError, match="different grids"):
        Difference.between(answer, replace(answer, grid=GridSpec((0, 0, 0), (1, 1, 1), 0.5)))


def test_a_snapshot_without_a_checkpoint_asks_for_one(snapshot: Snapshot, saved: Path, tmp_path: Path):
    path = replace(snapshot, about={}).save(tmp_path / "nameless")
    with pytest.raises(DataError, match=r"nameless\.npz: does not say which checkpoint answered; give it with --check"):
        view_snapshot(path, tmp_path / "picture.png")
    assert view_snapshot(path, tmp_path / "picture.png", saved).equal


def test_a_snapshot_and_a_bag_of_answers_go_into_files_for_viewers(snapshot: Snapshot, tmp_path: Path, capsys):
    pytest.importorskip("foxglove")
    reader = pytest.importorskip("mcap.reader")
    path = snapshot.save(tmp_path / "snapshot")
    assert cli.main(["view", str(path), "--save", str(tmp_path / "one.mcap")]) == 0
    pose = snapshot.sets[-1].T_world_ego
    with AnswerBag(tmp_path / "answers") as bag:
        for number in range(2):
            bag.write(replace(snapshot.answer, stamp_ns=10**9 * (1 + number)), pose)
    assert cli.main(["view", str(tmp_path / "answers"), "--save", str(tmp_path / "two.mcap")]) == 0
    found = []
    for name in ("one.mcap", "two.mcap"):
        with (tmp_path / name).open("rb") as file:
            summary = reader.make_reader(file).get_summary()
        topics = {summary.channels[i].topic: n for i, n in summary.statistics.channel_message_counts.items()}
        found.append((topics["/occ_flow_node/voxels"], "/camera_front/image_raw/compressed" in topics))
    assert found == [(1, True), (2, False)]


def test_what_cannot_be_viewed_is_told(tmp_path: Path, capsys):
    for arguments, said in (
        (["view"], "either a PATH or --live"),
        (["view", "a.rrd", "--live"], "either a PATH or --live"),
        (["view", str(tmp_path / "nothing"), "--save", str(tmp_path / "x.mcap")], "nothing"),
        (["view", str(tmp_path / "nothing.rrd"), "--web"], "no such file"),
    ):
        assert cli.main(arguments) == 1
        assert said in capsys.readouterr().err
