"""From signed distances along a ray to rendering weights: NeuS (Let Occ Flow B.5), and SelfOcc's variant of it."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, relu


def neus_weights(sdf: Float[Tensor, "*r edges"], beta: float | Float[Tensor, "*#r 1"]) -> Float[Tensor, "*r s"]:
    """Weights of the intervals between neighbouring samples of `sdf` (m, positive = free).

    alpha_i = max((S(f_i) - S(f_{i+1})) / S(f_i), 0), S(x) = sigmoid(x / beta), w_i = alpha_i prod_{j<i} (1 - alpha_j),
    Let Occ Flow B.5 after NeuS eq. 13. In logarithms 1 - alpha_i = min(S(f_{i+1}) / S(f_i), 1) never underflows, so
    float32 holds deep inside a surface, where the quotient as written is 0 / 0. `beta` (m) is the width of a surface.
    """
    return _accumulate(_thickness(sdf, beta))


def neus_alpha(sdf: Float[Tensor, "*r edges"], beta: float | Float[Tensor, "*#r 1"]) -> Float[Tensor, "*r s"]:
    """The opacities alpha of these intervals."""
    return -torch.expm1(-_thickness(sdf, beta))


def _thickness(sdf: Tensor, beta: float | Tensor) -> Tensor:
    """Optical thickness of the intervals, -log(1 - alpha)."""
    log_s = logsigmoid(sdf / beta)
    return relu(log_s[..., :-1] - log_s[..., 1:])


def selfocc_weights(
    sdf: Float[Tensor, "*r s"],
    slope: Float[Tensor, "*r s"],
    steps: Float[Tensor, "*r s"],
    beta: float | Float[Tensor, "*#r 1"],
    cos_anneal: float = 1.0,
) -> tuple[Float[Tensor, "*r s"], Float[Tensor, "*r s"]]:
    """SelfOcc's weights and alphas, for comparison with its numbers: `neus_weights` is what to use.

    Each interval is centred on its sample: f is extrapolated by half a step (m) to both sides along `slope`, the
    derivative of f along the ray, of which only the falling part counts (`cos_anneal` from 0 to 1 sharpens that). Its
    eps of 1e-5 in alpha and 1e-4 in the transmittance are kept: free space has alpha > 0, opacity can exceed 1.
    """
    falling = -(torch.relu(0.5 - 0.5 * slope) * (1 - cos_anneal) + torch.relu(-slope) * cos_anneal)
    before = torch.sigmoid((sdf - falling * steps / 2) / beta)
    after = torch.sigmoid((sdf + falling * steps / 2) / beta)
    alpha = ((before - after + 1e-5) / (before + 1e-5)).clamp(0, 1)
    passed = torch.cumprod(1 - alpha + 1e-4, dim=-1)
    return alpha * torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], dim=-1), alpha


def _accumulate(thickness: Float[Tensor, "*r s"]) -> Float[Tensor, "*r s"]:
    """Weights from the optical thickness of each interval: what reaches it less what leaves it."""
    passed = torch.cumsum(thickness, dim=-1).neg_().exp_()
    return torch.cat([1 - passed[..., :1], passed[..., :-1] - passed[..., 1:]], dim=-1)
