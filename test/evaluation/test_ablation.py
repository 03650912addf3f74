"""The file of ablations: its rows, and a small one trained, measured, and not done twice."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from letocc_core.errors import ConfigError
from letocc_core.evaluation import ablation, checkpoint
from letocc_core.metrics.results import read_results

ROWS = Path(__file__).resolve().parents[2] / "config/ablation/rows.yaml"


def test_every_row_is_a_change_to_the_base():
    jobs = {job.name: job for job in ablation.plan(ROWS, (), Path("runs"), Path("out"))}
    stages = {name: [config.stages[0].name for config in job.stages] for name, job in jobs.items()}
    assert stages["static"] == ["static"] and stages["ours"] == ["motion"] and stages["one_stage"] == ["motion"]
    assert stages["temporal_concat"] == ["static", "motion"]
    assert jobs["ours"].init == Path("runs/ablation/static/static/latest/model.safetensors")
    assert jobs["temporal_concat"].stages[0].model.temporal.kind == "concat_conv3d"
    assert jobs["ours"].result == Path("out/ablation/ours.json")
    budget = steps(jobs["static"]) + steps(jobs["ours"])
    geometry = {name for name, names in stages.items() if names == ["static"]}
    looking_ahead = {name for name in geometry if jobs[name].stages[0].data.simulator.frames > 7}
    assert len(looking_ahead) == 7 and {steps(jobs[name]) for name in looking_ahead} == {400}
    assert {steps(jobs[name]) for name in geometry - looking_ahead} == {steps(jobs["static"])}
    whole = {name for name, job in jobs.items() if job.init is None} - geometry
    assert {name: steps(jobs[name]) for name in whole} == dict.fromkeys(whole, budget)  # one stage is as long as two
    assert len({repr(job.stages) for job in jobs.values()}) == len(jobs)  # no two rows alike


def steps(job: ablation.Job) -> int:
    """Steps of all the stages of a row."""
    return sum(config.stages[0].steps for config in job.stages)


def test_a_row_brings_the_one_that_it_follows():
    assert [job.name for job in ablation.plan(ROWS, ["ours"], Path("runs"), Path("out"))] == ["static", "ours"]
    with pytest.raises(ConfigError, match="no row 'our'; rows: static, ours"):
        list(ablation.plan(ROWS, ["our"], Path("runs"), Path("out")))


def test_a_row_may_not_follow_a_follower():
    rows = {"a": ablation.Row("a"), "b": ablation.Row("b", follows="a"), "c": ablation.Row("c", follows="b")}
    with pytest.raises(ConfigError, match=r"rows\.c\.follows is b, expected a row that follows none: a"):
        ablation.AblationConfig(Path("base.yaml"), rows)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch) -> Path:
    """A row of two steps a stage, on a small street."""
    monkeypatch.chdir(tmp_path)
    base = yaml.safe_load((ROWS.parent / "base.yaml").read_text())
    base["input"]["image_size"] = [32, 64]
    base["model"]["grid"] = {"voxel_size": 0.8}
    base["data"] |= {"cache": str(tmp_path / "cache"), "workers": 0}
    base["data"]["simulator"] |= {"scenes": 1, "frames": 5}
    for stage in base["stages"]:
        stage |= {"steps": 2, "objective": {"rows": 4, "columns": 6, "samples": 16}}
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    written = {"base": "base.yaml", "streets": [9000, 9000], "seconds": 0.6, "rows": {"ours": {"label": "ours"}}}
    (folder / "rows.yaml").write_text(yaml.safe_dump(written))
    return folder / "rows.yaml"


def test_a_row_is_run_again_if_another_wants_its_checkpoint(tmp_path, monkeypatch):
    """Its result alone came along, as in a fresh copy of the repository."""
    done = {"static"}
    monkeypatch.setattr(ablation.Job, "done", lambda job: job.name in done)
    jobs = list(ablation.plan(ROWS, ["ours"], tmp_path, tmp_path))
    assert [job.name for job in ablation.missing(jobs)] == ["static", "ours"]
    jobs[1].init.parent.mkdir(parents=True)
    jobs[1].init.touch()
    assert [job.name for job in ablation.missing(jobs)] == ["ours"]
    done.add("ours")
    assert ablation.missing(jobs) == []


def test_a_row_waits_for_the_one_that_it_follows_and_for_no_other(monkeypatch, capsys):
    begun = []

    def run(job: ablation.Job) -> str:
        begun.append(job.name)
        return f"{job.name} is done"

    monkeypatch.setattr(ablation, "run", run)
    jobs = list(ablation.plan(ROWS, ["cue_true", "ours", "lidar"], Path("runs"), Path("out")))
    with ThreadPoolExecutor(1) as pool:
        ablation.run_all(jobs, pool)
    assert begun == ["static", "lidar", "ours", "cue_true"]
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(f"{name} is done" for name in begun)
    with ThreadPoolExecutor(1) as pool:
        ablation.run_all(jobs[1:], pool)  # what it follows was done before
    assert begun[4:] == ["ours", "cue_true", "lidar"]


def test_an_interrupted_row_goes_on_and_is_measured_once(tiny: Path, monkeypatch):
    """What was trained is not trained again; a stage that was never saved begins anew; what is done is not done twice."""
    tried = []

    def interrupted(checkpoint: Path, **_):
        tried.append(checkpoint)
        raise KeyboardInterrupt

    (job,) = ablation.plan(tiny, (), Path("runs"), Path("docs/results"))
    begun = job.folder / "static" / "2020-01-01_00-00-00"
    begun.mkdir(parents=True)
    (begun.parent / "latest").symlink_to(begun.name)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "evaluate_checkpoint", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                ablation.run(job)
    assert tried == [Path("runs/few/ours/motion/latest/model.safetensors")] * 2
    folders = {stage: sorted(path.name for path in (job.folder / stage).iterdir()) for stage in ("static", "motion")}
    assert [len(names) for names in folders.values()] == [3, 2]  # with `latest`; the empty one is still there
    lines = (job.folder / "motion/latest/losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]

    assert pickle.loads(pickle.dumps((ablation.run, job))) == (ablation.run, job)  # as processes get it
    monkeypatch.setattr(ablation, "single_threaded", ThreadPoolExecutor)  # which has imported all that it takes
    files = ablation.ablate(tiny, workers=1)
    assert files == [Path("docs/results/few/ours.json")]
    found = read_results(files[0])
    assert found["frames"] == 2 and [stage["name"] for stage in found["config"]["stages"]] == ["motion"]
    assert found["checkpoint"] == "runs/few/ours/motion/latest/model.safetensors"
    again = {stage: sorted(path.name for path in (job.folder / stage).iterdir()) for stage in ("static", "motion")}
    assert again == folders
    started = json.loads(Path("runs/few/ours/motion/latest/about.json").read_text())
    assert started["command"] == f"letocc ablation {tiny} ours"
    written = files[0].stat().st_mtime_ns
    assert ablation.ablate(tiny, workers=1) == files and written == files[0].stat().st_mtime_ns
    base = tiny.with_name("base.yaml")
    base.write_text(base.read_text().replace("steps: 2", "steps: 3"))
    assert not any(job.done() for job in ablation.plan(tiny, (), Path("runs"), Path("docs/results")))
