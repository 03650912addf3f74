"""The loops compiled for the CPU give what plain PyTorch gives, values and gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from letocc_core.compiled import threads
from letocc_core.evaluation import depth
from letocc_core.geometry import grid as grids
from letocc_core.geometry import surfaces
from letocc_core.geometry.grid import GridSpec, sample_volume
from letocc_core.metrics.frame_score import DepthTruth
from letocc_core.model import deformable_attention, motion_branch, plane_sweep
from letocc_core.model.deformable_attention import DeformableAttention
from letocc_core.model.motion_branch import View

BOX = GridSpec((-4.0, -4.0, 0.0), (4.0, 4.0, 2.4), 0.4)


def both(monkeypatch, module, compute):
    """What `compute` returns in plain PyTorch, and by the compiled loops; fails if these did not serve."""
    served = []

    def serves(*tensors):
        served.append(threads.serves(*tensors))
        return served[-1]

    with monkeypatch.context() as patch:
        patch.setattr(module, "serves", lambda *tensors: False)
        plain = compute()
    with monkeypatch.context() as patch:
        patch.setattr(module, "serves", serves)
        compiled = compute()
    assert served and all(served)
    return plain, compiled


def assert_close(plain, compiled, tolerance=1e-5):
    for a, b in zip(plain, compiled, strict=True):
        assert (a - b).norm() <= tolerance * a.norm() + 1e-12


@pytest.mark.parametrize("threads_used", [1, 2])
@pytest.mark.parametrize(("average", "anchors", "own"), [(True, 1, False), (False, 4, False), (False, 2, True)])
def test_attention(monkeypatch, average, anchors, own, threads_used):
    """Samples on three maps, a third of them beyond their borders."""
    torch.manual_seed(0)
    shapes = [(7, 5), (4, 9), (1, 1)]
    layer = DeformableAttention(8, heads=2, levels=3, points=4, query_dim=6, average=average)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    query = torch.randn(2, 11, 6, requires_grad=True)
    value = torch.randn(2, 35 + 36 + 1, 8, requires_grad=True)
    reference = torch.rand(2, 11, 3 if own else 1, anchors, 2) * 1.6 - 0.3
    toward = torch.randn(2, 11, 8)

    def compute():
        layer.zero_grad()
        query.grad = value.grad = None
        out = layer(query, reference, value, shapes)
        (out * toward).sum().backward()
        return [out.detach(), query.grad, value.grad, *(p.grad.clone() for p in layer.parameters())]

    before = torch.get_num_threads()
    torch.set_num_threads(threads_used)
    try:
        assert_close(*both(monkeypatch, deformable_attention, compute))
    finally:
        torch.set_num_threads(before)


def test_attention_with_one_reference_for_the_batch(monkeypatch):
    """As the temporal fusion has it: expanded, not copied."""
    torch.manual_seed(1)
    layer = DeformableAttention(8, heads=1, levels=1, points=2)
    nn.init.normal_(layer.offsets.weight)
    query, value = torch.randn(3, 12, 8), torch.randn(3, 12, 8)
    reference = torch.rand(1, 12, 1, 1, 2).expand(3, -1, -1, -1, -1)
    with torch.no_grad():
        assert_close(*both(monkeypatch, deformable_attention, lambda: [layer(query, reference, value, [(3, 4)])]))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("channels", [1, 3])
def test_trilinear_reads(monkeypatch, channels, padding):
    """Points in the box, between its outer centres and its faces, and beyond."""
    torch.manual_seed(2)
    volume = torch.randn(2, channels, *BOX.shape, requires_grad=True)
    points = (torch.rand(2, 40, 5, 3) * 1.4 - 0.2) * torch.tensor([8.0, 8.0, 2.4]) - torch.tensor([4.0, 4.0, 0.0])
    toward = torch.randn(2, 40, 5, channels)

    def compute():
        volume.grad = None
        out = sample_volume(volume, BOX, points, padding)
        (out * toward).sum().backward()
        return [out.detach(), volume.grad]

    assert_close(*both(monkeypatch, grids, compute))


def test_points_that_learn_are_read_by_pytorch():
    """The compiled reads have no gradient for places; who wants it gets it: the slope of a ramp along x."""
    ramp = BOX.centres()[..., 0].expand(1, 1, *BOX.shape)
    points = torch.zeros(1, 4, 3).add_(0.9).requires_grad_()
    sample_volume(ramp, BOX, points).sum().backward()
    torch.testing.assert_close(points.grad, torch.tensor([1.0, 0, 0]).expand(1, 4, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_plane_sweep(monkeypatch, share):
    """Two cameras that moved ahead and turned; one has no image in the older past. A share of pixels is masked."""
    torch.manual_seed(3)
    grey = nn.functional.interpolate(torch.rand(2, 1, 8, 10), (32, 40), mode="bicubic").view(1, 2, 32, 40)
    past = [grey.roll(1, -1), grey.roll(2, -1)]
    K = torch.tensor([[30.0, 0, 19.5], [0, 30, 15.5], [0, 0, 1]]).expand(1, 2, 3, 3)
    T = [_moved(0.4), _moved(0.8)]
    valid = [torch.tensor([[True, True]]), torch.tensor([[True, False]])]
    mounts = torch.tensor([[[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]]]).expand(1, 2, 4, 4)

    def compute():
        masked = [torch.rand(grey.shape, generator=torch.Generator().manual_seed(i)) < share for i in range(3)]
        swept = plane_sweep.sweep_depth(grey, past, K, [K, K], T, valid, masked=masked if share else [])
        lifted = plane_sweep.lift(swept, BOX, K, mounts)
        return [swept.probability, 1 / swept.depth, swept.confidence, lifted]

    plain, compiled = both(monkeypatch, plane_sweep, compute)
    assert plain[2].mean() > 0.3 * (1 - 2 * share)  # most pixels have evidence
    assert_close(plain, compiled, tolerance=5e-3)  # windows without texture have few digits


def _moved(metres):
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.01, -0.03], [-0.01, 0, 0], [0.03, 0, 0]]))
    T = torch.eye(4).repeat(1, 2, 1, 1)
    T[..., :3, :3], T[..., 0, 3], T[..., 2, 3] = turn, 0.5 * metres, metres
    return T


def test_only_plain_float32_on_the_cpu_is_served():
    assert threads.serves(torch.zeros(1))
    assert not threads.serves(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not threads.serves(torch.zeros(1, device="meta"))
    traced = torch.jit.trace(lambda x: x + float(threads.serves(x)), torch.zeros(1), check_trace=False)
    assert traced(torch.zeros(1)) == 0


def bumpy_ground(seed):
    """SDF of ground with smooth things on it, and two cameras that look over it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, 5, 5, 2, generator=generator)
    noise = nn.functional.interpolate(noise, BOX.shape, mode="trilinear")[:, 0]
    sdf = (BOX.centres()[..., 2] - 2 * noise).expand(2, 1, *BOX.shape).contiguous()
    K = torch.tensor([[30.0, 0, 31.5], [0, 30, 23.5], [0, 0, 1]]).expand(2, 2, 3, 3)
    ahead = torch.tensor([[0.0, 0, 1, -3.9], [-1, 0, 0, 0.1], [0, -1, 0, 1.7], [0, 0, 0, 1]])
    back = torch.tensor([[0.0, 0, -1, 3.9], [1, 0, 0, -0.1], [0, -1, 0, 1.7], [0, 0, 0, 1]])
    mounts = torch.stack([ahead, back]).expand(2, 2, 4, 4)
    grey = nn.functional.interpolate(torch.rand(2, 2, 12, 16, generator=generator), (48, 64), mode="bicubic")
    return sdf, lambda shift, valid: View(
        torch.tensor([shift * 10**8] * 2), grey.roll(shift, -1), K, mounts, torch.tensor([[True, valid]] * 2)
    )


def test_surfaces(monkeypatch):
    """Rays of two cameras over bumps: where they stop, and which of them do."""
    sdf, view = bumpy_ground(4)

    def compute():
        found = motion_branch.find_surfaces(sdf, BOX, view(0, True))
        assert 0.2 < found.there.float().mean() <= 1
        return [found.there.float(), found.points * found.there[..., None], found.pixels * found.there[..., None]]

    assert_close(*both(monkeypatch, surfaces, compute))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_velocity_sweep(monkeypatch, share):
    """Likeness of every velocity in every column, with a camera that was blind once, and a share of pixels masked."""
    sdf, view = bumpy_ground(5)
    now, past = view(0, True), [view(-2, True), view(-4, False)]
    if share:
        past = [replace(p, masked=torch.rand(p.grey.shape) < share) for p in past]
    found = motion_branch.find_surfaces(sdf, BOX, now)
    T = torch.eye(4).repeat(2, 1, 1)
    T[:, 0, 3] = 0.3
    velocities = motion_branch.MotionBranchConfig(forward=4.0, sideways=2.0).velocities()

    def compute():
        return motion_branch.sweep_velocity(found, now, past, [T, T @ T], BOX.coarser(2), velocities)

    plain, compiled = both(monkeypatch, motion_branch, compute)
    assert plain[0].abs().mean() > 0.01
    assert_close(plain, compiled, tolerance=1e-4)


@pytest.mark.parametrize("threads_used", [1, 2])
@pytest.mark.parametrize("size", [1, 4])
def test_descriptors(monkeypatch, size, threads_used):
    """Of noise, of a flat image, and of one of a single row."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads_used)
    try:
        for grey in (torch.rand(2, 3, 12, 20), torch.full((1, 1, 12, 20), 0.7), torch.rand(1, 2, size, 16)):
            pair = both(monkeypatch, motion_branch, lambda grey=grey: motion_branch.descriptors(grey, size))
            torch.testing.assert_close(*pair, atol=1e-5, rtol=0)  # of neighbourhoods of length 1
    finally:
        torch.set_num_threads(before)


def test_expected_velocities(monkeypatch):
    """Of lists that are sharp, flat, and so far apart that exponentials vanish."""
    torch.manual_seed(0)
    lists = torch.randn(2, 3, 4, 5, 21) * torch.tensor([0.01, 0.1, 1.0, 10.0, 0.0])[:, None]
    velocities = torch.randn(21, 2)
    compute = lambda: [motion_branch.expected_velocities(lists, velocities)]  # noqa: E731
    assert_close(*both(monkeypatch, motion_branch, compute), 1e-5)


def test_where_rays_have_met_matter(monkeypatch):
    """Through noise, through what is free everywhere, and past the box."""
    rng = np.random.default_rng(0)
    T = np.tile(np.eye(4), (2, 1, 1))
    T[:, :3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T[1, :3, 3] = [-9.0, 0.0, 1.5]
    K = np.tile(np.array([[20.0, 0, 15.5], [0, 20.0, 11.5], [0, 0, 1]]), (2, 1, 1))
    pixels = rng.uniform(0, [31, 23], (2, 60, 2))
    target = DepthTruth(K, T, pixels, np.zeros((2, 60)))
    for probability in (rng.random(BOX.shape) ** 4, np.zeros(BOX.shape)):
        plain, compiled = both(monkeypatch, depth, lambda p=probability: depth.read_depth(p, BOX, target))
        np.testing.assert_allclose(compiled, plain, atol=1e-4)
