"""A real browser for tests: headless Chromium, spoken to by its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60)
        self.numbers = itertools.count(1)
        self.requested: list[str] = []
        self.errors: list[str] = []  # what the console of a reader would show in red
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setFocusEmulationEnabled", enabled=True
        )  # without a window nothing else has the focus

    def send(self, method: str, **parameters: Any) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message: dict) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "assert"):
                self.errors.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.errors.append(str(told["entry"]))

    def show_as(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Be a screen of so many pixels, of a reader who likes it light or dark."""
        scale = 2 if phone else 1
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def save_picture(self, path: Path, whole: bool = False) -> None:
        """What the screen shows, or the whole page, as PNG."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def save_pdf(self, path: Path) -> None:
        """The page as it is printed on A4."""
        printed = self.send(
            "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False
        )
        path.write_bytes(base64.b64decode(printed["data"]))

    def go_offline(self) -> None:
        self.send(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=0,
            uploadThroughput=0,
        )

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Ask until the expression is true, and give its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.2)
        raise AssertionError(f"not true within {seconds} s: {expression}")

    def click(self, element: str, across: float = 0.5) -> None:
        """Press the mouse on what a JavaScript expression finds, at a share of its width."""
        scroll = "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
        place = f"[r.x + {across} * r.width, r.y + r.height / 2]"
        x, y = self.evaluate(f"(() => {{ const e = {element}; {scroll} return {place} }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key, for whatever has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )


FIGURES = "[...document.querySelectorAll('.figure')]"
DRAWN = f"{FIGURES}.every(f => f.querySelector('.js-plotly-plot .main-svg')?.getBoundingClientRect().height > 50)"
WIDEST = "Math.max(0, ...[...document.querySelectorAll('.js-plotly-plot .main-svg')].map(s => s.clientWidth))"


def check_report(page: Page, file: Path) -> None:
    """A page of a report as readers meet it: on a laptop, on a phone in the dark, and on paper, without a network."""
    page.go_offline()
    for width, height, phone in ((1366, 768, False), (390, 844, True)):
        page.errors.clear()
        page.requested.clear()
        page.show_as(width, height, dark=phone, phone=phone)
        page.open(file.as_uri())
        page.wait_for(
            f"location.href === {json.dumps(file.as_uri())} && document.readyState === 'complete'"
        )
        assert page.evaluate("window.figuresDrawn ? window.figuresDrawn.then(() => true) : true")
        assert page.evaluate(DRAWN), f"{file}: a figure is not drawn"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{file}: wider than {width} pixels"
        )
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(WIDEST) <= 700, f"{file}: a figure is wider than paper"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not page.evaluate("document.body.innerText.includes('undefined')")
        assert not page.errors, f"{file}: {page.errors}"
        local = ("file:", "data:", "blob:")
        assert all(address.startswith(local) for address in page.requested), (
            f"{file}: {page.requested}"
        )
    buttons = page.evaluate(
        "[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"
    )
    assert not any("Share" in title or "Studio" in title for title in buttons), (
        f"{file}: sends data away"
    )


@contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own, whose files go to `folder`."""
    command = [
        CHROMIUM,
        *FLAGS,
        "--window-size=1300,1000",
        f"--user-data-dir={folder}",
        "about:blank",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, end = folder / "DevToolsActivePort", time.monotonic() + 60
        while not port_file.is_file() or "\n" not in port_file.read_text():
            assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tabs = json.load(answer)
        page = Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        yield page
        page.socket.close()
    finally:
        process.terminate()
        process.wait(20)
