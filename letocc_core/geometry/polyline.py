"""Lines of straight pieces."""

from jaxtyping import Float
from torch import Tensor


def nearest_on(path: Float[Tensor, "corners *p d"], points: Float[Tensor, "*p d"]) -> Float[Tensor, "*p d"]:
    """The place on its own line of at least two corners that is nearest to each point, in the unit of both."""
    starts, pieces = path[:-1], path[1:] - path[:-1]
    share = ((points - starts) * pieces).sum(-1) / (pieces**2).sum(-1).clamp(min=1e-12)
    places = starts + share.clamp(0, 1)[..., None] * pieces
    best = (places - points).norm(dim=-1).argmin(0)
    return places.gather(0, best[None, ..., None].expand_as(places[:1]))[0]
