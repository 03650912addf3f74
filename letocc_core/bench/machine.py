"""What the machine is, and the most that it does: a large matrix product, a large copy."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SIZE = 1536  # of the matrices
COPIED = 2**26  # bytes


@dataclass(frozen=True)
class Peak:
    """Measured, float32, with the threads and the clock of the run."""

    flops: float  # operations a second of a matrix product
    bytes: float  # a second, read and written by a copy


def measure_peak(clock: Callable[[], float], device: torch.device, rounds: int = 5) -> Peak:
    """The best of a few rounds."""
    a, b = torch.rand(2, SIZE, SIZE, device=device)
    source = torch.rand(COPIED // 4, device=device)
    target = torch.empty_like(source)
    product = min(_seconds(clock, lambda: a @ b) for _ in range(rounds))
    copy = min(_seconds(clock, lambda: target.copy_(source)) for _ in range(rounds))
    return Peak(2 * SIZE**3 / product, 2 * COPIED / copy)


def describe(device: torch.device) -> str:
    """Name of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _seconds(clock: Callable[[], float], function: Callable[[], object]) -> float:
    begin = clock()
    function()
    return max(clock() - begin, 1e-9)
