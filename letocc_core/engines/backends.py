"""What computes the network: PyTorch, or exported graphs by ONNX Runtime, OpenVINO and TensorRT in its place."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from letocc_core.engines import graphs
from letocc_core.errors import CheckpointError, ConfigError, MissingDependencyError
from letocc_core.model.fields import Evidence, Fields
from letocc_core.model.let_occ_flow import LetOccFlow

BACKENDS = ("torch", "torch_bfloat16", "onnxruntime", "openvino", "tensorrt")
FORMATS = {"onnxruntime": "onnx", "openvino": "openvino", "tensorrt": "tensorrt"}
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "tensorrt": ".engine"}
MANIFEST = "export.json"

Engine = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Manifest:
    """What a folder of exported graphs was made of."""

    checkpoint_sha256: str
    cameras: int
    image_size: tuple[int, int]  # px, height and width
    graphs: tuple[str, ...]

    def save(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return cls(**{**values, "image_size": tuple(values["image_size"]), "graphs": tuple(values["graphs"])})


def folder_of(checkpoint: Path, kind: str) -> Path:
    """Where a checkpoint's graphs of a format lie: beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}_{kind}")


def hash_of(checkpoint: Path) -> str:
    """SHA-256 of a file, by which graphs know the checkpoint that they were made of."""
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def run_by(backend: str, model: LetOccFlow, checkpoint: str | Path) -> None:
    """Let another backend than PyTorch in float32 compute the learned parts of `model` from now on.

    `torch_bfloat16` multiplies in bfloat16; the others take the graphs that lie beside the model's checkpoint.

    Raises:
        ConfigError: no such backend, or a processor without bfloat16.
        CheckpointError: no graphs for it beside the checkpoint, or of another checkpoint.
        MissingDependencyError: the engine is not installed.
    """
    if backend == "torch":
        return
    if backend == "torch_bfloat16":
        device = next(model.parameters()).device.type
        if device == "cpu" and not has_bfloat16():
            raise ConfigError(
                "backend torch_bfloat16: this processor has neither AVX512-BF16 nor AMX, and would be slower; use torch"
            )
        model.multiply_in_bfloat16(device)
        return
    if backend not in FORMATS:
        raise ConfigError(f"backend is '{backend}', expected one of: {', '.join(BACKENDS)}")
    checkpoint, kind = Path(checkpoint), FORMATS[backend]
    folder = folder_of(checkpoint, kind)
    command = f"letocc export {checkpoint} --format {kind} --out {checkpoint.parent}"
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: no graphs for backend {backend}; export them: {command}")
    manifest = Manifest.load(folder)
    if manifest.checkpoint_sha256 != hash_of(checkpoint):
        raise CheckpointError(f"{folder}: exported from another checkpoint than {checkpoint}; export again: {command}")
    replace_parts(model, {name: load(folder, kind, name) for name in manifest.graphs}, manifest)


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; True where PyTorch is too old to know."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16"))  # the last one: of Arm


def load(folder: Path, kind: str, graph: str) -> Engine:
    """A graph of a folder, ready to be called; raises `MissingDependencyError`."""
    engines: dict[str, Callable[[Path], Engine]] = {"onnx": OnnxRuntime, "openvino": OpenVino, "tensorrt": TensorRt}
    return engines[kind](folder / (graph + SUFFIXES[kind]))


def replace_parts(model: LetOccFlow, engines: Mapping[str, Engine], manifest: Manifest) -> None:
    """Replace the model's learned functions by engines."""

    def volume(images: Tensor, looked: Mapping) -> Tensor:
        size = (images.shape[1], *images.shape[-2:])
        if size != (manifest.cameras, *manifest.image_size) or len(images) != 1:
            raise ConfigError(
                f"the graphs were exported for sets of {manifest.cameras} cameras of {manifest.image_size[0]} x "
                f"{manifest.image_size[1]} px, this one has {size[0]} of {size[1]} x {size[2]}; export them with --cameras"
            )
        return engines["encode"](graphs.encode_inputs(images, looked))["volume"]

    def fields_of(
        volume: Tensor, past: Sequence[Tensor], T_past_now: Sequence[Tensor], fine: Tensor | None, motion: bool = True
    ) -> tuple[Fields, Tensor | None]:
        found = engines["decode"](graphs.decode_inputs(volume, past, T_past_now, fine))
        return Fields(found["sdf"], found.get("flow"), found.get("semantics")), found.get("columns")

    def motion(evidence: Evidence, sdf: Tensor, turned: Tensor | None = None) -> Tensor:
        return engines["motion"](graphs.motion_inputs(evidence, sdf))["flow"]

    model.volume, model.fields_of = volume, fields_of  # type: ignore[method-assign]
    if model.motion is not None:
        model.motion.forward = motion  # type: ignore[method-assign]


class OnnxRuntime:
    """A graph by ONNX Runtime: on the GPU where its build has one, else on the CPU, with as many threads as torch."""

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                "backend onnxruntime is not installed: pip install 'letocc[export]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        known = onnxruntime.get_available_providers()
        wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in known]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        self._inputs = [i.name for i in self._session.get_inputs()]
        self._outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self._session.run(self._outputs, {name: _array(inputs[name]) for name in self._inputs})
        return _tensors(self._outputs, found, inputs)


class OpenVino:
    """A graph by OpenVINO on the CPU in float32, with as many threads as torch."""

    def __init__(self, path: Path):
        try:
            import openvino
        except ImportError as error:
            raise MissingDependencyError("backend openvino is not installed: pip install 'letocc[export]'") from error
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self._inputs = [i.any_name for i in self._compiled.inputs]
        self._outputs = [o.any_name for o in self._compiled.outputs]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self._compiled({name: _array(inputs[name]) for name in self._inputs})
        return _tensors(self._outputs, [found[name] for name in self._outputs], inputs)


class TensorRt:
    """An engine by TensorRT, whose inputs and outputs are torch's memory on its GPU."""

    def __init__(self, path: Path):
        tensorrt = tensorrt_module()
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise CheckpointError(f"{path}: not an engine of this TensorRT and GPU; export it again on this machine")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT for n in names}
        self._inputs, self._outputs = [n for n in names if is_input[n]], [n for n in names if not is_input[n]]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = torch.device("cuda", torch.cuda.current_device())
        given = {name: inputs[name].to(device).contiguous() for name in self._inputs}
        for name, tensor in given.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        found = {n: torch.empty(tuple(self._context.get_tensor_shape(n)), device=device) for n in self._outputs}
        for name, tensor in found.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        wanted = next(iter(inputs.values())).device
        return {name: tensor.to(wanted) for name, tensor in found.items()}


def tensorrt_module():
    """The module `tensorrt`; raises `MissingDependencyError` where it or a GPU is absent."""
    try:
        import tensorrt
    except ImportError as error:
        raise MissingDependencyError(
            "TensorRT is not installed: pip install tensorrt on the machine with the GPU that the engine is for, and "
            "export there; the ONNX files (--format onnx) go anywhere"
        ) from error
    if not torch.cuda.is_available():
        raise MissingDependencyError("TensorRT needs an NVIDIA GPU, and PyTorch sees none on this machine")
    return tensorrt


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _tensors(names: Sequence[str], values: Sequence[np.ndarray], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs by name, where the inputs are. They are copies: an engine may use its memory again."""
    device = next(iter(inputs.values())).device
    return {name: torch.tensor(value, device=device) for name, value in zip(names, values, strict=True)}
