"""Graphs of a checkpoint as files, compared with PyTorch before they are kept.

letocc export models/street.safetensors --format onnx --out out/export
letocc replay BAG --checkpoint out/export/street.safetensors --backend onnxruntime
"""

import contextlib
import io
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from letocc_core import checkpoint as checkpoints
from letocc_core.engines import backends, graphs
from letocc_core.engines.backends import Manifest
from letocc_core.engines.graphs import Graph
from letocc_core.errors import ConfigError, DataError, LetOccError, MissingDependencyError
from letocc_core.frame import InputConfig
from letocc_core.model.fields import Fields
from letocc_core.model.let_occ_flow import LetOccFlow
from letocc_core.stream.pipeline import OccFlowPipeline
from letocc_core.stream.types import FrameSet

OPSET = 20
TOLERANCE = 1e-3  # m of SDF and m/s of velocity; of other outputs, a thousandth of their largest value
CHECKED = 4  # sets


@dataclass(frozen=True)
class Difference:
    """How far an output of a graph is from PyTorch's, at most over the sets compared."""

    graph: str
    output: str
    largest: float
    limit: float
    seconds: float  # CPU time of the graph, the least over the sets
    torch_seconds: float  # of PyTorch, the same


def export(
    checkpoint: str | Path, kind: str, out: str | Path, bag: str | Path | None = None, cameras: int | None = None
) -> tuple[Path, list[Difference]]:
    """Write the graphs of a checkpoint into `out`, the checkpoint beside them; returns their folder and the differences.

    Every graph gets what PyTorch gives it on real image sets, and must return what PyTorch returns.

    Args:
        kind: onnx, openvino or tensorrt.
        bag: whose first sets are compared; None: those of a simulated street.
        cameras: of a set; None: as many as those sets have.

    Raises:
        CheckpointError, DataError: checkpoint or bag cannot be used.
        MissingDependencyError: what writes or runs this format is not installed.
        LetOccError: a graph differs from PyTorch; nothing is kept.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if kind not in backends.SUFFIXES:
        raise ConfigError(f"format is '{kind}', expected one of: {', '.join(backends.SUFFIXES)}")
    if kind == "tensorrt":
        backends.tensorrt_module()
    model, input_config, _ = checkpoints.load_model(checkpoint)
    sets = _sets_of(bag, input_config, model, cameras)
    views, calls = record(model, input_config, sets)
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() != checkpoint.parent.resolve():
        shutil.copyfile(checkpoint, out / checkpoint.name)
    made = graphs.graphs_of(model, views, input_config.image_size)
    manifest = Manifest(backends.hash_of(checkpoint), views, input_config.image_size, tuple(made))
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        folder = Path(temporary) / "graphs"
        folder.mkdir()
        for name, graph in made.items():
            _write(graph, kind, folder / name)
        manifest.save(folder)
        found = compare(folder, kind, manifest, calls)
        final = backends.folder_of(out / checkpoint.name, kind)
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)
    return final, found


Call = tuple[dict[str, Tensor], dict[str, Tensor], float]  # inputs and outputs of a graph, and PyTorch's CPU time
Calls = dict[str, list[Call]]


def record(model: LetOccFlow, input: InputConfig, sets: list[FrameSet]) -> tuple[int, Calls]:
    """Cameras of a set as the network sees it, and what each graph would have got and must return, by PyTorch."""
    calls: Calls = {}

    def noting(name: str, names: Callable, function: Callable, outputs: Callable) -> Callable:
        def call(*arguments: Any) -> Any:
            begin = time.process_time()
            result = function(*arguments)
            seconds = time.process_time() - begin
            calls.setdefault(name, []).append((names(*arguments), outputs(result), seconds))
            return result

        return call

    def of_fields(result: tuple[Fields, Tensor | None]) -> dict[str, Tensor]:
        fields, columns = result
        found = {"sdf": fields.sdf, "flow": fields.flow, "semantics": fields.semantics, "columns": columns}
        return {name: value for name, value in found.items() if value is not None}

    plain = model.volume, model.fields_of
    volume = noting("encode", graphs.encode_inputs, plain[0], lambda volume: {"volume": volume})
    fields_of = noting("decode", lambda *given: graphs.decode_inputs(*given[:4]), plain[1], of_fields)
    model.volume, model.fields_of = volume, fields_of  # type: ignore[method-assign]
    if model.motion is not None:
        names = lambda evidence, sdf, turned: graphs.motion_inputs(evidence, sdf)  # noqa: E731
        moved = noting("motion", names, model.motion.forward, lambda flow: {"flow": flow})
        model.motion.forward = moved  # type: ignore[method-assign]
    try:
        pipeline = OccFlowPipeline(model, input)
        for frames in sets:
            pipeline.step(frames)
        assert pipeline.last is not None
        views = len(pipeline.last.sets[-1].images)
    finally:
        del model.volume, model.fields_of
        if model.motion is not None:
            del model.motion.forward
    return views, calls


def compare(folder: Path, kind: str, manifest: Manifest, calls: Calls) -> list[Difference]:
    """The largest difference of each output from PyTorch's; raises `LetOccError` if one is above its limit."""
    found = []
    for name in manifest.graphs:
        engine = backends.load(folder, kind, name)
        largest: dict[str, float] = {}
        limits: dict[str, float] = {}
        seconds = []
        for inputs, expected, _ in calls[name]:
            begin = time.process_time()
            given = engine(inputs)
            seconds.append(time.process_time() - begin)
            for output, value in expected.items():
                difference = float((given[output] - value).abs().max())
                largest[output] = max(largest.get(output, 0.0), difference)
                scale = 1.0 if output in ("sdf", "flow") else max(float(value.abs().max()), 1.0)
                limits[output] = max(limits.get(output, 0.0), TOLERANCE * scale)
        times = min(seconds), min(call[2] for call in calls[name])
        found += [Difference(name, output, largest[output], limits[output], *times) for output in largest]
    wrong = [d for d in found if not d.largest <= d.limit]
    if wrong:
        worst = "; ".join(f"{d.graph} {d.output}: {d.largest:.2g}, at most {d.limit:.2g}" for d in wrong)
        raise LetOccError(f"the {kind} graphs differ from PyTorch, and are not kept ({worst})")
    return found


def _sets_of(bag: str | Path | None, input: InputConfig, model: LetOccFlow, cameras: int | None) -> list[FrameSet]:
    """Image sets to compare on, a history's interval apart."""
    if bag is None:
        from letocc_core.evaluation.samples import simulated_street

        times = [i * input.history_interval for i in range(CHECKED)]
        samples = simulated_street(9000, "nuscenes", model.config.grid, input.image_size, times)
        sets = [sample.frame_set for sample in samples]
    else:
        from letocc_core.evaluation.samples import RecordedDrive

        sets, last = [], -float("inf")
        for sample in RecordedDrive(Path(bag), input=input):
            if (sample.frame_set.stamp_ns - last) * 1e-9 > 0.9 * input.history_interval:
                sets, last = [*sets, sample.frame_set], sample.frame_set.stamp_ns
            if len(sets) == CHECKED:
                break
    if not sets:
        raise DataError(f"{bag}: no image set to compare on")
    if cameras is None:
        return sets
    if cameras > len(sets[0].images):
        raise DataError(f"--cameras {cameras}, but the sets to compare on have {len(sets[0].images)}; name a --bag")
    return [_first(frames, cameras) for frames in sets]


def _first(frames: FrameSet, cameras: int) -> FrameSet:
    """A set of its first cameras alone."""
    parts = {n: getattr(frames, n)[:cameras] for n in ("images", "calibrations", "T_ego_cam", "masks")}
    return replace(frames, **parts)


def _write(graph: Graph, kind: str, path: Path) -> None:
    """One graph as a file, by way of ONNX."""
    program = _onnx(graph)
    if kind == "onnx":
        program.save(str(path.with_suffix(".onnx")))
        return
    onnx = path.with_suffix(".onnx")
    program.save(str(onnx))
    if kind == "openvino":
        try:
            import openvino
        except ImportError as error:
            raise MissingDependencyError("--format openvino needs OpenVINO: pip install 'letocc[export]'") from error
        openvino.save_model(openvino.convert_model(str(onnx)), str(path.with_suffix(".xml")), compress_to_fp16=False)
    else:
        path.with_suffix(".engine").write_bytes(_tensorrt(onnx, graph))
    onnx.unlink()


def _onnx(graph: Graph) -> Any:
    """A graph as an ONNX program: operators of the standard alone."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("export needs onnx and onnxscript: pip install 'letocc[export]'") from error
    varying = torch.export.Dim.DYNAMIC
    shapes: list = [{2: varying} if name in graph.varying else None for name in graph.inputs]
    with torch.no_grad(), _quiet():
        return torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=(shapes[0], tuple(shapes[1:])) if graph.varying else None,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on what is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tensorrt(onnx: Path, graph: Graph) -> bytes:
    """An engine for this machine's GPU."""
    tensorrt = backends.tensorrt_module()
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        raise LetOccError(f"TensorRT cannot read {onnx.name}: {parser.get_error(0)}")
    settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name in graph.varying:
        shape = list(graph.inputs[name].shape)
        most = graph.inputs[f"{name.split('_')[0]}_share"].shape[1]
        least, usual, largest = ([*shape[:2], m, *shape[3:]] for m in (1, shape[2], most))
        profile.set_shape(name, least, usual, largest)
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise LetOccError(f"TensorRT cannot build {onnx.name}; its log says why")
    return bytes(engine)
