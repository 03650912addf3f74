"""Simulate an unseen street, run the real node on its bag over DDS, compare with the truth, draw what came out."""

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from letocc_core.checkpoint import read_metadata
from letocc_core.data.bags.answers import read_answers
from letocc_core.data.simulator.bags import simulate
from letocc_core.data.simulator.rig import Rig
from letocc_core.errors import MissingDependencyError
from letocc_core.evaluation.moment import moment_of, scene_of
from letocc_core.evaluation.samples import RecordedDrive, Sample
from letocc_core.evaluation.score import Recorded, evaluate
from letocc_core.metrics import results
from letocc_core.stream.types import OccFlow
from letocc_core.versions import versions
from letocc_core.viz.overview import overview, save_png
from letocc_core.viz.replay_gif import write_gif
from letocc_core.viz.viewers.logs import ViewOptions, open_logs
from letocc_ros.player import Played, play
from letocc_ros.recorder import OUTPUTS, Recorder

REPOSITORY = Path(__file__).resolve().parents[1]
WARMUP = 2  # image sets until the network has its whole past


def main() -> int:
    """The whole demonstration; returns the exit status."""
    options = _options()
    started = time.monotonic()
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    size = tuple(read_metadata(options.checkpoint)["config"]["input"]["image_size"])

    _say(1, f"simulating {options.seconds:g} s of street {options.seed}, which the network never saw")
    [bag] = simulate(
        out / "input", seed=options.seed, seconds=options.seconds, rig="nuscenes", rate_hz=options.rate, image_size=size
    )
    _say(2, "starting occ_flow_node, playing the bag to it over DDS, recording what it publishes")
    with running_node(options.checkpoint, out / "node.log"), Recorder(out / "output") as recorder:
        recorder.wait_for_publishers()
        played = play(bag, as_fast=True, wait=300.0, patience=20.0)
        for topic in OUTPUTS:
            recorder.wait_for(topic, played.sets - played.unanswered, timeout=5.0)
        published = recorder.received
    answers = list(read_answers(out / "output"))
    if not answers:
        print(f"the node published nothing; its log: {out / 'node.log'}", file=sys.stderr)
        return 1

    _say(3, "comparing with the truth")
    samples = list(RecordedDrive(bag))  # grouped as the node groups them, with the truth that lies beside the bag
    found = evaluate(Recorded(answers), [samples], warmup=WARMUP, mean_occupancy=_mean_occupancy(answers[0]))
    about = {"config": read_metadata(options.checkpoint)["config"], "versions": versions()}
    about |= {"checkpoint": str(options.checkpoint), "command": shlex.join(["scripts/demo.sh", *sys.argv[1:]])}
    results.write_results(out / "metrics.json", {**found, **about})

    _say(4, "drawing")
    _draw(out, samples, answers, options.seed)
    _report(out, found, played, published, answers, time.monotonic() - started)
    return 0


@contextmanager
def running_node(checkpoint: Path, log: Path) -> Iterator[subprocess.Popen]:
    """`occ_flow_node` as its own process, ended by SIGINT as Ctrl-C would."""
    command = [sys.executable, "-m", "letocc_ros.node", "--ros-args", "-p", f"checkpoint:={checkpoint.resolve()}"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "-p", "threads:=2"], stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _mean_occupancy(answer: OccFlow) -> np.ndarray | None:
    """The shipped mean of the training streets' occupancy, if it is on the model's grid: the second baseline."""
    with np.load(REPOSITORY / "models/street_mean_occupancy.npz") as file:
        share = file["share"].astype(np.float32) / 255
    return share if share.shape == answer.grid.shape else None


def _draw(out: Path, samples: list[Sample], answers: list[OccFlow], seed: int) -> None:
    """overview.png of the middle of the drive, replay.gif and run.rrd of all of it."""
    by_stamp = {answer.stamp_ns: answer for answer in answers}
    names = list(Rig.load("nuscenes").cameras)
    shown = [(s, by_stamp[s.frame_set.stamp_ns]) for s in samples if s.frame_set.stamp_ns in by_stamp]
    title = f"Street {seed}, never seen in training: computed from six cameras alone"
    caption = "As published by occ_flow_node. Truth from the simulator, for comparison only."
    save_png(out / "overview.png", overview(moment_of(*shown[len(shown) * 2 // 3], names), title, caption))
    write_gif(out / "replay.gif", [moment_of(*pair, names, depth=False) for pair in shown], title)
    try:
        with open_logs(ViewOptions((out / "run.rrd",))) as logs:
            for pair in shown:
                logs.add(scene_of(*pair, names))
    except MissingDependencyError as error:
        print(f"no {out / 'run.rrd'}: {error}")


def _report(out: Path, found: dict, played: Played, published: dict, answers: list[OccFlow], seconds: float) -> None:
    """The table a person reads, and where the files are."""
    print()
    print(results.markdown_table(results.rows(found)))
    print(f"\nimage sets played {played.sets}, answered {len(answers)}, dropped {played.sets - len(answers)}")
    for topic, received in published.items():
        if topic.startswith("/occ_flow_node"):
            print(f"  {topic}: {len(received)} messages")
    print(f"\n{found['frames']} sets compared; whole demonstration {seconds:.0f} s. Written:")
    for name in ("metrics.json", "overview.png", "replay.gif", "run.rrd", "output", "input", "node.log"):
        if (out / name).exists():
            print(f"  {out / name}")
    if (out / "run.rrd").exists():
        print(f"\nTo look around in it: letocc view {out / 'run.rrd'} (a window), or with --web (in a browser)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder to write to (default: out/demo)")
    parser.add_argument("--seed", type=int, default=9000, help="street; the network was trained on seeds below 9000")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the drive (default: 5)")
    parser.add_argument("--rate", type=float, default=5.0, help="image sets a second (default: 5)")
    parser.add_argument("--checkpoint", type=Path, default=REPOSITORY / "models/street.safetensors")
    return parser.parse_args()


def _say(step: int, text: str) -> None:
    print(f"[{step}/4] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
