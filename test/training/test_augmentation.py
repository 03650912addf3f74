"""What the network sees of augmented clips."""

from dataclasses import replace

import pytest
import torch
from model_cases import frames

from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, collate
from letocc_core.rendering.draws import Draws
from letocc_core.training.augmentation import AugmentationConfig, augmented


def clips(count: int) -> Clip:
    """`count` clips alike, of two past frames."""
    now, *past = frames()
    clip = Clip(now, tuple(past), (now,)).rows([0])
    return collate([clip._with_tensors(lambda x: x[0])] * count)


def draws(count: int) -> Draws:
    return Draws(5, torch.arange(count))


def test_a_vehicle_that_stands_sees_the_present_again():
    clip = clips(64)
    mask = torch.zeros_like(clip.current.images[:, :, 0], dtype=torch.bool)
    past = tuple(replace(frame, masked=mask) for frame in clip.history)
    clip = replace(clip, current=replace(clip.current, masked=~mask), history=past)
    seen = augmented(clip, AugmentationConfig(standing=0.25), draws(64))
    stands = (seen.history[0].T_world_ego == clip.current.T_world_ego).flatten(1).all(1)
    assert 6 <= int(stands.sum()) <= 28  # of 64, a quarter: 16, four standard deviations around it
    for name in ("images", "K", "T_ego_cam", "T_world_ego", "camera_valid", "masked"):
        now = getattr(clip.current, name)
        for past, before in zip(seen.history, clip.history, strict=True):
            assert torch.equal(getattr(past, name)[stands], now[stands])
            assert torch.equal(getattr(past, name)[~stands], getattr(before, name)[~stands])
    for past, before in zip(seen.history, clip.history, strict=True):
        assert torch.equal(past.stamp, before.stamp)
    assert seen.current is clip.current and seen.sources is clip.sources


def test_colours_are_those_of_a_camera_and_stay_through_the_clip():
    clip = clips(8)
    grey = torch.full_like(clip.current.images, 0.4)
    current, *history = (replace(f, images=grey) for f in (clip.current, *clip.history))
    plain = Clip(current, tuple(history), ())
    seen = augmented(plain, AugmentationConfig(colours=1.0), draws(8))
    assert all(f.images.min() >= 0 and f.images.max() <= 1 for f in (seen.current, *seen.history))
    now, before = (f.images.mean((-2, -1)) for f in (seen.current, seen.history[0]))
    torch.testing.assert_close(now, before, atol=0.01, rtol=0)  # noise alone differs
    assert not torch.equal(seen.current.images, seen.history[0].images)
    assert now.flatten(0, 1).std(0).min() > 0.03  # cameras and clips differ
    assert torch.equal(plain.current.images, grey)  # the losses see what was there


def test_clips_are_left_as_they_are_without_shares():
    clip = clips(2)
    seen = augmented(clip, AugmentationConfig(), draws(2))
    assert torch.equal(seen.current.images, clip.current.images)
    assert all(torch.equal(a.images, b.images) for a, b in zip(seen.history, clip.history, strict=True))


def test_a_clip_is_augmented_alike_whatever_it_is_batched_with():
    clip = clips(4)
    config = AugmentationConfig(standing=0.5, colours=0.5)
    whole = augmented(clip, config, draws(4))
    part = augmented(clip.rows([2]), config, Draws(5, torch.tensor([2])))
    assert torch.equal(part.current.images[0], whole.current.images[2])
    assert torch.equal(part.history[1].T_world_ego[0], whole.history[1].T_world_ego[2])


def test_shares_are_checked():
    with pytest.raises(ConfigError, match=r"augmentation.standing is 1.5, expected a share from 0 to 1"):
        AugmentationConfig(standing=1.5)
