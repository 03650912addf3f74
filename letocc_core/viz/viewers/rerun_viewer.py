"""Rerun's own viewer as a process: a window, or a page served on this machine that a browser opens.

Rerun's page would ask the network for a font, for the newest version and for its counter of use. Here it is handed on with
a content security policy that lets a browser ask this machine alone.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

from letocc_core.errors import DataError, LetOccError
from letocc_core.viz.viewers.rerun_sdk import rerun_sdk

PATIENCE = 20.0  # s that a viewer may take to listen
WEB_PORT, DATA_PORT = 9090, 9876  # Rerun's own; others where these are taken


@dataclass(frozen=True)
class Address:
    """Where a viewer listens."""

    data: str  # URL that a `RerunLog` connects to
    page: str | None = None  # URL for a browser


class RerunViewer:
    """A viewer that runs; a context manager that ends it, unless it is a window.

    Args:
        files: recordings to open.
        web: serve a page instead of opening a window.
        bind: address of the network interface that the page is served on.

    Raises `MissingDependencyError` without rerun-sdk, `DataError` for a file that is not there, `LetOccError` where there
    is no display for a window, or the viewer ends at once.
    """

    def __init__(self, files: Sequence[Path] = (), web: bool = False, bind: str = "127.0.0.1"):
        rerun_sdk()
        for path in files:
            if not path.is_file():
                raise DataError(f"{path}: no such file; expected a recording of Rerun (.rrd)")
        if not web and sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
            raise LetOccError("no display for the viewer's window: --web serves it to a browser, --save writes a file")
        data, page, behind = (_free_port(port, bind) for port in (DATA_PORT, WEB_PORT, 0))
        command = [sys.executable, "-m", "rerun_cli", *map(str, files), "--port", str(data), "--hide-welcome-screen"]
        if web:
            command += ["--serve-web", "--web-viewer-port", str(behind), "--bind", bind]
        self._web = web
        # a group of its own: Rerun's command starts the viewer proper, which would outlive it
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=web
        )
        url = f"rerun+http://{bind}:{data}/proxy"
        served = f"http://{bind}:{page}/?url={quote(url, safe='')}&hide_welcome_screen=1"
        self.address = Address(url, served if web else None)
        self._page: ThreadingHTTPServer | None = None
        try:
            for port in (data, behind) if web else (data,):
                self._wait_for(bind, port)
            if web:
                self._page = _serve(bind, page, behind, data)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RerunViewer":
        return self

    def __exit__(self, *error: object) -> None:
        if self._web:
            self.close()

    def wait(self) -> None:
        """Until the viewer ends, or the user interrupts."""
        with suppress(KeyboardInterrupt):
            self._process.wait()

    def close(self) -> None:
        """End the viewer."""
        if self._page is not None:
            self._page.shutdown()
            self._page.server_close()
        if self._web:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
        else:
            self._process.terminate()
        self._process.wait()

    def _wait_for(self, bind: str, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                said = self._process.stderr.read().strip().splitlines() if self._process.stderr else []
                raise LetOccError(f"the viewer ended at once: {said[-1] if said else 'without a word'}")
            with suppress(OSError), socket.create_connection((bind, port), timeout=1):
                return
            time.sleep(0.05)
        raise LetOccError(f"the viewer does not listen on port {port} after {PATIENCE:g} s")


def show_recording(path: Path, web: bool = False) -> None:
    """Open a recording for Rerun in its viewer. Raises as `RerunViewer` does."""
    with RerunViewer([path], web) as viewer:
        if viewer.address.page:
            print(f"open {viewer.address.page}\nserving until Ctrl-C", flush=True)
            viewer.wait()


def _serve(bind: str, port: int, behind: int, data: int) -> ThreadingHTTPServer:
    """Hands on what the viewer serves on the port `behind`, with a policy that allows nothing but this machine."""
    policy = (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'; "
        f"connect-src 'self' data: blob: http://{bind}:{data}"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            upstream = HTTPConnection(bind, behind)
            upstream.request("GET", self.path, headers={"Host": f"{bind}:{behind}"})
            answer = upstream.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() in ("content-type", "content-encoding", "cache-control"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:
            """Nothing: requests are no news."""

    server = ThreadingHTTPServer((bind, port), Handler)
    Thread(target=server.serve_forever, name="page", daemon=True).start()
    return server


def _free_port(preferred: int, bind: str) -> int:
    """The port, or another one where it is taken."""
    for port in (preferred, 0):
        with suppress(OSError), socket.socket() as probe:
            probe.bind((bind, port))
            return probe.getsockname()[1]
    raise LetOccError(f"no free port on {bind}")
