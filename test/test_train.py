"""Training: the schedule, the order of batches, and a run that is killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from letocc_core import config as configuration
from letocc_core import train as training
from letocc_core.checkpoint import read_metadata
from letocc_core.errors import ConfigError
from letocc_core.train import OptimizerConfig, StepSampler, TrainConfig, learning_rate_factor

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = [
    "input.image_size=[32, 64]",
    "model.grid.voxel_size=0.8",
    "data.simulator.scenes=2",
    "data.simulator.frames=5",
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


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(out: Path, cache: Path, *extra: str) -> list[str]:
    arguments = [
        "train",
        "config/street_motion.yaml",
        *TINY,
        f"data.cache={cache}",
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    return [sys.executable, "-m", "letocc_core.cli", *arguments, "--loader-workers", "0", *extra]


def losses(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "street_motion/latest/losses.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache) -> Path:
    out = tmp_path_factory.mktemp("whole")
    subprocess.run(command(out, cache), cwd=REPOSITORY, check=True, capture_output=True, timeout=300)
    return out


def test_a_run_leaves_what_it_promises(uninterrupted):
    run = uninterrupted / "street_motion/latest"
    assert (run / "model.safetensors").is_file()
    assert list((run / "tensorboard").iterdir())
    assert json.loads((run / "about.json").read_text())["versions"]["torch"] == torch.__version__
    assert read_metadata(run / "model.safetensors")["trained"] == {"static": 4, "motion": 4}
    entries = losses(uninterrupted)
    assert [(e["stage"], e["step"]) for e in entries] == [(s, i) for s in ("static", "motion") for i in range(4)]
    assert all({"flow", "static_flow", "still"} <= e.keys() for e in entries if e["stage"] == "motion")
    assert all(e["total"] == e["total"] and e["learning_rate"] > 0 for e in entries)


@pytest.mark.parametrize("steps", [3, 6])  # in the first stage, in the second
def test_killed_and_resumed_run_repeats_the_uninterrupted_one(uninterrupted, cache, tmp_path, steps: int):
    process = subprocess.Popen(
        command(tmp_path, cache), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = tmp_path / "street_motion/latest/losses.jsonl"
    deadline = time.monotonic() + 240
    while not (log.is_file() and len(log.read_text().splitlines()) >= steps):
        assert process.poll() is None and time.monotonic() < deadline, f"training did not reach step {steps}"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command(tmp_path, cache, "--resume"), cwd=REPOSITORY, check=True, capture_output=True, timeout=300)
    assert losses(tmp_path) == losses(uninterrupted)
    a, b = (load_file(run / "street_motion/latest/model.safetensors") for run in (tmp_path, uninterrupted))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_second_stage_alone_starts_from_a_checkpoint_without_its_parts(cache, tmp_path):
    """A checkpoint of the static stage without a motion sweep: the flow field has more inputs now."""
    only = [*TINY, f"data.cache={cache}", "stages.0.steps=1", "stages.1.steps=1"]
    plain = configuration.load(
        TrainConfig, REPOSITORY / "config/street_motion.yaml", [*only, "model.motion_sweep=null"]
    )
    static = training.train(plain.only_stage("static"), "static", out=tmp_path, loader_workers=0)
    whole = configuration.load(TrainConfig, REPOSITORY / "config/street_motion.yaml", only)
    init = static / "model.safetensors"
    folder = training.train(whole.only_stage("motion"), "motion", out=tmp_path, loader_workers=0, init=init)
    assert read_metadata(folder / "model.safetensors")["trained"] == {"static": 1, "motion": 1}
    before, after = load_file(init), load_file(folder / "model.safetensors")
    assert before["fields.flow.0.weight"].shape != after["fields.flow.0.weight"].shape
    assert before["fields.sdf.0.weight"].shape == after["fields.sdf.0.weight"].shape
    with pytest.raises(ConfigError, match="no stage 'flow'; stages: static, motion"):
        whole.only_stage("flow")


def test_resume_refuses_another_configuration(uninterrupted, cache):
    run = subprocess.run(
        [*command(uninterrupted, cache), "seed=5", "--resume"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "fields that differ: seed: 0 != 5" in run.stderr


def test_a_loss_that_is_not_finite_stops_the_run(cache, tmp_path, monkeypatch):
    config = configuration.load(TrainConfig, REPOSITORY / "config/street_motion.yaml", [*TINY, f"data.cache={cache}"])
    real = training.stage_losses
    monkeypatch.setattr(training, "stage_losses", lambda *a: {**real(*a), "eikonal": torch.tensor(float("nan"))})
    with pytest.raises(training.TrainingError, match="eikonal is not finite at step 0"):
        training.train(config, "nan", out=tmp_path, loader_workers=0)
    assert (tmp_path / "nan/latest/batch_0_0.pt").is_file()
