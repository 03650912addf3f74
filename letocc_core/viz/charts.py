"""Line charts as SVG text, to be put into a page as they are."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from letocc_core.errors import MissingDependencyError
from letocc_core.viz import colours

LINES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))  # Okabe-Ito
SIZE = (6.4, 2.1)  # inches


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    span: tuple[float, float],
    marks: Mapping[float, str] | None = None,
) -> str:
    """An SVG element.

    Args:
        lines: seconds and values by the line's name; NaN leaves a gap.
        title: what is shown, with its unit.
        span: first and last second.
        marks: words at moments (s), such as resets.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(f"charts need Matplotlib ({error}): pip install matplotlib") from error
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot()
        for (name, (seconds, values)), colour in zip(lines.items(), LINES * len(lines), strict=False):
            axes.plot(seconds, values, label=name, color=_rgb(colour), linewidth=1.4, marker=".", markersize=3)
        for moment, words in (marks or {}).items():
            axes.axvline(moment, color=_rgb(colours.FAINT), linewidth=0.8, linestyle=":")
            axes.annotate(words, (moment, 1), xycoords=("data", "axes fraction"), fontsize=7, va="top")
        axes.set_xlim(span[0] - 0.02 * (span[1] - span[0]), span[1] + 0.02 * (span[1] - span[0]) + 1e-3)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("s", loc="right")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _rgb(colour: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(c / 255 for c in colour)
