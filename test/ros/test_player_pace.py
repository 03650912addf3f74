"""A player that waits for answers keeps pace with any node, in a time of the test's own."""

import struct
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

from letocc_ros import player as module

SETS = 30


class SlowNode:
    """Answers set k once `needed` later ones are out, one at a time, the newest first of those that wait."""

    def __init__(self, seconds: float, needed: int, first: float = 0.0):
        self.seconds, self.needed, self.first = seconds, needed, first
        self.now, self.out, self.answered = 0.0, -1, []
        self._work: tuple[int, float] | None = None  # the set at work, and when it is done

    def spin_once(self, timeout_sec: float) -> None:
        self.now += timeout_sec
        if self._work is not None and self.now >= self._work[1]:
            self.answered.append(self._work[0])
            self.on_answer(stamped(self._work[0]))
            self._work = None
        newest = self.out - self.needed
        if self._work is None and newest > max(self.answered, default=-1):
            self._work = newest, self.now + (self.seconds if self.answered else self.first or self.seconds)


def stamped(index: int) -> bytes:
    """A serialised header of set `index`."""
    return struct.pack("<BBBBiI", 0, 1, 0, 0, 1 + index, 0)


def play(node: SlowNode, monkeypatch: pytest.MonkeyPatch) -> module._AsAnswered:
    """All sets, image by image of the anchor camera."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: node.now, sleep=lambda seconds: None))
    monkeypatch.setattr(module._AsAnswered, "_find_answers", lambda *_: "/answers")
    monkeypatch.setattr(module._AsAnswered, "_wait_for_match", lambda *_: None)
    camera = SimpleNamespace(name="front", image_topic="/front")
    player = SimpleNamespace(
        bag=SimpleNamespace(path="bag", choose_cameras=lambda: [camera]),
        node=SimpleNamespace(create_subscription=lambda *_, **__: None),
        executor=node,
        publish_clock=lambda _: None,
    )
    pace = module._AsAnswered(player, "", wait=1.0, patience=2.0)
    node.on_answer = pace._on_answer
    pace.begin()
    for index in range(SETS):
        pace.before(SimpleNamespace(topic="/front"), 0, stamped(index))
        node.out = index
    pace.finish()
    return pace


@pytest.mark.parametrize("needed", [0, 1, 2])
@pytest.mark.parametrize("seconds", [0.1, 1.5, 4.0])
def test_no_set_is_lost_by_a_node_that_is_slow_or_needs_later_ones(seconds, needed, monkeypatch):
    node = SlowNode(seconds, needed)
    pace = play(node, monkeypatch)
    assert node.answered == list(range(SETS - needed))
    assert (pace.sets, pace.unanswered) == (SETS, needed)
    assert node.now < SETS * (seconds + 0.1) + (needed + 1) * 20


def test_a_first_answer_that_takes_long_loses_at_most_the_sets_that_were_let_out_for_it(monkeypatch):
    node = SlowNode(0.5, needed=1, first=9.0)
    play(node, monkeypatch)
    assert len(node.answered) >= SETS - 2
