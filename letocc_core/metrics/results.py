"""The one format of result files: JSON, documented in docs/results-format.md. What was not computed is absent."""

import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from letocc_core.errors import DataError
from letocc_core.metrics.budget import CAUSES
from letocc_core.metrics.occupancy import REGIONS, RING_NAMES, TENTHS

GROUPS: dict[str, tuple[str, ...]] = {
    "ray_iou": ("1m", "2m", "4m", "mean"),
    "ray_iou_objects": ("1m", "2m", "4m", "mean"),
    "iou": REGIONS,
    "precision": REGIONS,
    "recall": REGIONS,
    "iou_by_distance": RING_NAMES,
    "precision_by_distance": RING_NAMES,
    "recall_by_distance": RING_NAMES,
    "sight": ("precision", "recall", "share"),
    "probability": ("best_threshold", "best_iou", "calibration_error", *TENTHS),
    "depth": ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3"),
    "depth_by_distance": (*RING_NAMES, "movable"),
    "error_budget": CAUSES,
    "motion": ("mave", "mave_supervised", "direction_error_deg", "false_motion", "found"),
    "flow2d": ("epe", "epe_fg"),
    "scene_flow": ("de", "epe", "de_fg", "epe_fg", "d1", "f1", "sf1", "epe_moving", "epe_still"),
    "sweep_motion": ("explained", "spoilt"),
    "boxes": ("mave", "mave_ratio", "direction_error_deg", "false_motion", "found"),
    "novel_view": ("l1", "dssim", "psnr"),
}
BASELINES = ("flat_road", "mean_occupancy", "zero_velocity", "constant_depth")
ABOUT: dict[str, type] = {
    "scenes": int,
    "frames": int,
    "checkpoint": str,
    "config": dict,
    "trained": dict,
    "versions": dict,
    "command": str,
    "tables": dict,
}
SHARES = {  # groups whose values lie in [0, 1]
    *(
        "ray_iou",
        "ray_iou_objects",
        "iou",
        "precision",
        "recall",
        "sight",
        "probability",
        "error_budget",
        "sweep_motion",
    ),
    *("iou_by_distance", "precision_by_distance", "recall_by_distance"),
}
TABLES = {  # by heading: the groups that are shown together
    "Rays and depth": ("ray_iou", "ray_iou_objects", "depth", "novel_view"),
    "Voxels": ("iou", "precision", "recall", "sight"),
    "IoU by distance": ("iou_by_distance",),
    "Precision by distance": ("precision_by_distance",),
    "Recall by distance": ("recall_by_distance",),
    "Probabilities: the threshold that would be best, and the share that is occupied by what is said": ("probability",),
    "Depth, abs rel by distance": ("depth_by_distance",),
    "Of the voxels that are wrong": ("error_budget",),
    "Motion": ("motion", "flow2d", "scene_flow", "sweep_motion"),
    "Motion of what is in boxes": ("boxes",),
}
KINDS = ("IoU", "precision", "recall")
HEADLINES = tuple(g for g in GROUPS if g not in ("probability", "error_budget") and not g.endswith("_by_distance"))
NOT_RUN = "not run"  # what a table says of a method without results

COLUMNS = (  # heading, group, key, decimals
    ("RayIoU@1", "ray_iou", "1m", 3),
    ("RayIoU@2", "ray_iou", "2m", 3),
    ("RayIoU@4", "ray_iou", "4m", 3),
    ("RayIoU", "ray_iou", "mean", 3),
    ("objects@1", "ray_iou_objects", "1m", 3),
    ("objects@2", "ray_iou_objects", "2m", 3),
    ("objects@4", "ray_iou_objects", "4m", 3),
    ("objects", "ray_iou_objects", "mean", 3),
    ("IoU", "iou", "mean", 3),
    ("precision", "precision", "mean", 3),
    ("recall", "recall", "mean", 3),
    ("IoU 12 m", "iou", "12m", 3),
    ("precision 12 m", "precision", "12m", 3),
    ("IoU standing", "iou", "standing", 3),
    ("recall standing", "recall", "standing", 3),
    ("IoU all", "iou", "all", 3),
    ("IoU seen", "iou", "seen", 3),
    ("precision seen", "precision", "seen", 3),
    ("seen rightly", "sight", "precision", 3),
    ("seen of visible", "sight", "recall", 3),
    ("share seen", "sight", "share", 3),
    *((f"{kind} {ring}", f"{kind.lower()}_by_distance", ring, 3) for kind in KINDS for ring in RING_NAMES),
    ("best threshold", "probability", "best_threshold", 3),
    ("its IoU", "probability", "best_iou", 3),
    ("calibration error", "probability", "calibration_error", 3),
    *((name, "probability", name, 3) for name in TENTHS),
    ("abs rel", "depth", "abs_rel", 3),
    *((f"abs rel {name}", "depth_by_distance", name, 3) for name in (*RING_NAMES, "movable")),
    *((name.replace("_", " "), "error_budget", name, 3) for name in CAUSES),
    ("RMSE (m)", "depth", "rmse", 2),
    ("mAVE (m/s)", "motion", "mave", 2),
    ("with cue", "motion", "mave_supervised", 2),
    ("direction (deg)", "motion", "direction_error_deg", 0),
    ("false motion", "motion", "false_motion", 3),
    ("moving matter found", "motion", "found", 3),
    ("EPE (px)", "flow2d", "epe", 2),
    ("EPE fg", "flow2d", "epe_fg", 2),
    ("DE (px)", "scene_flow", "de", 2),
    ("EPE (px)", "scene_flow", "epe", 2),
    ("DE fg", "scene_flow", "de_fg", 2),
    ("EPE fg", "scene_flow", "epe_fg", 2),
    ("EPE moving", "scene_flow", "epe_moving", 2),
    ("EPE still", "scene_flow", "epe_still", 2),
    ("D1", "scene_flow", "d1", 3),
    ("F1", "scene_flow", "f1", 3),
    ("SF1", "scene_flow", "sf1", 3),
    ("mAVE in boxes (m/s)", "boxes", "mave", 2),
    ("over standing still's", "boxes", "mave_ratio", 3),
    ("direction (deg)", "boxes", "direction_error_deg", 0),
    ("false motion", "boxes", "false_motion", 3),
    ("boxes with matter", "boxes", "found", 3),
    ("explained", "sweep_motion", "explained", 3),
    ("spoilt", "sweep_motion", "spoilt", 3),
    ("L1", "novel_view", "l1", 4),
    ("D-SSIM", "novel_view", "dssim", 4),
    ("PSNR (dB)", "novel_view", "psnr", 1),
)


def validate_results(results: Mapping[str, Any], source: str = "results") -> None:
    """Check a result file's content; `DataError` lists everything that is wrong with it."""
    wrong = _wrong_groups(results, "", {*GROUPS, *ABOUT, "baselines", "spread"})
    wrong += _wrong_groups(results.get("spread", {}), "spread.", set(GROUPS))
    baselines = results.get("baselines", {})
    wrong += [f"baselines.{n}: unknown; known: {', '.join(BASELINES)}" for n in baselines if n not in BASELINES]
    for name, groups in baselines.items():
        wrong += _wrong_groups(groups, f"baselines.{name}.", set(GROUPS))
    for key, kind in ABOUT.items():
        if key in results and not isinstance(results[key], kind):
            wrong.append(f"{key} is {results[key]!r}, expected {kind.__name__}")
    wrong += [f"{key} is missing" for key in ("scenes", "frames", "versions") if key not in results]
    if wrong:
        raise DataError(f"{source}: not a result file as docs/results-format.md describes: {'; '.join(wrong)}")


def spread(scenes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Standard deviation of every figure over the results of single scenes that have it; absent with fewer than two."""
    out: dict[str, dict[str, float]] = {}
    for group, keys in GROUPS.items():
        for key in keys:
            values = [scene[group][key] for scene in scenes if key in scene.get(group, {})]
            if len(values) > 1:
                out.setdefault(group, {})[key] = statistics.stdev(values)
    return out


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Validate and write as JSON; the file is replaced in one step."""
    validate_results(results, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    temporary.replace(path)


def read_results(path: Path) -> dict[str, Any]:
    """Read and validate a result file."""
    try:
        results = json.loads(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(results, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(results).__name__}")
    validate_results(results, str(path))
    return results


def rows(results: Mapping[str, Any], name: str = "letocc") -> dict[str, Mapping[str, Any]]:
    """The result itself under `name`, then its baselines: rows of a table."""
    return {name: results, **results.get("baselines", {})}


def tables(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, list[list[str]]]:
    """The cells of `TABLES` by heading: those of which a method has something, and in each the methods that have."""
    shown = {h: {n: m for n, m in methods.items() if m.keys() & set(groups)} for h, groups in TABLES.items()}
    return {heading: table(found, TABLES[heading]) for heading, found in shown.items() if found}


def markdown_table(methods: Mapping[str, Mapping[str, Any] | None], groups: Collection[str] = HEADLINES) -> str:
    """A Markdown table, one row a method; columns that no method has are left out. Spreads are given as `0.12 ± 0.03`.

    Args:
        methods: groups of the results format by the method's name, such as `rows(...)` gives, or several of them; None
            for one that was not run.
        groups: those to show.
    """
    return markdown(table(methods, groups))


def markdown(cells: list[list[str]]) -> str:
    """Cells, the first row being the heads of the columns, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    rule = _line(["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])], widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def table(methods: Mapping[str, Mapping[str, Any] | None], groups: Collection[str] = HEADLINES) -> list[list[str]]:
    """The cells of `markdown_table`: the heads of the columns, then a row a method."""
    wanted = [c for c in COLUMNS if c[1] in groups]
    columns = [c for c in wanted if any(c[2] in (m or {}).get(c[1], {}) for m in methods.values())] or [("", "", "", 0)]
    return [["", *(c[0] for c in columns)], *([name, *_cells(m, columns)] for name, m in methods.items())]


def _cells(method: Mapping[str, Any] | None, columns: Sequence[tuple[str, str, str, int]]) -> list[str]:
    if method is None:
        return [NOT_RUN, *[""] * (len(columns) - 1)]
    return [_cell(method, *column[1:]) for column in columns]


def _line(cells: list[str], widths: list[int]) -> str:
    """One row: the name to the left, numbers to the right."""
    padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
    return f"| {' | '.join(padded)} |"


def _cell(method: Mapping[str, Any], group: str, key: str, decimals: int) -> str:
    value = method.get(group, {}).get(key)
    if value is None:
        return ""
    deviation = method.get("spread", {}).get(group, {}).get(key)
    return f"{value:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def _wrong_groups(values: Mapping[str, Any], prefix: str, known: set[str]) -> list[str]:
    wrong = [f"{prefix}{key}: unknown key" for key in values if key not in known]
    for group, keys in GROUPS.items():
        for key, value in values.get(group, {}).items():
            name = f"{prefix}{group}.{key}"
            if key not in keys:
                wrong.append(f"{name}: unknown key; known: {', '.join(keys)}")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                wrong.append(f"{name} is {value!r}, expected a finite number")
            elif value < 0 or (group in SHARES and value > 1):
                wrong.append(f"{name} is {value}, out of range")
    return wrong
