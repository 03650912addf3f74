"""What the papers print: tables read from `published.yaml`, and our figures written beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from letocc_core import config as configuration
from letocc_core.errors import ConfigError
from letocc_core.evaluation.tables.protocol import Protocol

FILE = Path(__file__).with_name("published.yaml")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Column:
    """A figure of a table."""

    heading: str
    figure: str  # group.key of what `Measurement` finds, for example depth.abs_rel
    scale: float = 1.0  # 100 where the paper prints per cent
    decimals: int = 3


@dataclass(frozen=True)
class Row:
    """A method's figures as printed; None where the paper has none."""

    method: str
    values: tuple[float | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a paper, or a protocol that we add to them."""

    title: str
    source: str  # paper and table
    dataset: str
    split: str
    about: str  # the protocol in words
    protocol: Protocol
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    labels: Literal["", "openocc", "occ3d"] = ""  # which of the data set's label files
    frames: int | None = None  # frames of the split, where known

    def __post_init__(self):
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ConfigError(
                    f"{self.title}: '{row.method}' has {len(row.values)} figures, not {len(self.columns)}"
                )

    def with_overrides(self, overrides: list[str]) -> "Table":
        """The same table with changes to its protocol such as `protocol.threshold=0.1`."""
        data = configuration.to_dict(self)
        for item in overrides:
            configuration.override(data, item)
        return configuration.from_dict(Table, data, self.title)


@dataclass(frozen=True)
class Ours:
    """What we measured for a table."""

    name: str  # of the row
    data: str  # what it was measured on, in words
    frames: int
    figures: Mapping[str, Mapping[str, float]]  # by group and key
    missing: Mapping[str, str]  # group -> why it has no figures
    unlike: tuple[str, ...] = ()  # why it cannot be compared with what is printed


def load_tables(path: Path = FILE) -> dict[str, Table]:
    """All tables by name."""
    return {
        name: configuration.from_dict(Table, data, f"{path.name}: {name}")
        for name, data in yaml.safe_load(path.read_text("utf-8-sig")).items()
    }


def find_table(name: str) -> Table:
    """One table; raises `ConfigError` that lists the names."""
    tables = load_tables()
    if name not in tables:
        raise ConfigError(f"no table '{name}'; tables: {', '.join(tables)}")
    return tables[name]


def report(table: Table, ours: Ours | None) -> str:
    """The table in Markdown: what is printed where, under which protocol, and our row; what was not run says so."""
    head = ["method", *(c.heading for c in table.columns)]
    body = [[row.method + (" †" if row.note else ""), *_printed(table, row)] for row in table.rows]
    body.append(_our_row(table, ours))
    lines = [
        f"**{table.title}**",
        "",
        f"Source: {table.source}.",
        f"Data: {table.dataset}, {table.split}.",
        table.about,
    ]
    lines += ["", *_markdown(head, body), ""]
    lines += [f"† {row.method}: {row.note}." for row in table.rows if row.note]
    return "\n".join([*lines, *_remarks(table, ours)]).rstrip() + "\n"


def _printed(table: Table, row: Row) -> list[str]:
    return ["-" if v is None else f"{v:.{c.decimals}f}" for v, c in zip(row.values, table.columns, strict=True)]


def _our_row(table: Table, ours: Ours | None) -> list[str]:
    if ours is None:
        return ["**ours**", *[NOT_RUN] * len(table.columns)]
    cells = []
    for column in table.columns:
        value = _figure(ours.figures, column.figure)
        cells.append(NOT_RUN if value is None else f"{value * column.scale:.{column.decimals}f}")
    return [f"**{ours.name}**", *cells]


def _remarks(table: Table, ours: Ours | None) -> list[str]:
    if ours is None:
        return [f"Ours: {NOT_RUN}."]
    lines = [f"Ours: {ours.data}, {ours.frames} frames."]
    if ours.unlike:
        lines.append(f"Not comparable with the rows above: {'; '.join(ours.unlike)}.")
    groups = {c.figure.split(".")[0] for c in table.columns}
    return [*lines, *(f"{group}: {NOT_RUN}: {why}." for group, why in ours.missing.items() if group in groups)]


def _figure(figures: Mapping[str, Any], key: str) -> float | None:
    group, name = key.split(".")
    return figures.get(group, {}).get(name)


def _markdown(head: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]) + " |"
    return [line(head), rule, *map(line, body)]
