"""Exported graphs give what PyTorch gives, and are refused where they do not belong to the checkpoint."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

from model_cases import model_config

from letocc_core import checkpoint
from letocc_core import config as configuration
from letocc_core.engines import backends
from letocc_core.errors import CheckpointError, ConfigError, LetOccError, MissingDependencyError
from letocc_core.export import write
from letocc_core.frame import InputConfig
from letocc_core.geometry.grid import GridSpec, _sample_by_rows, sample_unit
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.stream.pipeline import OccFlowPipeline

INPUT = InputConfig(image_size=(64, 96))
CAMERAS = 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A tiny model with both sweeps, whose weights are all but small."""
    torch.manual_seed(0)
    model = LetOccFlow(model_config(sweep={"prior": True}, motion_branch={"expectations": True}))
    for name, parameter in model.named_parameters():
        if name.startswith(("fields", "motion.last")):
            torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("export") / "tiny.safetensors"
    config = {"model": configuration.to_dict(model.config), "input": configuration.to_dict(INPUT)}
    checkpoint.save(path, model, config)
    return path


@pytest.fixture(scope="module")
def exported(saved: Path) -> Path:
    """The checkpoint beside its graphs."""
    folder, found = write.export(saved, "onnx", saved.parent / "out", cameras=CAMERAS)
    assert {(d.graph, d.output) for d in found} == {
        ("encode", "volume"), ("decode", "sdf"), ("decode", "columns"), ("motion", "flow"),
    }  # fmt: skip
    assert all(d.largest <= d.limit for d in found)
    assert sorted(p.name for p in folder.iterdir()) == ["decode.onnx", "encode.onnx", "export.json", "motion.onnx"]
    return saved.parent / "out" / saved.name


def sets(path: Path, cameras: int = CAMERAS):
    model, input_config, _ = checkpoint.load_model(path)
    return write._sets_of(None, input_config, model, cameras)


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_pipeline_answers_the_same(exported: Path, backend: str):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra `export` is not installed")
        write.export(exported, "openvino", exported.parent, cameras=CAMERAS)
    plain, other = (OccFlowPipeline.from_checkpoint(exported, backend=b) for b in ("torch", backend))
    for frames in sets(exported):
        expected, answer = plain.step(frames), other.step(frames)
        assert np.abs(expected.probability - answer.probability).max() < 1e-2
        assert np.abs(expected.velocity - answer.velocity).mean() < 1e-2  # a ray that just hits may miss
    assert expected.probability.std() > 0.01 and expected.velocity.std() > 0.01


@pytest.mark.skipif(not backends.has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_answers_nearly_the_same(saved: Path):
    plain, other = (OccFlowPipeline.from_checkpoint(saved, backend=b) for b in ("torch", "torch_bfloat16"))
    for frames in sets(saved):
        expected, answer = plain.step(frames), other.step(frames)
        difference = np.abs(expected.probability - answer.probability)
        assert 0 < difference.max() < 0.1 and difference.mean() < 1e-2
        assert np.abs(expected.velocity - answer.velocity).mean() < 0.05 * expected.velocity.std()


def test_bfloat16_is_refused_where_it_would_be_slower(saved: Path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    with pytest.raises(ConfigError, match="neither AVX512-BF16 nor AMX"):
        OccFlowPipeline.from_checkpoint(saved, backend="torch_bfloat16")


def test_graphs_that_do_not_belong_are_refused(exported: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="exported for sets of 2 cameras"):
        OccFlowPipeline.from_checkpoint(exported, backend="onnxruntime").step(sets(exported, 3)[0])
    with pytest.raises(CheckpointError, match="no graphs for backend tensorrt"):
        OccFlowPipeline.from_checkpoint(exported, backend="tensorrt")
    with pytest.raises(ConfigError, match="expected one of: torch, torch_bfloat16, onnxruntime"):
        OccFlowPipeline.from_checkpoint(exported, backend="onnx")
    shutil.copytree(exported.parent, tmp_path / "copy")
    trained_on = tmp_path / "copy" / exported.name
    checkpoint.set_threshold(trained_on, 0.123)
    with pytest.raises(CheckpointError, match="exported from another checkpoint"):
        OccFlowPipeline.from_checkpoint(trained_on, backend="onnxruntime")


def test_a_graph_that_differs_is_noticed(exported: Path, monkeypatch):
    class Off(backends.OnnxRuntime):
        def __call__(self, inputs):
            return {name: value + 0.002 for name, value in super().__call__(inputs).items()}

    model, input_config, _ = checkpoint.load_model(exported)
    _, calls = write.record(model, input_config, sets(exported)[:1])
    folder = backends.folder_of(exported, "onnx")
    monkeypatch.setattr(backends, "OnnxRuntime", Off)
    with pytest.raises(LetOccError, match=r"decode sdf: 0\.002, at most 0\.001"):
        write.compare(folder, "onnx", backends.Manifest.load(folder), calls)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_tensorrt_says_what_it_needs(saved: Path, tmp_path: Path):
    with pytest.raises(MissingDependencyError, match="TensorRT"):
        write.export(saved, "tensorrt", tmp_path)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_volumes_are_read_the_same_by_rows(padding: str):
    """Inside, at the faces and beyond."""
    grid = GridSpec((0.0, 0.0, 0.0), (2.0, 1.5, 1.0), 0.5)
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(2, 3, *grid.shape, generator=generator)
    points = torch.rand(2, 50, 3, generator=generator) * 3 - 1.5
    torch.testing.assert_close(_sample_by_rows(volume, points, padding), sample_unit(volume, points, padding))
