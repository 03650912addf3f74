"""Training: the schedule, the order of batches, and a run that is killed and resumed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from train_gradients import losses_and_gradients

from letocc_core import config as configuration
from letocc_core.checkpoint import read_metadata
from letocc_core.cli import main
from letocc_core.errors import ConfigError, DataError
from letocc_core.training import loop as training
from letocc_core.training.config import OptimizerConfig, TrainConfig
from letocc_core.training.distributed import World
from letocc_core.training.loop import learning_rate_factor
from letocc_core.training.reproduce import reproduce
from letocc_core.training.sampler import StepSampler, shares

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = [
    "input.image_size=[32, 64]",
    "model.grid.voxel_size=0.8",
    "data.workers=0",
    "data.simulator.scenes=2",
    "data.simulator.frames=5",
    "data.simulator.variety=0",
    "data.votes=null",
    "stages.0.objective.queries=0",
    *(
        f"stages.{i}.{change}"
        for i in (0, 1)
        for change in ("steps=4", "batch_size=1", "objective.rows=4", "objective.columns=6", "objective.samples=16")
    ),
    "checkpoint_every=2",
    "picture_every=5",
]


def test_learning_rate_by_hand():
    cosine = OptimizerConfig(warmup_steps=4)
    assert learning_rate_factor(cosine, 0, 100) == 0.25
    assert learning_rate_factor(cosine, 3, 100) == 1.0
    assert learning_rate_factor(cosine, 50, 100) == pytest.approx(0.505)
    assert learning_rate_factor(cosine, 100, 100) == pytest.approx(0.01)
    steps = OptimizerConfig(schedule="multistep", warmup_steps=0, decay=0.2)
    assert [learning_rate_factor(steps, s, 10) for s in (0, 5, 6, 8)] == pytest.approx([1, 1, 0.2, 0.04])


def test_batches_depend_on_the_step_alone():
    whole = list(StepSampler(size=5, batch_size=2, seed=3, start=0, stop=10))
    assert list(StepSampler(5, 2, 3, start=4, stop=10)) == whole[4:]
    assert sorted(i for batch in whole[:5] for i in batch) == sorted(
        [*range(5)] * 2
    )  # 5 batches of 2 = two epochs of 5
    assert whole != list(StepSampler(5, 2, 4, 0, 10))
    with pytest.raises(ConfigError, match="holds no clip"):
        StepSampler(0, 2, 3, 0, 10)


def test_processes_share_a_batch():
    assert shares(8) == [range(8)]
    assert shares(8, rank=1, processes=2) == [range(4, 8)]
    assert shares(8, rank=1, processes=2, at_once=2) == [range(4, 6), range(6, 8)]
    for wrong in ({"processes": 3}, {"processes": 2, "at_once": 3}, {"at_once": 0}):
        with pytest.raises(ConfigError, match="batch_size 8 cannot be shared out evenly"):
            shares(8, **wrong)
    whole = StepSampler(5, 4, seed=3, start=2, stop=6)
    parts = [StepSampler(5, 4, 3, 2, 6, shares(4, rank, processes=2, at_once=1)) for rank in (0, 1)]
    assert len(parts[0]) == 8 and len(whole) == 4
    first, second = ([*zip(indices[::2], indices[1::2], strict=True)] for indices in map(list, parts))
    assert [[*a[0], *a[1], *b[0], *b[1]] for a, b in zip(first, second, strict=True)] == list(whole)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def words(out: Path, cache: Path, *extra: str) -> list[str]:
    """Of the command line."""
    given = ["train", str(REPOSITORY / "config/street.yaml"), *TINY, f"data.cache={cache}", *extra]
    return [*given, "--out", str(out), "--threads", "1", "--loader-workers", "0"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(out: Path) -> list[dict]:
    return lines(out / "street/latest/losses.jsonl")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert main(words(out, cache)) == 0
    return out


def test_a_run_leaves_what_it_promises(uninterrupted):
    run = uninterrupted / "street/latest"
    assert (run / "model.safetensors").is_file()
    assert list((run / "tensorboard").iterdir())
    assert json.loads((run / "about.json").read_text())["versions"]["torch"] == torch.__version__
    assert read_metadata(run / "model.safetensors")["trained"] == {"static": 4, "motion": 4}
    entries = losses(uninterrupted)
    assert [(e["stage"], e["step"]) for e in entries] == [(s, i) for s in ("static", "motion") for i in range(4)]
    assert not list((run / "frozen").iterdir())
    assert all({"flow", "still", "parked"} <= e.keys() for e in entries if e["stage"] == "motion")
    assert all(e["total"] == e["total"] and e["learning_rate"] > 0 for e in entries)


@pytest.mark.parametrize("steps", [3, 6])  # in the first stage, in the last
def test_killed_and_resumed_run_repeats_the_uninterrupted_one(uninterrupted, cache, tmp_path, steps: int):
    command = [sys.executable, "-m", "letocc_core.cli", *words(tmp_path, cache)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "street/latest/losses.jsonl"
    deadline = time.monotonic() + 240
    while not (log.is_file() and len(log.read_text().splitlines()) >= steps):
        assert process.poll() is None and time.monotonic() < deadline, f"training did not reach step {steps}"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert main(words(tmp_path, cache, "--resume")) == 0
    assert losses(tmp_path) == losses(uninterrupted)
    a, b = (load_file(run / "street/latest/model.safetensors") for run in (tmp_path, uninterrupted))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_second_stage_alone_starts_from_a_checkpoint_without_its_parts(cache, tmp_path):
    """A checkpoint of the static stage without a motion branch: the flow comes from elsewhere now."""
    only = [*TINY, f"data.cache={cache}", "stages.0.steps=1", "stages.1.steps=1"]
    plain = configuration.load(
        TrainConfig,
        REPOSITORY / "config/street.yaml",
        [
            *only,
            "model.motion_branch=null",
            "stages.1.keep_geometry=false",
            "stages.1.half_turn_augmentation=0",
            "data.simulator.cue_intervals=[0.3]",
        ],
    )
    static = training.train(plain.only_stage("static"), "static", out=tmp_path, loader_workers=0)
    assert plain.needed_data() == plain.data and not list(cache.rglob("*_0.3.npz"))  # flow is for motion
    whole = configuration.load(TrainConfig, REPOSITORY / "config/street.yaml", only)
    init = static / "model.safetensors"
    folder = training.train(whole.only_stage("motion"), "motion", out=tmp_path, loader_workers=0, init=init)
    assert read_metadata(folder / "model.safetensors")["trained"] == {"static": 1, "motion": 1}
    before, after = load_file(init), load_file(folder / "model.safetensors")
    assert "fields.flow.0.weight" in before and "fields.flow.0.weight" not in after and "motion.last.weight" in after
    assert before["fields.sdf.0.weight"].shape == after["fields.sdf.0.weight"].shape
    with pytest.raises(ConfigError, match="no stage 'flow'; stages: static, motion"):
        whole.only_stage("flow")


@pytest.mark.parametrize("name", ["street_static", "kitti_small"])
def test_a_run_of_an_earlier_version_goes_on(name: str, tmp_path: Path):
    """The shipped checkpoints hold the whole configuration of theirs, with keys that are no more."""
    stored = read_metadata(REPOSITORY / f"models/{name}.safetensors")["config"]
    plain = configuration.to_dict(configuration.from_dict(TrainConfig, stored, name))
    assert configuration.differences(stored, plain)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    assert training._open_run(plain, name, tmp_path, tmp_path, "") == tmp_path.resolve()
    with pytest.raises(ConfigError, match="fields that differ: seed: 0 != 1"):
        training._open_run(plain | {"seed": 1}, name, tmp_path, tmp_path, "")


def test_resume_refuses_another_configuration(uninterrupted, cache, capsys):
    assert main(words(uninterrupted, cache, "seed=5", "--resume")) == 1
    assert "fields that differ: seed: 0 != 5" in capsys.readouterr().err


@pytest.mark.parametrize("term", ["eikonal", "gradient"])
def test_what_is_not_finite_stops_the_run_and_can_be_seen_again(cache, tmp_path, monkeypatch, capsys, term: str):
    """A term that turns NaN at the second step; a root whose slope there is infinite."""
    changes = [*TINY, f"data.cache={cache}", "stages.0.batch_size=2", "history_dropout=0"]
    config = configuration.load(TrainConfig, REPOSITORY / "config/street.yaml", changes)
    real, calls = training.stage_losses, []

    def broken(scene, clip, objective, progress, *rest):
        losses = real(scene, clip, objective, progress, *rest)
        calls.append(losses["photometric"].item())
        if progress == 0.25:  # progress after one of four steps
            if term == "eikonal":
                losses["eikonal"] = losses["eikonal"] * torch.nan
            losses["total"] = losses["total"] + (scene.fields.sdf - scene.fields.sdf.detach()).abs().sum().sqrt()
        return losses

    monkeypatch.setattr(training, "stage_losses", broken)
    with pytest.raises(training.TrainingError, match=f"stage static: {term} is (nan|inf) at step 1") as stopped:
        training.train(config, "nan", out=tmp_path, loader_workers=0, micro_batch=1)
    file = tmp_path.resolve() / "nan/latest/batch_static_1_0.pt"
    command = str(stopped.value).rpartition(": ")[2].split()
    assert command[:2] == ["letocc", "reproduce"] and Path(command[2]).samefile(file)
    assert main(command[1:]) == 0
    shown = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert not math.isfinite(float(shown["eikonal" if term == "eikonal" else "gradient of fields"]))
    assert float(shown["photometric"]) == calls[-2]  # as it was when training stopped
    with pytest.raises(DataError, match="not a batch that training saved"):
        reproduce(tmp_path / "nan/latest/config.yaml")


def torchrun(*arguments: str) -> str:
    """What two gloo processes print."""
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "test")])
    done = subprocess.run(
        [*launch, *arguments],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{paths}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_and_parts_of_a_batch_train_as_one(cache, tmp_path):
    """Two processes, and one that adds up the gradients of two parts: the same losses and the same model."""
    changes = [f"stages.{i}.{change}" for i in (0, 1) for change in ("batch_size=2", "steps=2")]
    path = REPOSITORY / "config/street.yaml"
    config = configuration.load(TrainConfig, path, [*TINY, f"data.cache={cache}", *changes])
    alone, parts = (
        training.train(config, name, out=tmp_path, loader_workers=0, micro_batch=at_once)
        for name, at_once in (("alone", None), ("parts", 1))
    )
    printed = torchrun("-m", "letocc_core.cli", *words(tmp_path, cache, *changes))
    launched = tmp_path.resolve() / "street/latest"
    assert printed.split() == [str(launched.resolve() / "model.safetensors")]
    for folder, processes in ((launched, 2), (parts, 1)):
        for name in ("losses.jsonl", "stages.jsonl"):
            assert len((folder / name).read_text().splitlines()) == {"losses.jsonl": 4, "stages.jsonl": 2}[name]
        for entry, other in zip(lines(folder / "losses.jsonl"), lines(alone / "losses.jsonl"), strict=True):
            assert entry.pop("stage") == other.pop("stage") and entry == pytest.approx(other, rel=1e-3, abs=1e-6)
        found, expected = (load_file(run / "model.safetensors") for run in (folder, alone))
        # the first steps of Adam have the size of the learning rate: where a gradient is rounding noise, so is its sign
        close = [torch.isclose(found[k], expected[k], rtol=1e-3, atol=1e-5).flatten() for k in expected]
        assert torch.cat(close).float().mean() > 0.99
        for took in lines(folder / "stages.jsonl"):
            assert took["processes"] == processes and took["peak_memory_gib"] > 0 and 0 <= took["waiting_for_data"] < 1


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """Clips of which one has few rays that count, and rays at random: term by term and parameter by parameter."""
    losses, gradients = losses_and_gradients(World(torch.device("cpu")))
    assert len(gradients) > 100 and [name for name, value in losses.items() if value == 0] == [
        "behind",
        "start",
        "parked",
    ]
    torchrun(str(REPOSITORY / "test/train_gradients.py"), str(tmp_path / "two.pt"))
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    assert two["losses"] == pytest.approx(losses, rel=1e-5)
    assert two["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=0, atol=1e-3 * scale, msg=name)
    during, afterwards = two["threads_of_gloo"]
    assert during and not afterwards  # one that frees a tensor while the interpreter ends aborts the process
