"""Ablations: many changes to one configuration, each trained and measured alike.

    letocc ablation config/ablation/rows.yaml             all rows that have no result yet
    letocc ablation config/ablation/rows.yaml lidar       one of them

A row that was interrupted goes on where it was; one whose result file holds its present configuration is done.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from letocc_core import config as configuration
from letocc_core.errors import ConfigError
from letocc_core.metrics import results
from letocc_core.processes import single_threaded
from letocc_core.training.config import TrainConfig


@dataclass(frozen=True)
class Row:
    """One variant of the base configuration."""

    label: str  # how a table calls it
    changes: tuple[str, ...] = ()  # key=value, as on the command line of `letocc train`
    stages: tuple[str, ...] = ()  # which are trained; empty: all
    follows: str = ""  # row whose first stage it goes on from instead of training its own; that one follows none


@dataclass(frozen=True)
class AblationConfig:
    """A file of rows."""

    base: Path  # training configuration, beside the file of rows
    rows: dict[str, Row]  # by name
    streets: tuple[int, int] = (9000, 9007)  # seeds of the first and last street to measure on
    seconds: float = 2.0  # s of each

    def __post_init__(self):
        for name, row in self.rows.items():
            if row.follows and (row.follows not in self.rows or self.rows[row.follows].follows):
                free = ", ".join(n for n, r in self.rows.items() if not r.follows)
                raise ConfigError(f"rows.{name}.follows is {row.follows}, expected a row that follows none: {free}")


@dataclass(frozen=True)
class Job:
    """A row ready to be trained and measured."""

    name: str
    stages: tuple[TrainConfig, ...]  # one stage each, in the order of training
    init: Path | None  # checkpoint of the stage before the first of them
    folder: Path  # of its runs
    result: Path  # file to write
    seeds: range
    seconds: float
    command: str

    def checkpoint(self, stage: int) -> Path:
        """What the stage at this position leaves."""
        return self.folder / self.stages[stage].stages[0].name / "latest/model.safetensors"

    def done(self) -> bool:
        """Whether the result file is of this configuration."""
        if not self.result.exists():
            return False
        measured = results.read_results(self.result)["config"]
        try:
            return configuration.from_dict(TrainConfig, measured, str(self.result)) == self.stages[-1]
        except ConfigError:  # of another version, with keys that are no more
            return False


def ablate(
    path: Path,
    names: Sequence[str] = (),
    runs: Path = Path("runs"),
    out: Path = Path("docs/results"),
    workers: int = 2,
) -> list[Path]:
    """Train and measure rows of the file `path`; returns their result files, `out/<folder of path>/<row>.json`.

    Args:
        names: of the rows; all if empty. A row that is followed is trained first.
        runs: folder of runs.
        workers: rows at a time, one thread each.

    Raises:
        ConfigError: a row that is not there, or a change that the configuration does not take.
    """
    jobs = list(plan(path, names, runs, out))
    todo = missing(jobs)
    with patch.dict(os.environ, {"TQDM_DISABLE": "1"}), single_threaded(workers) as pool:
        run_all(todo, pool)
    return [job.result for job in jobs]


def run_all(jobs: Sequence[Job], pool: Executor) -> None:
    """Run the rows, each as soon as the one that it follows is through, and print what they say."""
    waiting = list(jobs)
    begun: dict[Future[str], Job] = {}
    while waiting or begun:
        to_come = {job.checkpoint(0) for job in (*waiting, *begun.values())}
        begun |= {pool.submit(run, job): job for job in waiting if job.init not in to_come}
        waiting = [job for job in waiting if job.init in to_come]
        for future in wait(begun, return_when=FIRST_COMPLETED).done:
            print(future.result(), file=sys.stderr, flush=True)
            del begun[future]


def plan(path: Path, names: Sequence[str], runs: Path, out: Path) -> Iterator[Job]:
    """The jobs of the rows `names` of a file, with the rows that they follow."""
    config = configuration.load(AblationConfig, path)
    unknown = [name for name in names if name not in config.rows]
    if unknown:
        raise ConfigError(f"{path}: no row '{unknown[0]}'; rows: {', '.join(config.rows)}")
    wanted = {*(names or config.rows), *(config.rows[name].follows for name in names)}
    group = path.parent.name
    for name, row in config.rows.items():
        if name not in wanted:
            continue
        whole = configuration.load(TrainConfig, path.parent / config.base, row.changes)
        stages = row.stages or tuple(stage.name for stage in whole.stages)
        init = None
        if row.follows:
            init = runs / group / row.follows / stages[0] / "latest/model.safetensors"
            stages = stages[1:]
        yield Job(
            name,
            tuple(whole.only_stage(stage) for stage in stages),
            init,
            runs / group / name,
            out / group / f"{name}.json",
            range(config.streets[0], config.streets[1] + 1),
            config.seconds,
            f"letocc ablation {path} {name}",
        )


def missing(jobs: Sequence[Job]) -> list[Job]:
    """Those of the rows that are not done, and those whose checkpoint is not there and wanted by such a row."""
    followed = {job.init for job in jobs if job.init and not job.done() and not job.init.exists()}
    return [job for job in jobs if not job.done() or job.checkpoint(0) in followed]


def run(job: Job) -> str:
    """Train and measure one row, in a process of its own; returns what to say about it."""
    from letocc_core.evaluation.checkpoint import evaluate_checkpoint
    from letocc_core.evaluation.config import EvaluationConfig
    from letocc_core.training.loop import train

    begin, init = time.monotonic(), job.init
    for config in job.stages:
        name = config.stages[0].name
        latest = job.folder / name / "latest"
        resume = latest if (latest / "resume.json").exists() else None
        train(config, name, job.folder, resume, init, loader_workers=0, command=job.command)
        init = latest / "model.safetensors"
    evaluate_checkpoint(
        job.folder / job.stages[-1].stages[0].name / "latest" / "model.safetensors",
        seeds=job.seeds,
        json=job.result,
        workers=0,
        command=job.command,
        config=EvaluationConfig(seconds=job.seconds),
    )
    return f"{job.name}: {time.monotonic() - begin:.0f} s, {job.result}"
