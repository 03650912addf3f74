"""Where scenes go: files of Rerun and of Foxglove, a GIF, a window, a page in the browser; any number of them at once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from letocc_core.errors import ConfigError
from letocc_core.viz.viewers.scene import Scene

SUFFIXES = (".rrd", ".mcap", ".gif")


@runtime_checkable
class SceneLog(Protocol):
    """Takes scenes in the order of their stamps."""

    def add(self, scene: Scene) -> None:
        """Show or write one set."""


@dataclass(frozen=True)
class ViewOptions:
    """What a user asks to see. Raises `ConfigError` for a file that is none of these kinds."""

    save: tuple[Path, ...] = ()  # files to write: .rrd for Rerun, .mcap for Foxglove and Lichtblick, .gif
    window: bool = False  # open Rerun's window
    web: bool = False  # serve Rerun's page

    def __post_init__(self):
        for path in self.save:
            if path.suffix not in SUFFIXES:
                raise ConfigError(
                    f"{path}: expected a name that ends with .rrd (Rerun), .mcap (Foxglove, Lichtblick) or .gif"
                )


class Logs:
    """All of them together."""

    def __init__(self, logs: list[SceneLog]):
        self._logs = logs

    def add(self, scene: Scene) -> None:
        """Hand a scene to each."""
        for log in self._logs:
            log.add(scene)


@contextmanager
def open_logs(options: ViewOptions, base_frame: str = "base_link", fixed_frame: str = "odom") -> Iterator[Logs]:
    """The logs that the options ask for, until the `with` block ends; a page is served until the user interrupts.

    Raises what `RerunLog`, `RerunViewer` and `FoxgloveLog` raise.
    """
    with ExitStack() as stack:
        viewer = None
        logs: list[SceneLog] = []
        rerun_files = [path for path in options.save if path.suffix == ".rrd"]
        if options.window or options.web:
            from letocc_core.viz.viewers.rerun_viewer import RerunViewer

            viewer = stack.enter_context(RerunViewer(web=options.web))
            if viewer.address.page:
                print(f"open {viewer.address.page}", flush=True)
        if rerun_files or viewer:
            from letocc_core.viz.viewers.rerun_log import RerunLog

            connect = viewer.address.data if viewer else None
            logs.append(stack.enter_context(RerunLog(rerun_files, connect)))
        for path in options.save:
            if path.suffix == ".mcap":
                from letocc_core.viz.viewers.foxglove_log import FoxgloveLog

                logs.append(stack.enter_context(FoxgloveLog(path, base_frame, fixed_frame)))
            if path.suffix == ".gif":
                from letocc_core.viz.viewers.gif_log import GifLog

                logs.append(stack.enter_context(GifLog(path)))
        yield Logs(logs)
        for path in options.save:
            print(path)
        if viewer is not None and options.web:
            print("serving until Ctrl-C", flush=True)
            viewer.wait()
