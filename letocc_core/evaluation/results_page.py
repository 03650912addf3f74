"""docs/results.md from result files: which rows stand in which table is a YAML file, every figure comes from a JSON.

    letocc results docs/results.yaml

The YAML holds `title`, `text` and a list of `sections`, each with `heading`, `text`, and optionally `rows` (`label`,
`file`, and `baseline` for one of the file's baselines), `groups` of columns to show, and `goals`. A row or goal whose file
is not there is shown as not run. `budget: true` states above the table how long its rows were trained and on how much they
were scored, as the files have it. `orders` says which row a paper has `ahead` of which other, and `seeds` names two files
that differ by their seed alone: a table below the rows tells in which figures it is so here, beyond what a seed makes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from letocc_core import config as configuration
from letocc_core.errors import ConfigError, DataError
from letocc_core.metrics import results

# figures in which rows are put in order: 1 if more is better, -1 if less is
ORDERED = {"ray_iou.mean": 1, "depth.abs_rel": -1, "motion.mave": -1, "flow2d.epe_fg": -1}


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
    over: str = ""  # key of the figure by which it is divided
    over_file: str = ""  # file of that figure, if another


@dataclass(frozen=True)
class Order:
    """Two rows of a section, by their labels, one of which a paper has ahead of the other."""

    ahead: str
    of: str


@dataclass(frozen=True)
class Section:
    """A heading, what is to be said, and a table."""

    heading: str
    text: str = ""
    rows: tuple[Row, ...] = ()
    groups: tuple[str, ...] = results.HEADLINES
    budget: bool = False
    goals: tuple[Goal, ...] = ()
    orders: tuple[Order, ...] = ()
    seeds: tuple[str, ...] = ()  # two files beside the YAML, of the same row from two seeds


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    text: str
    sections: tuple[Section, ...]


def write_page(path: Path) -> Path:
    """Write the page of a YAML file beside it, with the suffix .md; returns its path."""
    target = path.with_suffix(".md")
    target.write_text(render_page(path), "utf-8")
    return target


def render_page(path: Path) -> str:
    """The page as Markdown. Raises `ConfigError` for a wrong key, `DataError` for a file or figure that is not there."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a YAML that says what the page shows")
    page = configuration.from_dict(Page, yaml.safe_load(path.read_text("utf-8-sig")), str(path))
    parts = [f"# {page.title}", page.text.strip()]
    for section in page.sections:
        parts += [f"## {section.heading}", section.text.strip()]
        rows = {row.label: _row(path.parent, row) for row in section.rows}
        if section.budget:
            parts.append(_budgets(path.parent, section.rows))
        if rows:
            parts.append(results.markdown_table(rows, section.groups))
        if section.orders:
            parts.append(_orders(path.parent, section, rows))
        if section.goals:
            parts.append(_goals(path.parent, section.goals))
    return "\n\n".join(part for part in parts if part) + "\n"


def _found(folder: Path, file: str) -> dict[str, Any] | None:
    """A result file's content, None where it is not there: that row was not run."""
    path = folder / file
    return results.read_results(path) if path.is_file() else None


def _row(folder: Path, row: Row) -> dict[str, Any] | None:
    found = _found(folder, row.file)
    if found is None or not row.baseline:
        return found
    if row.baseline not in found.get("baselines", {}):
        raise DataError(f"{folder / row.file}: has no baseline '{row.baseline}'; row '{row.label}' needs it")
    return found["baselines"][row.baseline]


def _budgets(folder: Path, rows: tuple[Row, ...]) -> str:
    """One sentence if the rows that ran had the same budget, else what each had."""
    budgets = {row.label: _budget(found) for row in rows if (found := _found(folder, row.file)) and not row.baseline}
    if not budgets:
        return "Budget: nothing was run."
    if len(set(budgets.values())) == 1:
        return f"Budget of every row that was run: {next(iter(budgets.values()))}."
    shared = {budget: [label for label, its in budgets.items() if its == budget] for budget in budgets.values()}
    return "Budgets differ. " + " ".join(f"{', '.join(labels)}: {budget}." for budget, labels in shared.items())


def _budget(found: dict[str, Any]) -> str:
    """How long a checkpoint was trained and on how much it was scored, from its result file."""
    steps = found.get("trained") or {s["name"]: s["steps"] for s in found["config"].get("stages", ())}
    trained = "trained for " + " + ".join(f"{count} steps ({stage})" for stage, count in steps.items())
    scored = f"scored on {found['frames']} image sets of {found['scenes']} sequence{'s' * (found['scenes'] != 1)}"
    return f"{trained}, {scored}"


def _orders(folder: Path, section: Section, rows: Mapping[str, dict[str, Any] | None]) -> str:
    """A table of how far the row that a paper has ahead is ahead here, in each of `ORDERED`; a minus: it is behind."""
    seeds = [_found(folder, file) for file in section.seeds]
    headings = {f"{group}.{key}": heading for heading, group, key, _ in results.COLUMNS}
    lines = [
        f"| ahead in the paper | of | {' | '.join(headings[key] for key in ORDERED)} |",
        "| --- | --- | " + " | ".join(["---:"] * len(ORDERED)) + " |",
    ]
    for order in section.orders:
        unknown = [label for label in (order.ahead, order.of) if label not in rows]
        if unknown:
            raise ConfigError(f"{section.heading}: orders name '{unknown[0]}'; rows: {', '.join(rows)}")
        cells = [_lead(rows[order.ahead], rows[order.of], seeds, key) for key in ORDERED]
        lines.append(f"| {order.ahead} | {order.of} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _lead(ahead: dict[str, Any] | None, of: dict[str, Any] | None, seeds: list[dict[str, Any] | None], key: str) -> str:
    """How far `ahead` is ahead of `of` in a figure, in brackets if two seeds differ by as much."""
    if ahead is None or of is None:
        return results.NOT_RUN
    lead = ORDERED[key] * (_figure(ahead, key, "ahead") - _figure(of, key, "of"))
    known = [_figure(found, key, "seeds") for found in seeds if found is not None]
    text = f"{lead:+.3f}"
    return f"({text})" if len(known) == 2 and abs(lead) <= abs(known[0] - known[1]) else text


def _goals(folder: Path, goals: tuple[Goal, ...]) -> str:
    lines = ["| goal | wanted | measured | |", "| --- | ---: | ---: | --- |"]
    for goal in goals:
        measured, verdict = _judge(folder, goal)
        lines.append(f"| {goal.text} | at {goal.is_at} {goal.wanted:g} | {measured} | {verdict} |")
    return "\n".join(lines)


def _judge(folder: Path, goal: Goal) -> tuple[str, str]:
    """The figure of a goal, and whether it is met."""
    over_file = goal.over_file or goal.file
    found, divisor = _found(folder, goal.file), _found(folder, over_file)
    if found is None or divisor is None:
        return results.NOT_RUN, ""
    value = _figure(found, goal.key, goal.file)
    if goal.over:
        value /= _figure(divisor, goal.over, over_file)
    met = value <= goal.wanted if goal.is_at == "most" else value >= goal.wanted
    return f"{value:.3g}", "met" if met else "missed"


def _figure(found: dict[str, Any], key: str, file: str) -> float:
    """The figure at a dotted key of a result file."""
    value: Any = found
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise DataError(f"{file}: has no figure '{key}'")
        value = value[part]
    return float(value)
