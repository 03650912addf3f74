"""The live node under twice the load that it can take, for long: does it leak, and can it account for what it received?

    python benchmarks/soak_node.py --minutes 20                               models/street.safetensors
    python benchmarks/soak_node.py --checkpoint TINY --minutes 0.5 --settle 0.1 --growth 3

The node runs as its own process with all outputs subscribed. Image sets of noise go out `--load` times as fast as the
network takes them (as its diagnostics say, again and again). What is judged, after `--settle` minutes: resident memory
grows by less than `--growth` per cent; no more threads and open files than before; every image received came into a set
or was dropped for a reason, every set was answered or dropped for a reason; the diagnostics named the load, and when it
is over each set is answered again. Exit status 1 if not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from letocc_core import checkpoint
from letocc_core.bench.inference import frame_sets
from letocc_ros.bench import Driver
from letocc_ros.parameters import RELIABILITIES
from letocc_ros.recorder import OUTPUTS
from letocc_ros.session import message_class, session

NODE = "occ_flow_node"
SAMPLE = 2.0  # s between two looks at the process
WINDOW = 0.1  # share of the judged time at its begin and at its end, over whose medians memory is compared
AFTERWARDS = ("superseded", "refused set", "failed set", "deactivated")  # why a complete set is not answered
OVERLOAD = "image sets come faster than the network answers"
LEISURELY = 3  # sets after the flood
START, DRAIN = 300.0, 60.0  # s, deadlines


@dataclass(frozen=True)
class Sample:
    """What the process holds."""

    seconds: float  # since the flood began
    resident: int  # bytes
    threads: int
    handles: int  # open files and sockets


class Watch:
    """Listens to every output, as a robot would, and to the diagnostics."""

    def __init__(self, node: Node):
        self.node_values: dict[str, str] = {}
        self.camera_values: dict[str, dict[str, str]] = {}
        self.answers = 0
        self.said: set[str] = set()  # messages of the node's status
        for topic, kind in OUTPUTS.items():
            node.create_subscription(message_class(kind), topic, self._on_output, 50, raw=True)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    @property
    def step(self) -> float:
        """s that the network takes for a set; nan before the first answer."""
        return float(self.node_values.get("network median (ms)", "nan")) * 1e-3

    def drops(self) -> dict[str, int]:
        """By reason."""
        return {k.removeprefix("dropped: "): int(v) for k, v in self.node_values.items() if k.startswith("dropped: ")}

    def unanswered(self) -> int:
        """Complete sets without an answer."""
        return self.number("sets in") - self.number("sets out")

    def in_vain(self) -> int:
        """Complete sets that were dropped."""
        return sum(count for reason, count in self.drops().items() if reason in AFTERWARDS)

    def number(self, key: str) -> int:
        """A count of the node's status."""
        return int(self.node_values.get(key, 0))

    def _on_output(self, data: bytes) -> None:
        self.answers += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name == NODE:
                self.node_values = values
                self.said.add(status.message)
            elif status.name.startswith(f"{NODE}: "):
                self.camera_values[status.name.removeprefix(f"{NODE}: ")] = values


@dataclass
class Report:
    """What was measured, and what of it is wrong."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def judge(self, good: bool, line: str) -> None:
        self.lines.append(f"{'ok ' if good else 'BAD'} {line}")
        if not good:
            self.faults.append(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("models/street.safetensors"))
    parser.add_argument("--minutes", type=float, default=20.0, help="of load (default: 20)")
    parser.add_argument("--settle", type=float, default=2.0, help="minutes that are not judged (default: 2)")
    parser.add_argument("--growth", type=float, default=1.0, help="per cent of memory allowed (default: 1)")
    parser.add_argument("--load", type=float, default=2.0, help="sets sent for each that the network can take")
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2, help="of the network")
    parser.add_argument("--reliability", default="best_effort", choices=RELIABILITIES, help="QoS of the image topics")
    options = parser.parse_args()
    print(
        f"{options.checkpoint}, {options.cameras} cameras, {options.threads} threads, {options.load:g} times the load, "
        f"{options.minutes:g} minutes"
    )
    with tempfile.TemporaryFile("w+") as log:
        process = start(options, log)
        try:
            with session("soak_node") as (peer, executor):
                watch, driver = Watch(peer), Driver(peer, [f"camera_{i}" for i in range(options.cameras)])
                threading.Thread(target=executor.spin, daemon=True).start()
                samples, sent = flood(process, watch, driver, options)
                recovered = drain(watch, driver, options)
        except BaseException:
            log.seek(0)
            print(log.read()[-3000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(30)
    report = Report()
    judge_process(report, samples, options)
    judge_accounts(report, watch, sent)
    report.judge(any(OVERLOAD in text for text in watch.said), f"the diagnostics said '{OVERLOAD}'")
    report.judge(recovered == LEISURELY, f"after it {recovered} of {LEISURELY} sets were answered")
    print("\n".join(report.lines))
    return 1 if report.faults else 0


def start(options: argparse.Namespace, log) -> subprocess.Popen:
    """The node as a user starts it."""
    cameras = [f"camera_{i}" for i in range(options.cameras)]
    parameters = [f"checkpoint:={options.checkpoint}", f"cameras:={cameras}", f"threads:={options.threads}"]
    parameters.append(f"image_reliability:={options.reliability}")
    arguments = [item for p in parameters for item in ("-p", p)]
    command = [sys.executable, "-m", "letocc_ros.node", "--ros-args", *arguments]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def flood(process: subprocess.Popen, watch: Watch, driver: Driver, options: argparse.Namespace):
    """More sets than the network can take; returns samples of the process and the number of sets sent."""
    sets = image_sets(options)
    driver.wait()
    if not wait(lambda: driver.send(next(sets)) and watch.answers and watch.step > 0, START, pause=0.5):
        raise TimeoutError(f"no answer within {START:g} s")
    samples, sent, begun, shown = [], len(driver.stamps), time.monotonic(), 0.0
    due = begun
    while (elapsed := time.monotonic() - begun) < 60 * options.minutes:
        if process.poll() is not None:
            raise RuntimeError(f"the node ended with status {process.returncode}")
        driver.send(next(sets))
        sent += 1
        if not samples or elapsed - samples[-1].seconds >= SAMPLE:
            samples.append(look_at(process.pid, elapsed))
        if elapsed - shown >= 60:
            shown = elapsed
            print(line_of(samples[-1], watch, sent), flush=True)
        due = max(due + watch.step / options.load, time.monotonic() - watch.step)
        time.sleep(max(0.0, due - time.monotonic()))
    return samples, sent


def drain(watch: Watch, driver: Driver, options: argparse.Namespace) -> int:
    """Some sets one by one, which push out those that wait for an image; returns how many are answered."""
    answered, sets = 0, image_sets(options)
    settle(watch)
    for _ in range(LEISURELY):
        complete, before = watch.number("sets in"), watch.number("sets out")
        driver.send(next(sets))
        wait(lambda: watch.number("sets in") > complete, DRAIN, pause=0.2)  # noqa: B023
        settle(watch)
        answered += watch.number("sets out") > before
    return answered


def settle(watch: Watch) -> None:
    """Until no set is in work or waits for it, and none joins them."""
    seen: list[int] = []

    def still() -> bool:
        seen.append(watch.number("sets in"))
        return watch.unanswered() == watch.in_vain() and seen[-3:] == [seen[-1]] * 3

    wait(still, DRAIN, pause=1.2)


def image_sets(options: argparse.Namespace) -> Iterator:
    """Without end."""
    input_config = checkpoint.load_model(options.checkpoint)[1]
    return frame_sets(*input_config.image_size, options.cameras)


def look_at(pid: int, seconds: float) -> Sample:
    """From /proc."""
    folder = Path("/proc") / str(pid)
    pages = int((folder / "statm").read_text().split()[1])
    return Sample(
        seconds,
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(list((folder / "task").iterdir())),
        len(list((folder / "fd").iterdir())),
    )


def line_of(sample: Sample, watch: Watch, sent: int) -> str:
    return (
        f"{sample.seconds / 60:6.1f} min: {sample.resident / 1e6:7.1f} MB, {sample.threads} threads, "
        f"{sample.handles} handles, {sent} sets sent, {watch.number('sets in')} in, {watch.number('sets out')} out, "
        f"network {1e3 * watch.step:.0f} ms"
    )


def judge_process(report: Report, samples: list[Sample], options: argparse.Namespace) -> None:
    judged = [s for s in samples if s.seconds >= 60 * options.settle]
    part = max(1, round(WINDOW * len(judged)))
    first, last = (float(np.median([s.resident for s in window])) for window in (judged[:part], judged[-part:]))
    growth = 100 * (last / first - 1)
    peak = 100 * (max(s.resident for s in judged) / first - 1)
    report.judge(
        growth < options.growth,
        f"memory {first / 1e6:.1f} -> {last / 1e6:.1f} MB: {growth:+.2f} % (peak {peak:+.2f} %), "
        f"expected less than {options.growth:g} %",
    )
    for name in ("threads", "handles"):
        counts = sorted({getattr(s, name) for s in judged})
        grown = getattr(judged[-1], name) > getattr(judged[0], name)
        report.judge(not grown, f"{name}: {judged[0].__dict__[name]} at first, {counts} seen")


def judge_accounts(report: Report, watch: Watch, sent: int) -> None:
    """Of the sets and of the images: what came in is what came out, and what was dropped, and why."""
    drops = watch.drops()
    complete, answered = watch.number("sets in"), watch.number("sets out")
    unanswered = {reason: drops[reason] for reason in AFTERWARDS if reason in drops}
    report.judge(
        watch.unanswered() == watch.in_vain(),
        f"sets: {complete} complete of {sent} sent = {answered} answered + dropped {unanswered}",
    )
    received = sum(int(values["images received"]) for values in watch.camera_values.values())
    joined = sum(int(values["images in sets"]) for values in watch.camera_values.values())
    alone = {reason: count for reason, count in drops.items() if reason not in AFTERWARDS}
    report.judge(
        received == joined + watch.number("images in no set"),
        f"images: {received} received = {joined} in complete sets + {watch.number('images in no set')} in none {alone}",
    )
    report.judge(answered < complete, f"load: {complete / max(answered, 1):.2f} sets for each that was answered")


def wait(condition: Callable[[], object], seconds: float, pause: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(pause)
    return bool(done)


if __name__ == "__main__":
    sys.exit(main())
