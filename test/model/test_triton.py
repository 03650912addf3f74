"""Deformable attention by Triton is that of PyTorch: by Triton's interpreter on the CPU, and on a GPU where there is one.

The interpreter is chosen before Triton is imported, so that it runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from letocc_core.compiled import attention_gpu
from letocc_core.model.deformable_attention import DeformableAttention

pytest.importorskip("triton", reason="Triton is not installed: pip install 'letocc[triton]' (Linux, x86-64)")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CASES = Path(__file__).with_name("triton_cases.py")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=GPU)])
def found(request: pytest.FixtureRequest) -> dict:
    """What `triton_cases.py` prints for a device."""
    environment = os.environ | {"TRITON_INTERPRET": "1" if request.param == "cpu" else "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(CASES), request.param]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("case", "share"),
    [("three maps, odd sizes", 2e-6), ("one channel", 2e-6), ("many channels", 2e-6), ("bfloat16", 1e-2)],
)  # of the largest number: rounding of the type
def test_values_and_all_gradients(found: dict, case: str, share: float):
    assert found[case].keys() == {"result", "value", "places", "weights"}
    for difference, largest in found[case].values():
        assert largest > 0.1 and difference <= share * largest


def test_places_beyond_and_between_by_hand(found: dict):
    """The map's own number at a pixel's centre; the mean of four; zero beyond, and a share of 3/4 x 3/4 of the corner's 5.

    Slopes by hand, in units of the map: 1 a column of 3, 3 a row of 2; the corner loses 5 x 3/4 a pixel.
    """
    assert found["by hand"]["result"] == pytest.approx([1, 3, 0, 5 * 9 / 16])
    slopes = torch.tensor(found["by hand"]["places"])
    assert torch.allclose(slopes, torch.tensor([[3, 6], [3, 6], [0, 0], [-5 * 0.75 * 3, -5 * 0.75 * 2]]))


def test_only_a_gpu_is_served():
    cpu = torch.zeros(1, 6, 1, 1)
    assert attention_gpu.installed() and not attention_gpu.serves(cpu, cpu)


@GPU
def test_the_layer_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    """The same result and gradients of every parameter as on the CPU."""
    torch.manual_seed(0)
    layer = DeformableAttention(12, heads=2, levels=2, points=4)
    nn.init.normal_(layer.offsets.weight)
    given = torch.randn(2, 41, 12), torch.rand(2, 41, 1, 2, 2), torch.randn(2, 35 + 36, 12)
    toward, results = torch.randn(2, 41, 12), []
    for device in ("cpu", "cuda"):
        layer.zero_grad()
        layer.to(device)
        out = layer(*(t.to(device) for t in given), [(7, 5), (4, 9)])
        (out * toward.to(device)).sum().backward()
        results.append([out.detach().cpu(), *(p.grad.cpu() for p in layer.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_compiles_for_a_gpu_that_is_not_there(kind: str):
    """What the interpreter lets pass need not compile."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from letocc_core.compiled.triton_kernels import attend, attend_backwards

    fixed = {"heads": 6, "dim": 32, "row": 32, "block": attention_gpu.QUERIES_AT_ONCE}
    types = {"maps": "*i32", "value_slope": "*fp32"} | dict.fromkeys(("queries", "pixels", "levels", "points"), "i32")
    for kernel in (attend, attend_backwards):
        signature = {n: "constexpr" if n in fixed else types.get(n, f"*{kind}") for n in kernel.arg_names}
        compiled = compile(ASTSource(kernel, signature, fixed), target=GPUTarget("cuda", 80, 32))
        assert len(compiled.asm["cubin"]) > 10_000
