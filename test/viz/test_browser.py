"""Pages in a real browser, headless and without a network: the report's voxels turn, Rerun's page shows the recording."""

from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import Page, require_chromium, until_picture

from letocc_core.geometry.grid import GridSpec
from letocc_core.stream.types import Calibration, FrameSet, OccFlow
from letocc_core.viz import colours
from letocc_core.viz.report import Report, ShownMoment, Table
from letocc_core.viz.turntable import turntable
from letocc_core.viz.viewers.logs import ViewOptions, open_logs
from letocc_core.viz.viewers.scene import Scene

pytestmark = pytest.mark.xdist_group("browser")
GRID = GridSpec((-4.0, -4.0, -1.0), (4.0, 4.0, 2.0), 0.5)
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])
CALIBRATION = Calibration(64, 36, np.array([[32.0, 0, 31.5], [0, 32, 17.5], [0, 0, 1]]))
PAINTS = ((200, 20, 20), (20, 160, 20), (20, 20, 200))  # of the images of successive sets
SECOND = 10**9


def answer_at(number: int = 0) -> OccFlow:
    """A floor, and a tower at the left front."""
    probability = np.zeros(GRID.shape, np.float32)
    probability[:, :, 0] = 0.9
    probability[12:14, 12:14] = 0.9
    still = np.zeros((*GRID.shape, 2), np.float32)
    stamp_ns = 1_700_000_000 * SECOND + number * SECOND // 5
    return OccFlow(stamp_ns, GRID, probability, still, np.ones(GRID.shape, bool), 0.5, seconds={"encode": 0.02})


def share(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> float:
    """Share of the pixels that are about of a colour."""
    return float((np.abs(picture.astype(int) - colour).max(-1) < tolerance).mean())


def test_the_voxels_of_the_report_turn_and_can_be_switched(tmp_path: Path):
    require_chromium()
    truth = np.zeros(GRID.shape, bool)
    truth[:, :, -1] = True
    moment = ShownMoment("Set 0", [], [turntable(answer_at(), truth)])
    report = Report("Title", "", [Table("T", [["", "a"], ["b", "1"]])], [], "Worst sets", [moment], [])
    path = report.write(tmp_path / "report.html")
    with Page(path.as_uri(), tmp_path, 640, 700) as page:
        first = until_picture(
            page, lambda p: share(p, colours.SKY, 3) > 0.1 and share(p, colours.EGO) > 0.001, "a view"
        )
        ground = tuple(int(0.9 * c) for c in colours.GROUND)
        assert share(first, ground, 30) > 0.05
        x, y = page.evaluate(
            "(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('canvas').getBoundingClientRect())"
        )
        page.drag((x, y), (x + 120, y - 30))
        until_picture(page, lambda p: (np.abs(p.astype(int) - first).max(-1) > 40).mean() > 0.02, "another side")
        covered = share(page.picture(), ground, 30)
        page.evaluate("document.querySelectorAll('input')[2].click()")
        until_picture(page, lambda p: share(p, ground, 30) < covered / 2, "the true roof over the floor")
        said = page.evaluate("document.body.innerText")
        assert "occupied (" in said and "truth (256)" in said
        assert not page.errors
        assert {urlsplit(url).scheme for url in page.requests} <= {"file", "data"}


def write_recording(path: Path) -> Path:
    with open_logs(ViewOptions((path,))) as logs:
        for number, paint in enumerate(PAINTS):
            answer = answer_at(number)
            image = np.full((36, 64, 3), paint, np.uint8)
            frames = FrameSet(answer.stamp_ns, (image,), (CALIBRATION,), FORWARD[None], np.eye(4))
            logs.add(Scene(answer, np.eye(4), frames, ("camera_front",)))
    return path


def test_the_page_of_the_viewer_shows_the_recording_and_its_time_moves(tmp_path: Path):
    require_chromium()
    pytest.importorskip("rerun")
    from letocc_core.viz.viewers.rerun_viewer import RerunViewer

    recording = write_recording(tmp_path / "run.rrd")
    with RerunViewer([recording], web=True) as viewer, Page(viewer.address.page, tmp_path, 900, 600) as page:
        picture = until_picture(page, lambda p: share(p, colours.EGO) > 1e-4, "the vehicle among its voxels")
        assert share(picture, tuple(int(0.9 * c) for c in colours.GROUND), 30) > 0.001
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
        panel = picture[-30:].astype(int)  # the timeline, with the time in figures

        def moved(now: np.ndarray) -> bool:
            return bool((np.abs(now[-30:] - panel).max(-1) > 60).sum() > 20)

        until_picture(page, moved, "another time, since it plays")
        assert not page.errors
        assert page.answered == {"127.0.0.1"}
        asked = {urlsplit(url).hostname for url in page.requests if url.startswith("http")}
        assert asked - {"127.0.0.1"} <= page.blocked, "something but this machine was asked"
