"""docs/results.md from result files: which rows stand in which table is a YAML file, every figure comes from a JSON.

    letocc results docs/results.yaml

The YAML holds `title`, `text` and a list of `sections`, each with `heading`, `text`, and optionally `rows` (`label`,
`file`, and `baseline` for one of the file's baselines), `groups` of columns to show, and `goals`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from letocc_core import config as configuration
from letocc_core.errors import DataError
from letocc_core.metrics import results


@dataclass(frozen=True)
class Row:
    """A row of a table: a result file, or one of its baselines."""

    label: str
    file: str  # beside the YAML
    baseline: str = ""


@dataclass(frozen=True)
class Goal:
    """A figure that was wanted."""

    text: str
    file: str
    key: str  # such as depth.abs_rel, or baselines.flat_road.depth.abs_rel
    wanted: float
    is_at: Literal["most", "least"]
    over: str = ""  # key of the same file by which the figure is divided


@dataclass(frozen=True)
class Section:
    """A heading, what is to be said, and a table."""

    heading: str
    text: str = ""
    rows: tuple[Row, ...] = ()
    groups: tuple[str, ...] = tuple(results.GROUPS)
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    text: str
    sections: tuple[Section, ...]


def write_page(path: Path) -> Path:
    """Write the page of a YAML file beside it, with the suffix .md; returns its path."""
    target = path.with_suffix(".md")
    target.write_text(render_page(path))
    return target


def render_page(path: Path) -> str:
    """The page as Markdown. Raises `ConfigError` for a wrong key, `DataError` for a file or figure that is not there."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a YAML that says what the page shows")
    page = configuration.from_dict(Page, yaml.safe_load(path.read_text()), str(path))
    parts = [f"# {page.title}", page.text.strip()]
    for section in page.sections:
        parts += [f"## {section.heading}", section.text.strip()]
        if section.rows:
            rows = {row.label: _row(path.parent, row) for row in section.rows}
            parts.append(results.markdown_table(rows, section.groups))
        if section.goals:
            parts.append(_goals(path.parent, section.goals))
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(folder: Path, row: Row) -> dict[str, Any]:
    found = results.read_results(folder / row.file)
    if not row.baseline:
        return found
    if row.baseline not in found.get("baselines", {}):
        raise DataError(f"{folder / row.file}: has no baseline '{row.baseline}'; row '{row.label}' wants it")
    return found["baselines"][row.baseline]


def _goals(folder: Path, goals: tuple[Goal, ...]) -> str:
    lines = ["| goal | wanted | measured | |", "| --- | ---: | ---: | --- |"]
    for goal in goals:
        found = results.read_results(folder / goal.file)
        value = _figure(found, goal.key, goal.file)
        if goal.over:
            value /= _figure(found, goal.over, goal.file)
        met = value <= goal.wanted if goal.is_at == "most" else value >= goal.wanted
        lines.append(f"| {goal.text} | at {goal.is_at} {goal.wanted:g} | {value:.3g} | {'met' if met else 'missed'} |")
    return "\n".join(lines)


def _figure(found: dict[str, Any], key: str, file: str) -> float:
    """The figure at a dotted key of a result file."""
    value: Any = found
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise DataError(f"{file}: has no figure '{key}'")
        value = value[part]
    return float(value)
