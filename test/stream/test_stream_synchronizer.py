"""Image sets: matching, waiting, what is dropped and why, and that nothing is ever lost without a word."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from letocc_core.errors import ConfigError, DataError
from letocc_core.stream.synchronizer import Dropped, ImageSet, Synchronizer

MS = 1_000_000


def drive(synchronizer: Synchronizer, messages, flush: bool = False):
    """Feed (camera, stamp in ms) pairs; the item is the pair itself."""
    out = []
    for camera, stamp in messages:
        synchronizer.add(camera, stamp * MS, (camera, stamp))
        out += synchronizer.poll()
    return out + synchronizer.flush() if flush else out


def sets(decided):
    return [tuple(None if item is None else item[1] for item in d.items) for d in decided if isinstance(d, ImageSet)]


def reasons(decided):
    return [(d.reason, d.camera, d.stamp_ns // MS) for d in decided if isinstance(d, Dropped)]


def test_a_set_closes_with_its_last_camera():
    s = Synchronizer("abc")
    assert sets(drive(s, [("b", 3), ("a", 0)])) == []
    assert s.pending == 2
    assert sets(drive(s, [("c", -5)])) == [(0, 3, -5)]
    assert s.pending == 0


def test_the_slop_counts_from_the_anchor():
    s = Synchronizer("ab", slop=0.02)
    decided = drive(s, [("a", 100), ("b", 121), ("a", 300), ("b", 320)])
    assert sets(decided) == [(100, None), (300, 320)]
    assert reasons(decided) == [("unmatched", "b", 121)]


def test_the_nearest_image_is_taken_when_several_are_there():
    s = Synchronizer("ab", slop=0.02)
    decided = drive(s, [("b", 90), ("b", 97), ("a", 100)])
    assert sets(decided) == [(100, 97)]
    assert reasons(decided) == [("unmatched", "b", 90)]


def test_an_image_between_two_anchors_joins_the_nearer():
    s = Synchronizer("abc", slop=0.06, max_wait=1.0)
    decided = drive(s, [("a", 0), ("a", 100), ("b", 55), ("c", 0)], flush=True)
    assert sets(decided) == [(0, None, 0), (100, 55, None)]


def test_an_absent_camera_is_waited_for_then_left_out():
    s = Synchronizer("ab", slop=0.02, max_wait=0.1)
    assert sets(drive(s, [("a", 0), ("a", 50), ("a", 119)])) == []
    assert sets(drive(s, [("a", 120)])) == [(0, None)]
    assert sets(s.flush()) == [(50, None), (119, None), (120, None)]


def test_all_cameras_may_be_required():
    s = Synchronizer("ab", require_all=True)
    decided = drive(s, [("a", 0), ("a", 500), ("b", 500)])
    assert sets(decided) == [(500, 500)]
    assert reasons(decided) == [("incomplete", None, 0)]
    assert "no image of b" in decided[0].detail


def test_a_newer_complete_set_closes_the_older_ones():
    s = Synchronizer("ab", max_wait=10.0)
    assert sets(drive(s, [("a", 0), ("a", 100), ("b", 100)])) == [(0, None), (100, 100)]


def test_out_of_order_late_and_duplicate_images():
    s = Synchronizer("ab")
    decided = drive(s, [("a", 100), ("a", 50), ("b", 50), ("b", 100), ("b", 100), ("a", 50), ("a", 60), ("a", 100)])
    assert sets(decided) == [(50, 50), (100, 100)]
    assert reasons(decided) == [("duplicate", "b", 100), ("late", "a", 50), ("late", "a", 60), ("duplicate", "a", 100)]


def test_a_faster_camera_gives_its_surplus_away():
    s = Synchronizer("ab", slop=0.005)
    messages = [m for t in range(0, 400, 25) for m in ([("b", t), ("a", t)] if t % 100 == 0 else [("b", t)])]
    decided = drive(s, messages, flush=True)
    assert sets(decided) == [(t, t) for t in range(0, 400, 100)]
    assert len(reasons(decided)) == 12
    assert {r for r, _, _ in reasons(decided)} == {"unmatched"}


def test_memory_is_bounded_when_the_anchor_is_silent():
    s = Synchronizer("ab", slop=0.02, max_wait=0.1)
    decided = drive(s, [("b", t) for t in range(0, 10_000, 10)])
    assert s.pending <= 13  # 0.12 s at 100 Hz
    assert len(decided) + s.pending == 1000  # lost at first, then sets of their own
    crowded = Synchronizer("ab", max_wait=100.0, capacity=5)
    decided = drive(crowded, [("b", t) for t in range(20)])
    assert crowded.pending == 5
    assert reasons(decided)[0] == ("overflow", "b", 0)


def test_a_camera_that_stays_away_is_not_waited_for_until_it_returns():
    s = Synchronizer("ab", slop=0.02, max_wait=0.1, camera_timeout=0.5)
    drive(s, [("a", 0), ("b", 0)])
    alone = drive(s, [("a", t) for t in range(100, 501, 100)])
    assert sets(alone) == [(t, None) for t in (100, 200, 300)]  # each waited until 120 ms later
    assert sets(drive(s, [("a", 600)])) == [(400, None), (500, None), (600, None)]  # no longer
    assert sets(drive(s, [("a", 700)])) == [(700, None)]
    assert sets(drive(s, [("b", 800), ("a", 800)])) == [(800, 800)]
    assert sets(drive(s, [("a", 900)])) == []  # b is waited for again


def test_the_next_camera_anchors_the_sets_while_the_first_stays_away():
    s = Synchronizer("abc", slop=0.02, max_wait=0.1, camera_timeout=0.5)
    both = [(c, t) for t in range(0, 800, 100) for c in "bc"]
    decided = drive(s, both)
    assert sets(decided) == [(None, t, t) for t in (400, 500, 600, 700)]
    assert {r for r, _, _ in reasons(decided)} == {"unmatched"}
    returned = drive(s, [("b", 805), ("a", 800), ("c", 795), ("b", 905), ("a", 900), ("c", 900)])
    assert sets(returned) == [(None, 805, None), (900, 905, 900)]  # one set is cut short by the return


def test_after_a_gap_of_all_cameras_none_counts_as_away():
    s = Synchronizer("abc", slop=0.02, max_wait=0.1, camera_timeout=0.5)
    slow = [(c, t) for t in (0, 700, 5000, 5100, 9000) for c in "bac"]
    decided = drive(s, slow)
    assert sets(decided) == [(t, t, t) for t in (0, 700, 5000, 5100, 9000)]
    assert not reasons(decided)


def test_without_a_timeout_every_set_waits():
    s = Synchronizer("ab", slop=0.02, max_wait=0.1, camera_timeout=0)
    decided = drive(s, [("a", t) for t in range(0, 5000, 100)])
    assert sets(decided)[-1] == (4700, None)


def test_cameras_may_start_one_after_the_other():
    s = Synchronizer("ab", slop=0.02, max_wait=0.1, camera_timeout=0.5)
    decided = drive(s, [("b", t) for t in range(0, 700, 100)])
    assert sets(decided) == [(None, 400), (None, 500), (None, 600)]
    decided = drive(s, [m for t in range(700, 1000, 100) for m in (("b", t), ("a", t))], flush=True)
    assert sets(decided)[-2:] == [(800, 800), (900, 900)]


def test_a_recording_that_loops_starts_anew():
    s = Synchronizer("ab", restart_after=1.0)
    first = drive(s, [("a", 5000), ("b", 5000), ("a", 5100)])
    again = drive(s, [("a", 0), ("b", 0)])
    assert sets(first) == [(5000, 5000)]
    assert sets(again) == [(5100, None), (0, 0)]
    assert s.restarts == 1


def test_wrong_use_is_refused():
    with pytest.raises(ConfigError, match="none of them twice"):
        Synchronizer(["a", "a"])
    with pytest.raises(ConfigError, match="at least one"):
        Synchronizer([])
    with pytest.raises(ConfigError, match=r"slop is -1\.0 s"):
        Synchronizer("a", slop=-1.0)
    with pytest.raises(ConfigError, match=r"slop is 45 s, expected 1 s or less; 45 ms are 0\.045"):
        Synchronizer("a", slop=45.0)
    with pytest.raises(DataError, match="camera 'z', expected one of a, b"):
        Synchronizer("ab").add("z", 0, None)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 12))
def test_any_order_of_arrival_within_a_period_gives_the_same_sets(seed, cameras, count):
    rng = random.Random(seed)
    names = "abcde"[:cameras]
    periods = [[(c, 100 * k + (rng.randint(-20, 20) if c != "a" else 0)) for c in names] for k in range(count)]
    shuffled = [m for period in periods for m in rng.sample(period, len(period))]
    assert sets(drive(Synchronizer(names, slop=0.02), shuffled)) == [tuple(t for _, t in p) for p in periods]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3000)), max_size=80),
    st.booleans(),
    st.integers(1, 8),
)
def test_every_image_is_in_a_set_or_dropped_or_pending(messages, require_all, capacity):
    s = Synchronizer("abc", slop=0.03, max_wait=0.08, require_all=require_all, capacity=capacity)
    decided = []
    for i, (camera, stamp) in enumerate(messages):
        decided += drive(s, [(camera, stamp)])
        used = sum(sum(item is not None for item in d.items) for d in decided if isinstance(d, ImageSet))
        dropped = sum(d.images for d in decided if isinstance(d, Dropped))
        assert s.received == i + 1 == used + dropped + s.pending
    decided += s.flush()
    assert s.pending == 0
    given_out = [d for d in decided if isinstance(d, ImageSet)]
    for d in given_out:
        assert all(item is None or abs(item[1] * MS - d.stamp_ns) <= 30 * MS for item in d.items)
        assert d.stamp_ns in d.stamps_ns
        assert not (require_all and None in d.items)
    if s.restarts == 0:
        stamps = [d.stamp_ns for d in given_out]
        assert stamps == sorted(set(stamps))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 500)), max_size=40))
def test_the_same_calls_give_the_same_answers(messages):
    assert str(drive(Synchronizer("ab"), messages, True)) == str(drive(Synchronizer("ab"), messages, True))
