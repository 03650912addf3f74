"""A step of training once more, from the batch and the weights that it left behind when a loss was not finite."""

import math
import pickle
from pathlib import Path

import torch
from torch import nn

from letocc_core import config as configuration
from letocc_core.errors import DataError
from letocc_core.frame import Clip, FlowCue, Frame
from letocc_core.rendering.draws import Draws
from letocc_core.training.config import TrainConfig
from letocc_core.training.loop import StageObjective, build_model


def reproduce(path: Path, device: str = "cpu") -> dict[str, float]:
    """The weighted terms of the saved batch, their total, and the norm of its gradient, by parts of the network.

    Raises `DataError` for a file that training did not write.
    """
    saved = _load(path, device)
    config = configuration.from_dict(TrainConfig, saved["config"], str(path))
    model = build_model(config, torch.device(device)).train()
    model.load_state_dict(saved["model"])
    objective = StageObjective(model, config.stages[saved["stage"]], config.history_gradient)
    draws = Draws(saved["seed"], torch.tensor(saved["positions"], device=device))
    terms = objective(saved["clip"], saved["step"], draws)
    terms["total"].backward()
    norms = {f"gradient of {name}": _gradient_norm(part) for name, part in model.named_children()}
    return {name: float(term.detach()) for name, term in terms.items()} | norms


def _gradient_norm(part: nn.Module) -> float:
    return math.hypot(*(float(p.grad.norm()) for p in part.parameters() if p.grad is not None))


def _load(path: Path, device: str) -> dict:
    try:
        with torch.serialization.safe_globals([Clip, Frame, FlowCue]):
            saved = torch.load(path, weights_only=True, map_location=device)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: not a batch that training saved ({error})") from error
    missing = {"config", "model", "stage", "step", "seed", "positions", "clip"} - set(saved)
    if missing:
        raise DataError(f"{path}: not a batch that training saved: it lacks {', '.join(sorted(missing))}")
    return saved
