"""What a replay found, as a page: tables, figures over time, the worst sets in pictures, and what made them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from letocc_core.evaluation.moment import moment_of
from letocc_core.metrics import results
from letocc_core.versions import versions
from letocc_core.viz.charts import line_chart
from letocc_core.viz.overview import overview
from letocc_core.viz.report import Report, ShownMoment, Table, Text
from letocc_core.viz.turntable import turntable

if TYPE_CHECKING:
    from letocc_core.evaluation.candidate import Candidate, Gallery, Instant
    from letocc_core.evaluation.samples import Sample
    from letocc_core.stream.types import OccFlow

MOST_COLUMNS = 8  # of a table
CHARTS = (  # group, key, title
    ("ray_iou_objects", "mean", "RayIoU of objects"),
    ("ray_iou", "mean", "RayIoU"),
    ("iou", "mean", "IoU of the voxels that a sensor reaches"),
    ("precision", "mean", "precision of the same"),
    ("recall", "mean", "recall of the same"),
    ("depth", "abs_rel", "depth, abs rel"),
    ("novel_view", "l1", "L1 of the images that the set before foretells"),
    ("motion", "mave", "mAVE (m/s)"),
    ("motion", "direction_error_deg", "direction error (deg)"),
    ("motion", "false_motion", "false motion"),
    ("flow2d", "epe_fg", "EPE of the foreground (px)"),
    ("sweep_motion", "explained", "changed LiDAR returns explained by the velocities"),
    ("sweep_motion", "spoilt", "unchanged LiDAR returns spoilt by the velocities"),
)


def figures_of(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Of the figures of a set those that are shown over time, by their titles."""
    return {title: figures[group][key] for group, key, title in CHARTS if key in figures.get(group, {})}


def report(
    bag: Path,
    candidates: "Sequence[Candidate]",
    summaries: Sequence[Mapping[str, Any]],
    gallery: "Gallery",
    cameras: Sequence[str],
    command: str,
) -> Report:
    """The page of a replay; candidates with their summaries, in the same order."""
    start = candidates[0].instants[0].stamp_ns
    moments = [
        _moment(position, sample, answers, candidates, cameras, start)
        for _, position, sample, answers in gallery.worst_first()
    ]
    scored = any(s["scored"] for s in summaries)
    return Report(
        title=f"Replay of {bag.name}",
        subtitle=", ".join(f"{c.name}: {c.checkpoint}" for c in candidates),
        tables=[*_scores(candidates, summaries), _course(candidates, summaries)],
        charts=_charts(candidates, start),
        shown_heading="Worst sets" if scored else "Some sets",
        moments=moments,
        texts=_texts(candidates, command),
    )


def _scores(candidates: "Sequence[Candidate]", summaries: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Figures of all sets together, of the candidates and the baselines."""
    found = {c.name: c.tally.results() for c in candidates}
    baselines = results.rows(next(iter(found.values())))
    rows = found | {name: values for name, values in list(baselines.items())[1:]}
    if not any(s["scored"] for s in summaries):
        return []
    text = f"{summaries[0]['scored']} of {summaries[0]['sets']} sets have a truth to compare with."
    shown = results.tables(rows).items()
    return [Table(heading, _upright(cells), "" if i else text) for i, (heading, cells) in enumerate(shown)]


def _upright(cells: list[list[str]]) -> list[list[str]]:
    """A table that is too wide for a page, with a row for each of its columns."""
    return [list(row) for row in zip(*cells, strict=True)] if len(cells[0]) > MOST_COLUMNS else cells


def _course(candidates: "Sequence[Candidate]", summaries: Sequence[Mapping[str, Any]]) -> Table:
    """What happened on the way, and how fast."""
    rows = [["", *(c.name for c in candidates)]]

    def add(name: str, values: Sequence[Any]) -> None:
        rows.append([name, *map(str, values)])

    add("sets answered", [s["sets"] for s in summaries])
    add("occupied above the probability", [f"{c.pipeline.threshold:g}" for c in candidates])
    for name, key in (
        ("occupied voxels that cameras see, median", "seen"),
        ("others that are guessed, median", "guessed"),
    ):
        add(name, [round(float(np.median([getattr(i, key) for i in c.instants]))) for c in candidates])
    for kind in ("dropped", "resets"):
        add(kind, ["; ".join(f"{count} x {reason}" for reason, count in s[kind].items()) or "none" for s in summaries])
    for stage in summaries[0]["median_ms"]:
        add(f"{stage}, median (ms)", [s["median_ms"][stage] for s in summaries])
    add("times as fast as recorded", [f"{s['recorded_s'] / max(s['inference_s'], 1e-9):.2f}" for s in summaries])
    return Table("Course", rows)


def _charts(candidates: "Sequence[Candidate]", start: int) -> list[str]:
    """Figures over time, of all candidates in one chart each; resets of the past are marked."""
    marks = {
        (i.stamp_ns - start) * 1e-9: i.reset_reason.split(":")[0]
        for i in candidates[0].instants
        if i.reset_reason is not None
    }

    end = (candidates[0].instants[-1].stamp_ns - start) * 1e-9

    def chart(title: str, value: "Callable[[Instant], float]") -> str:
        lines = {
            c.name: ([(i.stamp_ns - start) * 1e-9 for i in c.instants], [value(i) for i in c.instants])
            for c in candidates
        }
        return line_chart(lines, title, (0.0, end), marks)

    def figure(group: str, key: str) -> "Callable[[Instant], float]":
        return lambda i: i.figures.get(group, {}).get(key, float("nan"))

    def known(value: "Callable[[Instant], float]") -> bool:
        """Of more than one set, so that there is a course."""
        return any(sum(np.isfinite(value(i)) for i in c.instants) > 1 for c in candidates)

    shown = [(title, value) for group, key, title in CHARTS if known(value := figure(group, key))]
    out = [chart(title, value) for title, value in shown]
    return [*out, chart("time of a set (ms)", lambda i: 1e3 * sum(i.seconds.values()))]


def _moment(
    position: int,
    sample: "Sample",
    answers: "Sequence[OccFlow]",
    candidates: "Sequence[Candidate]",
    cameras: Sequence[str],
    start: int,
) -> ShownMoment:
    """One set: the page of `viz.overview` by every candidate, and what it scored."""
    seconds = (sample.frame_set.stamp_ns - start) * 1e-9
    pages, turntables = [], []
    for candidate, answer in zip(candidates, answers, strict=True):
        figures = candidate.instants[position].figures
        words = [f"{title} {value:.3g}" for title, value in figures_of(figures).items()]
        moment = moment_of(sample, answer, cameras)
        pages.append(overview(moment, candidate.name, ", ".join(words[:4])))
        turntables.append(turntable(answer, moment.true_occupied))
    return ShownMoment(f"Set {position}, {seconds:.2f} s after the first", pages, turntables)


def _texts(candidates: "Sequence[Candidate]", command: str) -> list[Text]:
    def plain(values: Any) -> str:
        return yaml.safe_dump(values, sort_keys=False)

    made = [("Command and versions", {"command": command, "versions": versions()})]
    for candidate in candidates:
        about = {k: v for k, v in candidate.metadata.items() if k != "config"}
        made += [
            (f"{candidate.name}: how it was trained", about),
            (f"{candidate.name}: configuration", candidate.metadata["config"]),
        ]
    return [Text(heading, plain(values)) for heading, values in made]
