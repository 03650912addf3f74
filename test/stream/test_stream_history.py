"""Which past frames the temporal fusion sees."""

import numpy as np
import pytest

from letocc_core.data.recorded_clips import _history
from letocc_core.stream.history import History, past_frames

MS = 1_000_000


def filled(stamps, frames=2, interval=0.2) -> History:
    history = History(frames, interval)
    for stamp in stamps:
        history.add(stamp * MS, stamp)
    return history


def test_the_nearest_to_each_interval_newest_first():
    assert filled(range(0, 1000, 50)).select(1000 * MS) == [800, 600]
    assert filled([0, 190, 420, 610]).select(800 * MS) == [610, 420]


def test_a_frame_farther_than_half_an_interval_is_left_out():
    assert filled([0, 300]).select(1000 * MS) == []
    assert filled([500]).select(1000 * MS) == []  # 0.1 s from 0.6 s: exactly half
    assert filled([501]).select(1000 * MS) == [501]
    assert filled([650]).select(1000 * MS) == [650]
    assert filled([]).select(0) == []


def test_no_frame_is_chosen_twice():
    assert filled([690]).select(1000 * MS) == [690]
    assert filled([100, 199, 300], frames=4, interval=0.1).select(400 * MS) == [300, 199, 100]


@pytest.mark.parametrize("rate", [5, 10, 20, 30, 100, 1000])
def test_memory_is_bounded_at_any_rate(rate):
    history = History(2, 0.2)
    for i in range(3 * rate):
        history.add(i * 10**9 // rate, i)
        assert len(history) <= 21  # 2.5 intervals, at most 8 each
    now = 3 * rate
    chosen = history.select(now * 10**9 // rate)
    for k, frame in enumerate(chosen, start=1):
        assert abs((now - frame) / rate - 0.2 * k) <= 0.025
    assert len(chosen) == 2


def test_clear():
    history = filled([0, 200])
    history.clear()
    assert len(history) == 0
    assert history.select(400 * MS) == []


def test_training_and_the_live_node_choose_the_same_past():
    """Also where a frame lies exactly between two, half an interval away: it belongs to neither."""
    interval, count = 0.2, 3
    for stamps in (
        [0, 100, 200, 300, 400, 500, 600],
        [0, 90, 200, 290, 400, 410, 600],
        [0, 100, 600],
        [100, 300, 500, 600],
    ):
        stamps_ns = np.array(stamps, np.int64) * 10**6
        history = History(count, interval)
        for stamp in stamps_ns[:-1].tolist():
            history.add(stamp, stamp)
        live = history.select(int(stamps_ns[-1]))
        trained = _history(stamps_ns, len(stamps_ns) - 1, interval, count)
        assert trained is None or [stamps_ns[i] for i in trained] == live
        assert (trained is None) == (len(live) < count)
    assert past_frames([100, 300], 400, 0.2e-6, 1) == [None]
    assert past_frames([100, 201, 300], 400, 0.2e-6, 1) == [1]
