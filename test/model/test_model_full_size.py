"""The papers' sizes build, run and learn on a CPU at batch 2. Slow: minutes and gigabytes, one process each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_cases import shipped

from letocc_core.model.let_occ_flow import LetOccFlow

SCRIPT = """
import resource, sys, time
import torch
from model_cases import frames, shipped
from letocc_core.model.let_occ_flow import LetOccFlow

config, input_config = shipped(sys.argv[1])
current, *past = frames(batch=2, cameras=int(sys.argv[2]), size=input_config.image_size)
torch.manual_seed(0)
model = LetOccFlow(config)
start = time.perf_counter()
encoded = model.encode(current)
with torch.no_grad():
    history = [model.encode(frame) for frame in past]
fields = model.decode(encoded, history)
(fields.sdf.square().mean() + fields.flow.square().mean()).backward()
assert fields.sdf.shape == (2, 1, *config.grid.shape) and fields.flow.shape == (2, 2, *config.grid.shape)
without = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
assert not without, without
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{sys.argv[1]}: {time.perf_counter() - start:.0f} s on {torch.get_num_threads()} threads, peak {peak:.1f} GiB")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cameras"), [("nuscenes", 6), ("semantickitti", 1), ("kitti_mot", 1)])
def test_forward_and_backward_at_batch_two(name: str, cameras: int, capsys: pytest.CaptureFixture):
    test = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(cameras)],
        cwd=test,
        env={**os.environ, "PYTHONPATH": f"{test}:{test.parent}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}")


@pytest.mark.parametrize(
    ("name", "output"),
    [("nuscenes", (200, 200, 16)), ("semantickitti", (256, 256, 32)), ("kitti_mot", (256, 256, 32))],
)
def test_the_configurations_have_the_papers_sizes(name: str, output: tuple[int, int, int]):
    config, _ = shipped(name)
    assert config.grid.shape == output
    assert config.dim == 192 and config.encoder.layers == 4 and config.temporal.kind == "bfam"


@pytest.mark.parametrize("name", ["street", "kitti_small"])
def test_the_small_configurations_build(name: str):
    config, _ = shipped(name)
    assert 1e6 < sum(p.numel() for p in LetOccFlow(config).parameters()) < 4e6
