"""What the network sees of a clip while it learns: other colours, or a vehicle that stands. The losses see the clip as it is."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from letocc_core.errors import ConfigError
from letocc_core.frame import Clip, Frame
from letocc_core.model.plane_sweep import brightness
from letocc_core.rendering.draws import Draws

GAIN, EXPOSURE, GAMMA = 0.25, 0.4, 0.4  # largest natural logarithms: of each colour, of all of them, of the exponent
SATURATION = (0.0, 1.7)  # factor of a pixel's distance from its grey
SHADE, SHADES = 0.4, (3, 4)  # largest natural logarithm of a smooth field of brightness, and its knots by image
BLURRED = 0.3  # share of the cameras whose images lose their finest detail
NOISE = 0.03  # largest standard deviation
READ = ("images", "camera_valid", "K", "T_ego_cam", "T_world_ego", "masked")  # of a past frame, by the network


@dataclass(frozen=True)
class AugmentationConfig:
    """Shares of the clips, each from 0 to 1."""

    standing: float = 0.0  # whose past shows the present again: no parallax, as before a red light
    colours: float = 0.0  # whose cameras have a white balance, exposure, shade, blur and noise of their own

    def __post_init__(self):
        for name, share in (("standing", self.standing), ("colours", self.colours)):
            if not 0 <= share <= 1:
                raise ConfigError(f"augmentation.{name} is {share:g}, expected a share from 0 to 1")


def augmented(clip: Clip, config: AugmentationConfig, draws: Draws) -> Clip:
    """The clip as the network is to see it: its current frames and their history."""
    current, history = clip.current, clip.history
    if config.standing:
        standing = draws.uniform() < config.standing
        history = tuple(_where(standing, current, past) for past in history)
    if config.colours:
        changed = draws.uniform() < config.colours
        colours = _Colours.drawn(draws, current.images.shape[1])

        def seen(frame: Frame) -> Frame:
            return replace(frame, images=_chosen(changed, colours(frame.images, draws), frame.images))

        current, history = seen(current), tuple(map(seen, history))
    return replace(clip, current=current, history=history)


@dataclass(frozen=True, eq=False)
class _Colours:
    """How each camera sees, the same in all frames of a clip; noise is new in each."""

    gain: Float[Tensor, "B N 3 1 1"]
    gamma: Float[Tensor, "B N 1 1 1"]
    saturation: Float[Tensor, "B N 1 1 1"]
    shade: Float[Tensor, "B N h w"]  # at its knots
    blurred: Bool[Tensor, "B N"]
    noise: Float[Tensor, "B N 1 1 1"]  # standard deviation

    @classmethod
    def drawn(cls, draws: Draws, cameras: int) -> "_Colours":
        def signed(*shape: int) -> Float[Tensor, "B N *shape"]:
            return draws.uniform(cameras, *shape) * 2 - 1

        return cls(
            (GAIN * signed(3, 1, 1) + EXPOSURE * signed(1, 1, 1)).exp(),
            (GAMMA * signed(1, 1, 1)).exp(),
            SATURATION[0] + (SATURATION[1] - SATURATION[0]) * draws.uniform(cameras, 1, 1, 1),
            (SHADE * signed(*SHADES)).exp(),
            draws.uniform(cameras) < BLURRED,
            NOISE * draws.uniform(cameras, 1, 1, 1),
        )

    def __call__(self, images: Float[Tensor, "B N 3 H W"], draws: Draws) -> Float[Tensor, "B N 3 H W"]:
        H, W = images.shape[-2:]
        coarse = interpolate(avg_pool2d(images.flatten(0, 1), 2), (H, W), mode="bilinear").view_as(images)
        seen = torch.where(self.blurred[..., None, None, None], coarse, images)
        grey = brightness(seen)[:, :, None]
        shade = interpolate(self.shade, (H, W), mode="bicubic", align_corners=True)[:, :, None]
        seen = (torch.lerp(grey, seen, self.saturation) * self.gain * shade).clamp(1e-4, 1) ** self.gamma
        return (seen + self.noise * 12**0.5 * (draws.uniform(*images.shape[1:]) - 0.5)).clamp(0, 1)


def _where(chosen: Bool[Tensor, "B"], present: Frame, past: Frame) -> Frame:
    """Past frames; where `chosen`, with all that the network reads of the present ones."""
    names = [name for name in READ if getattr(past, name) is not None]
    return replace(past, **{name: _chosen(chosen, getattr(present, name), getattr(past, name)) for name in names})


def _chosen(chosen: Bool[Tensor, "B"], this: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (this.ndim - 1)), this, other)
