"""A page in headless Chromium, driven over its DevTools protocol: what is on the screen, and what it asked the network for."""

import base64
import io
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

PATIENCE = 120.0  # s; pictures are drawn without a graphics card
PACE = 15.0  # s that a picture may take: on slower machines a page cannot be watched
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)


def require_chromium() -> str:
    """Its executable; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    pytest.importorskip("websocket", reason="no websocket-client to drive a browser with")
    return found


class Page:
    """One page; a context manager.

    Attributes:
        events: what the browser told, such as requests and errors of the console.
        seconds: how long the last picture took.
    """

    def __init__(self, url: str, folder: Path, width: int = 1000, height: int = 640):
        import websocket

        self._log = (folder / "chromium.log").open("w")
        command = [
            require_chromium(),
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},{height}",
        ]
        self._process = subprocess.Popen([*command, "about:blank"], stdout=self._log, stderr=self._log)
        try:
            port = self._port(folder / "profile" / "DevToolsActivePort")
            tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
            [tab] = [tab for tab in tabs if tab["type"] == "page"]
            self._socket = websocket.create_connection(
                tab["webSocketDebuggerUrl"], suppress_origin=True, timeout=PATIENCE
            )
            self._numbers = itertools.count(1)
            self.events: list[dict[str, Any]] = []
            self.seconds = 0.0
            for domain in ("Page", "Network", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.call("Emulation.setDeviceMetricsOverride", **size)
            self.call("Page.navigate", url=url)
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                self.events.append(json.loads(self._socket.recv()))
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _port(self, file: Path) -> str:
        deadline = time.monotonic() + PATIENCE
        while not (file.exists() and file.read_text().strip()):
            assert self._process.poll() is None and time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.05)
        return file.read_text().split()[0]

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the protocol; returns its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            if "method" in message:
                self.events.append(message)

    def picture(self) -> np.ndarray:
        """uint8 RGB [h, w, 3]: the screen as it is."""
        begin = time.monotonic()
        data = self.call("Page.captureScreenshot", format="png")["data"]
        self.seconds = time.monotonic() - begin
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def key(self, key: str) -> None:
        """Press and release a key, such as `ArrowRight`."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Move the mouse from a place to another with its left button held."""

        def mouse(kind: str, place: tuple[float, float]) -> None:
            button = {"button": "left", "buttons": 1, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], **button)

        mouse("mousePressed", start)
        mouse("mouseMoved", end)
        mouse("mouseReleased", end)

    @property
    def requests(self) -> list[str]:
        """URLs that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    @property
    def answered(self) -> set[str]:
        """Hosts that answered, but for what the page has in itself."""
        urls = (e["params"]["response"]["url"] for e in self.events if e["method"] == "Network.responseReceived")
        return {urlsplit(url).hostname or "" for url in urls if url.startswith("http")}

    @property
    def blocked(self) -> set[str]:
        """Hosts that the page's own policy kept it from asking."""
        failed = {
            e["params"]["requestId"]
            for e in self.events
            if e["method"] == "Network.loadingFailed" and e["params"].get("blockedReason") == "csp"
        }
        asked = (e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent")
        return {urlsplit(p["request"]["url"]).hostname or "" for p in asked if p["requestId"] in failed}

    @property
    def errors(self) -> list[str]:
        """Exceptions that nobody caught."""
        return [str(e["params"])[:500] for e in self.events if e["method"] == "Runtime.exceptionThrown"]


KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Space": 32, "Home": 36, "End": 35}


def until_picture(page: Page, wanted, what: str, seconds: float = PATIENCE) -> np.ndarray:
    """The first picture of which `wanted` is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not wanted(picture := page.picture()):
        if (took := page.seconds) > PACE:
            pytest.skip(f"without a graphics card this machine takes {took:.0f} s to draw a page, more than {PACE:g} s")
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return picture
