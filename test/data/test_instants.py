"""Whose rays are rendered: drawn by distance, as configured, and only where there are sources on both sides."""

import numpy as np
import pytest

from letocc_core.data.config import InstantsConfig
from letocc_core.errors import ConfigError

DISTANCE = np.abs(np.arange(20) - 8) * 1.0  # m from frame 8
INNER = np.arange(20) % 19 > 0


def drawn(config: InstantsConfig, distance: np.ndarray = DISTANCE, count: int = 3000) -> np.ndarray:
    return np.array([config.choose(distance, 8, INNER, np.random.default_rng(i)) for i in range(count)])


def test_shares_and_distances_are_as_configured():
    found = drawn(InstantsConfig(current=0.4, earlier=0.25, nearest=1.5, farthest=6.0))
    now = found == 8
    assert now.mean() == pytest.approx(0.4, abs=0.03)
    others = found[~now]
    assert (others < 8).mean() == pytest.approx(0.25, abs=0.03)
    assert set(others) == {2, 3, 4, 5, 6, 10, 11, 12, 13, 14}


def test_frames_without_a_source_on_one_side_are_not_drawn():
    found = drawn(InstantsConfig(current=0.0, farthest=100.0))
    assert found.min() == 1 and found.max() == 18 and 8 not in found


def test_one_side_stands_in_for_the_other_and_the_current_frame_for_both():
    ahead = np.where(np.arange(20) > 8, DISTANCE, 1e3)
    assert drawn(InstantsConfig(current=0.0, earlier=1.0), ahead, 100).min() > 8
    assert set(drawn(InstantsConfig(current=0.0), np.zeros(20), 10)) == {8}  # the vehicle stands


def test_settings_out_of_order_are_refused():
    with pytest.raises(ConfigError, match=r"data\.instants"):
        InstantsConfig(nearest=5.0, farthest=1.0)
