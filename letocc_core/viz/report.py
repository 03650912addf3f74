"""A page of tables, charts and pictures in one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from letocc_core.errors import MissingDependencyError
from letocc_core.viz.turntable import Turntable


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first one the heads of the columns."""

    heading: str
    rows: Sequence[Sequence[str]]
    text: str = ""


@dataclass(frozen=True, eq=False)
class ShownMoment:
    """Pictures of one moment, side by side, and below them its voxels, to be turned."""

    heading: str
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]  # RGB
    turntables: Sequence[Turntable] = ()

    @property
    def pictures(self) -> list[str]:
        """PNG files in base64."""
        encoded = (cv2.imencode(".png", image[..., ::-1])[1] for image in self.images)
        return [base64.b64encode(data.tobytes()).decode() for data in encoded]


@dataclass(frozen=True)
class Text:
    """Something long, folded."""

    heading: str
    body: str


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows, from top to bottom."""

    title: str
    subtitle: str
    tables: Sequence[Table]
    charts: Sequence[str]  # SVG
    shown_heading: str
    moments: Sequence[ShownMoment]
    texts: Sequence[Text]

    def write(self, path: Path) -> Path:
        """Write the HTML file."""
        try:
            from jinja2 import Environment
        except ImportError as error:
            raise MissingDependencyError(f"reports need Jinja2 ({error}): pip install jinja2") from error
        template = Path(__file__).with_name("report.html").read_text("utf-8-sig")
        columns = max((len(moment.images) for moment in self.moments), default=1)
        script = Path(__file__).with_name("turntable.js").read_text("utf-8")
        page = Environment(autoescape=True).from_string(template).render(**vars(self), columns=columns, script=script)
        path.write_text(page, "utf-8")
        return path
