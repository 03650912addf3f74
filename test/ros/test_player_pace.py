"""A player that waits for answers keeps pace with any node, in a time of the test's own."""

import struct
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; source scripts/env.sh")
pytest.importorskip("letocc_ros.msg", reason="the ROS package is not built; source scripts/env.sh")

from letocc_core.data.bags.reader import Bag
from letocc_ros import player as module

SETS = 30
CAMERAS = ("/back", "/front", "/left")


class SlowNode:
    """Answers set k once `needed` later ones are out, one at a time, the newest first of those that wait."""

    def __init__(self, seconds: float, needed: int, first: float = 0.0, anchor: str = "/front"):
        self.seconds, self.needed, self.first, self.anchor = seconds, needed, first, anchor
        self.now, self.out, self.answered = 0.0, -1, []
        self._work: tuple[int, float] | None = None  # the set at work, and when it is done

    def spin_once(self, timeout_sec: float) -> None:
        self.now += timeout_sec
        if self._work is not None and self.now >= self._work[1]:
            self.answered.append(self._work[0])
            self.on_answer(stamped(self._work[0], self.anchor))
            self._work = None
        newest = self.out - self.needed
        if self._work is None and newest > max(self.answered, default=-1):
            self._work = newest, self.now + (self.seconds if self.answered else self.first or self.seconds)


def stamped(index: int, topic: str) -> bytes:
    """A serialised header of set `index`, of which each camera takes its image a little later than the one before."""
    return struct.pack("<BBBBiI", 0, 1, 0, 0, 1 + index, 10_000_000 * CAMERAS.index(topic))


def like(kind: type, **attributes: object) -> object:
    """One of that kind that was not made, with these attributes alone."""
    thing = object.__new__(kind)
    vars(thing).update(attributes)
    return thing


def play(node: SlowNode, monkeypatch: pytest.MonkeyPatch) -> module._AsAnswered:
    """All sets, image by image; the player takes the front camera for the anchor."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: node.now, sleep=lambda seconds: None))
    monkeypatch.setattr(module._AsAnswered, "_find_answers", lambda *_: "/answers")
    monkeypatch.setattr(module._AsAnswered, "_wait_for_match", lambda *_: None)
    cameras = [SimpleNamespace(name=topic.strip("/"), image_topic=topic) for topic in CAMERAS]
    bag = like(Bag, path="bag", choose_cameras=lambda: cameras)
    listener = SimpleNamespace(create_subscription=lambda *_, **__: None)
    player = like(module._Player, bag=bag, node=listener, executor=node, publish_clock=lambda _: None)
    pace = module._AsAnswered(player, "front", wait=1.0, patience=2.0)
    node.on_answer = pace._on_answer
    pace.begin()
    for index in range(SETS):
        for topic in CAMERAS:
            pace.before(SimpleNamespace(topic=topic), 0, stamped(index, topic))
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


@pytest.mark.parametrize("anchor", ["/back", "/left"])
@pytest.mark.parametrize("needed", [0, 1])
def test_the_answers_show_on_which_camera_the_node_anchors_its_sets(anchor, needed, monkeypatch):
    node = SlowNode(4.0, needed, anchor=anchor)
    pace = play(node, monkeypatch)
    assert pace.topic == anchor
    assert node.answered == list(range(SETS - needed))
    assert pace.unanswered == needed
