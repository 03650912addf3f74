"""Checkpoints: weights in safetensors, with the configuration that made them in the file's metadata.

Metadata keys: `config` (JSON: the whole training configuration; the sections `model` and `input` are what running it
takes) and whatever `save` was given besides (versions, command, seed, steps trained, ...), each as JSON.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_parameter_registration_hook

from letocc_core import config as configuration
from letocc_core.errors import CheckpointError, LetOccError
from letocc_core.frame import InputConfig
from letocc_core.model.let_occ_flow import LetOccFlow, ModelConfig

MAX_RATIO = 64  # of a model's size to that of the tensors that are there for it: a few may be missing
PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zipped, and by protocol
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".bin")


def save(path: str | Path, model: torch.nn.Module, config: Mapping[str, Any], **info: Any) -> None:
    """Write weights and metadata; an existing file is replaced at once, so that a kill leaves the old or the new one.

    Args:
        config: plain dictionary (`configuration.to_dict`) with at least the sections `model` and `input`.
        info: more metadata, anything that JSON can hold.

    Raises `CheckpointError` if it cannot be written; nothing half written is left.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {name: json.dumps(value) for name, value in {"config": dict(config), **info}.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(tensors, str(temporary), metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot be written ({error}); is the disk full, or the folder read-only? Nothing half written is left"
        ) from error


def load_model(
    path: str | Path, device: torch.device | str = "cpu", expected: Mapping[str, Any] | None = None
) -> tuple[LetOccFlow, InputConfig, dict[str, Any]]:
    """The model of a checkpoint in evaluation mode, how its input is prepared, and all metadata.

    Args:
        expected: plain configuration; its sections `model` and `input`, where it has them, must be the checkpoint's.

    Raises:
        CheckpointError: missing, a pickle, damaged, without configuration, of another configuration than expected (says
            which fields differ), or with other tensors than its configuration asks for. A configuration that asks for
            more memory than its tensors fill is refused before it gets it.
        ConfigError: its configuration holds a key that this version does not know.
    """
    path = Path(path)
    metadata = read_metadata(path)
    if expected is not None:
        _compare(path, metadata["config"], expected, ("model", "input"))
    model_config, input_config = configurations(metadata, path)
    model = _build(path, model_config)
    _load(path, model)
    return model.to(device).eval(), input_config, metadata


def load_weights(path: str | Path, model: torch.nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """Put a checkpoint's weights into `model`, whose configuration (plain, with the section `model`) must be the same.

    Returns the metadata; raises `CheckpointError` as `load_model` does.
    """
    path = Path(path)
    metadata = read_metadata(path)
    _compare(path, metadata["config"], config, ("model",))
    _load(path, model)
    return metadata


def load_matching(path: str | Path, model: torch.nn.Module) -> list[str]:
    """Put those of a checkpoint's weights into `model` that have its names and shapes, to train on from there.

    Returns the names of the model's tensors that stay as they are, such as those of a part that is new.

    Raises:
        CheckpointError: missing, a pickle, damaged, without configuration, or with fewer than half of the tensors.
    """
    path = Path(path)
    read_metadata(path)
    own, stored = model.state_dict(), _read_tensors(path)
    matching = {name: t for name, t in stored.items() if name in own and t.shape == own[name].shape}
    if 2 * len(matching) < len(own):
        raise CheckpointError(
            f"{path}: holds {len(matching)} of the model's {len(own)} tensors, expected at least half; start from a "
            "checkpoint of a model like this one"
        )
    model.load_state_dict(matching, strict=False)
    return [name for name in own if name not in matching]


def set_threshold(path: str | Path, threshold: float) -> None:
    """Write `model.occupancy_threshold` into a checkpoint's configuration; the file is replaced at once."""
    path = Path(path)
    metadata = read_metadata(path)
    metadata["config"]["model"]["occupancy_threshold"] = threshold
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(_read_tensors(path), str(temporary), {name: json.dumps(value) for name, value in metadata.items()})
    temporary.replace(path)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Metadata of a checkpoint, without reading its weights. Raises `CheckpointError`."""
    path = Path(path)
    _check_file(path)
    try:
        with safe_open(str(path), "pt") as file:
            texts = file.metadata() or {}
        metadata = {name: json.loads(text) for name, text in texts.items()}
    except (SafetensorError, ValueError, RecursionError) as error:  # ValueError: not JSON
        raise CheckpointError(f"{path}: not a checkpoint, or damaged ({error}); copy or export it again") from error
    config = metadata.get("config")
    if not isinstance(config, dict) or not {"model", "input"} <= set(config):
        raise CheckpointError(
            f"{path}: holds weights but not the configuration that made them (metadata key 'config' with the sections "
            f"model and input; keys found: {', '.join(metadata) or 'none'}); export it with `letocc train`"
        )
    return metadata


def configurations(metadata: Mapping[str, Any], path: str | Path) -> tuple[ModelConfig, InputConfig]:
    """What a checkpoint's metadata says about the model and its input; raises `ConfigError` for unknown keys."""
    config = metadata["config"]
    return (
        configuration.from_dict(ModelConfig, config["model"], str(path), "model."),
        configuration.from_dict(InputConfig, config["input"], str(path), "input."),
    )


def _check_file(path: Path) -> None:
    if not path.is_file():
        near = ", ".join(sorted(p.name for p in path.parent.glob("*.safetensors"))) or "none"
        raise CheckpointError(f"{path}: no such checkpoint; checkpoints in {path.parent}: {near}")
    with path.open("rb") as file:
        start = file.read(9)
    pickled = start[:2] in PICKLE_STARTS and start[8:] != b"{"  # there safetensors has its header
    if path.suffix in PICKLE_SUFFIXES or pickled:
        raise CheckpointError(
            f"{path}: a pickled checkpoint; refused, because reading one can run any code that is hidden in it. "
            "Expected a .safetensors file as `letocc train` writes it"
        )


def _build(path: Path, config: ModelConfig) -> LetOccFlow:
    """The model of a configuration, which is given up as soon as it is larger than what the file holds."""
    stored = sum(math.prod(shape) for shape in _shapes(path).values())
    voxels = math.prod(config.grid.shape)
    if voxels > MAX_RATIO * stored:
        raise CheckpointError(
            f"{path}: its configuration has {voxels} voxels, but its tensors hold only {stored} values; the file is damaged "
            "or forged: copy or export it again"
        )
    built = 0

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal built
        built += 0 if parameter is None else parameter.numel()
        if built > MAX_RATIO * stored:
            raise CheckpointError(
                f"{path}: its configuration needs far more than the {stored} values that its tensors hold; the file is "
                "damaged or forged: copy or export it again"
            )

    counting = register_module_parameter_registration_hook(count)
    try:
        return LetOccFlow(config)
    except LetOccError:
        raise
    except Exception as error:  # torch has no common one for shapes that cannot be, or that memory cannot hold
        raise CheckpointError(
            f"{path}: its configuration describes no model that can be built ({type(error).__name__}: {error}); copy or "
            "export it again"
        ) from error
    finally:
        counting.remove()


def _compare(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any], sections: tuple[str, ...]) -> None:
    plain = json.loads(json.dumps(expected))  # tuples as JSON reads them back
    model, input = configurations(
        {"config": found}, path
    )  # with the defaults of options that are younger than the file
    found = {"model": configuration.to_dict(model), "input": configuration.to_dict(input)}
    differing = [
        line
        for section in sections
        if section in plain
        for line in configuration.differences(found[section], plain[section], f"{section}.")
    ]
    if differing:
        raise CheckpointError(
            f"{path}: belongs to another configuration; fields that differ (checkpoint != expected): "
            f"{'; '.join(differing)}"
        )


def _shapes(path: Path) -> dict[str, list[int]]:
    """Of the stored tensors, without reading them."""
    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy or export it again") from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy or export it again") from error


def _load(path: Path, model: torch.nn.Module) -> None:
    """Copy the tensors, after checking that they are the model's."""
    own, stored = model.state_dict(), _read_tensors(path)
    problems = [f"lacks {name}" for name in own if name not in stored]
    problems += [f"has {name}, which the model has not" for name in stored if name not in own]
    problems += [
        f"{name} is {list(stored[name].shape)}, expected {list(own[name].shape)}"
        for name in own
        if name in stored and stored[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(
            f"{path}: its tensors are not the model's: {shown}; it was made by another version of the code"
        )
    model.load_state_dict(stored)
