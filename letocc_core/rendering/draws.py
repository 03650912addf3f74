"""Random numbers that a clip gets from its own place in training, whatever it is batched with and wherever it runs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

STRIDE = 0x9E3779B1 - 2**32  # odd, near 2^32 / golden ratio; as a signed number, as are all here
ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, 1))  # an integer hash (Wellons, "lowbias32", 2018)


class Draws:
    """Uniform random numbers for each clip of a batch; a function of (seed, position, call, index) and nothing else.

    A hash of the index instead of a generator's state: the same on every device, and without a loop over the clips.
    """

    def __init__(self, seed: int, positions: Int[Tensor, "B"]):
        """
        Args:
            seed: of this step of training.
            positions: of the clips in the whole batch, of which this process may hold a part.
        """
        low, high = (torch.tensor(part, device=positions.device).int() for part in (seed % 2**31, (seed >> 31) % 2**31))
        self._keys = _hash(_hash(positions.int() * STRIDE + low) + high)
        self._calls = 0

    def uniform(self, *shape: int) -> Float[Tensor, "B *shape"]:
        """Numbers in [0, 1) on the positions' device; others at each call."""
        self._calls += 1
        keys = _hash(self._keys + self._calls)
        count = torch.Size(shape).numel()
        bits = _hash(torch.arange(count, dtype=torch.int32, device=keys.device).mul_(STRIDE) + keys[:, None])
        return _shift(bits, 8).float().mul_(2**-24).view(len(keys), *shape)


def _hash(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Scrambles int32 numbers, in place."""
    for bits, factor in ROUNDS:
        x = x.bitwise_xor_(_shift(x, bits)).mul_(factor)
    return x


def _shift(x: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """int32 numbers shifted to the right, zeros moving in."""
    return (x >> bits).bitwise_and_(2 ** (32 - bits) - 1)
