"""The tree of transforms: composition, interpolation, what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from letocc_core.errors import PoseError
from letocc_core.stream.pose_buffer import PoseBuffer

S = 1_000_000_000


def pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    T[:3, 3] = rng.uniform(-100, 100, 3)
    return T


def shift(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, S))
def test_interpolation_agrees_with_scipy(a, b, stamp):
    buffer = PoseBuffer()
    buffer.set_transform("odom", "base_link", 0, pose(a))
    buffer.set_transform("odom", "base_link", S, pose(b))
    T = buffer.lookup("odom", "base_link", stamp)
    rotations = Rotation.from_matrix(np.stack([pose(a)[:3, :3], pose(b)[:3, :3]]))
    np.testing.assert_allclose(T[:3, :3], Slerp([0, S], rotations)(stamp).as_matrix(), atol=1e-9)
    np.testing.assert_allclose(T[:3, 3], pose(a)[:3, 3] + stamp / S * (pose(b) - pose(a))[:3, 3], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_lookup_composes_through_any_tree(parents, data):
    """A random tree of static transforms: every lookup equals the product of the world poses."""
    buffer, world = PoseBuffer(), {"f0": np.eye(4)}
    for i, parent in enumerate(parents, start=1):
        parent = f"f{min(parent, i - 1)}"
        T = pose(i)
        buffer.set_transform(parent, f"f{i}", 0, T, static=True)
        world[f"f{i}"] = world[parent] @ T
    target, source = data.draw(st.sampled_from(sorted(world))), data.draw(st.sampled_from(sorted(world)))
    T = buffer.lookup(target, source, 123)
    np.testing.assert_allclose(T, np.linalg.inv(world[target]) @ world[source], atol=1e-9)
    np.testing.assert_allclose(T @ buffer.lookup(source, target, 123), np.eye(4), atol=1e-9)


def test_moving_and_static_transforms_together():
    buffer = PoseBuffer()
    buffer.set_transform("/odom", "base_link", 0, shift(0))
    buffer.set_transform("odom", "base_link", 2 * S, shift(4))
    buffer.set_transform("base_link", "camera", 0, shift(1.5), static=True)
    assert buffer.lookup("odom", "camera", S)[0, 3] == pytest.approx(3.5)
    assert buffer.lookup("base_link", "camera", 99 * S)[0, 3] == 1.5  # static: at any time
    assert buffer.frames() == {"base_link": "odom", "camera": "base_link"}


def test_no_extrapolation_unless_asked_for_and_then_to_the_limit():
    buffer = PoseBuffer(max_extrapolation=0.05)
    buffer.set_transform("odom", "base_link", 0, shift(0))
    with pytest.raises(PoseError, match="known from 0 to 0 ns"):
        buffer.lookup("odom", "base_link", S // 100, extrapolate=True)  # one alone has no velocity
    buffer.set_transform("odom", "base_link", S, shift(10))
    with pytest.raises(PoseError, match=r"from 'base_link' to 'odom' .*limit 0 s") as caught:
        buffer.lookup("odom", "base_link", S + S // 100)
    assert caught.value.frames == ("odom", "base_link")
    assert buffer.lookup("odom", "base_link", S + S // 20, extrapolate=True)[0, 3] == pytest.approx(10.5)
    assert buffer.lookup("odom", "base_link", -S // 20, extrapolate=True)[0, 3] == pytest.approx(-0.5)
    with pytest.raises(PoseError, match=r"0\.060 s away \(limit 0\.05 s\)"):
        buffer.lookup("odom", "base_link", S + 6 * S // 100, extrapolate=True)


def test_out_of_order_and_repeated_transforms():
    buffer = PoseBuffer()
    for second, x in ((0, 0), (2, 2), (1, 5), (2, 3)):
        buffer.set_transform("odom", "base_link", second * S, shift(x))
    assert [buffer.lookup("odom", "base_link", t * S // 2)[0, 3] for t in range(5)] == [0, 2.5, 5, 4, 3]


def test_memory_is_bounded_by_the_duration():
    buffer = PoseBuffer(duration=1.0)
    for i in range(1000):
        buffer.set_transform("odom", "base_link", i * S // 100, shift(i))
    assert buffer.lookup("odom", "base_link", 9 * S)[0, 3] == 900
    with pytest.raises(PoseError, match="is known from 8990000000 to 9990000000 ns"):
        buffer.lookup("odom", "base_link", 8 * S)


def test_time_that_begins_anew_forgets_the_old_run():
    buffer = PoseBuffer(duration=1.0)
    buffer.set_transform("odom", "base_link", 50 * S, shift(7))
    buffer.set_transform("odom", "base_link", 0, shift(1))
    assert buffer.lookup("odom", "base_link", 0)[0, 3] == 1
    buffer.set_transform("odom", "base_link", S, shift(2))
    buffer.set_transform("base_link", "camera", 0, shift(1), static=True)
    buffer.forget_after(S // 2)
    with pytest.raises(PoseError, match="known from 0 to 0 ns"):
        buffer.lookup("odom", "base_link", S)
    buffer.forget_after(-1)
    assert buffer.frames() == {"camera": "base_link"}


def test_a_frame_may_change_its_parent():
    buffer = PoseBuffer()
    buffer.set_transform("odom", "base_link", 0, shift(1))
    buffer.set_transform("map", "base_link", 0, shift(2))
    assert buffer.lookup("map", "base_link", 0)[0, 3] == 2
    with pytest.raises(PoseError, match="'odom' has not been seen"):
        buffer.lookup("odom", "base_link", 0)


def test_loops_and_unnamed_frames_are_refused():
    buffer = PoseBuffer()
    buffer.set_transform("a", "b", 0, np.eye(4))
    buffer.set_transform("b", "c", 0, np.eye(4))
    with pytest.raises(PoseError, match=r"close a loop \(a -> b -> c -> a\)"):
        buffer.set_transform("c", "a", 0, np.eye(4))
    for parent, child in (("", "a"), ("a", ""), ("a", "/a")):
        with pytest.raises(PoseError, match="two different frame names"):
            buffer.set_transform(parent, child, 0, np.eye(4))
    assert buffer.frames() == {"b": "a", "c": "b"}


def test_frames_that_are_not_connected_are_named():
    buffer = PoseBuffer()
    buffer.set_transform("odom", "base_link", 0, np.eye(4))
    buffer.set_transform("mast", "camera", 0, np.eye(4), static=True)
    with pytest.raises(PoseError) as caught:
        buffer.lookup("base_link", "camera", 0)
    assert caught.value.frames == ("base_link", "camera")
    assert "'camera' hangs from 'mast' and 'base_link' hangs from 'odom'" in str(caught.value)
    with pytest.raises(PoseError, match="frames seen: none"):
        PoseBuffer().lookup("base_link", "camera", 0)


def test_how_far_the_transforms_around_a_stamp_are():
    buffer = PoseBuffer(10.0, 0.1)
    for seconds in (1.0, 1.2, 3.0):
        buffer.set_transform("odom", "base_link", round(seconds * 1e9), np.eye(4))
    buffer.set_transform("base_link", "camera", 0, np.eye(4), static=True)
    asked = {1.2: (0, 0), 1.15: (0.15, 0.05), 2.0: (0.8, 1.0), 3.05: (0.05, 0), 0.95: (0, 0.05)}
    for seconds, around in asked.items():
        assert buffer.around("odom", "camera", round(seconds * 1e9)) == pytest.approx(around)
    assert buffer.around("base_link", "camera", 9 * 10**9) == (0, 0)
    with pytest.raises(PoseError, match="known from"):
        buffer.around("odom", "camera", 4 * 10**9)
