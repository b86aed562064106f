"""A real browser for tests: headless Chromium, controlled by its DevTools protocol."""

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

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--window-size=1300,1000",
)


class Page:
    """One tab."""

    def __init__(self, url: str) -> None:
        self.socket = websocket.create_connection(url, timeout=60)
        self.numbers = itertools.count(1)
        self.requested: list[str] = []  # URLs
        self.errors: list[str] = []  # red lines of the console
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        # A headless page has no focus otherwise.
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def send(self, method: str, **parameters: Any) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            self._record(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _record(self, message: dict) -> None:
        event = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(event["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(event["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if event["type"] in ("error", "assert"):
                self.errors.append(str(event["args"]))
            case "Log.entryAdded" if event["entry"]["level"] == "error":
                self.errors.append(str(event["entry"]))

    def show_as(self, width: int, height: int, *, phone: bool = False) -> None:
        """Emulate a light screen, or a dark phone, of so many pixels."""
        scale = 2 if phone else 1
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if phone else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def save_screenshot(self, path: Path, full_page: bool = False) -> None:
        """Write a PNG; for looking at figures during development."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full_page)
        path.write_bytes(base64.b64decode(shot["data"]))

    def go_offline(self) -> None:
        speed = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.send("Network.emulateNetworkConditions", offline=True, **speed)

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Poll until the expression is true, and return its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.05)
        raise AssertionError(f"not true within {seconds} s: {expression}")

    def click(self, element: str, across: float = 0.5) -> None:
        """Click the element of a JavaScript expression, at a share of its width."""
        scroll = "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
        place = f"[r.x + {across} * r.width, r.y + r.height / 2]"
        x, y = self.evaluate(f"(() => {{ const e = {element}; {scroll} return {place} }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key; it goes to the element with the focus."""
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, **event)


PLOTS = "[...document.querySelectorAll('.js-plotly-plot .main-svg')]"
DRAWN = (
    "[...document.querySelectorAll('.figure')].every(figure => "
    "figure.querySelector('.main-svg')?.getBoundingClientRect().height > 50)"
)
WIDEST = f"Math.max(0, ...{PLOTS}.map(svg => svg.clientWidth))"


def check_page(page: Page, file: Path) -> None:
    """Check a page of a report on a laptop, a dark phone, and paper, without a network."""
    page.go_offline()
    url = json.dumps(file.as_uri())
    for width, height, phone in ((1366, 768, False), (390, 844, True)):
        page.errors.clear()
        page.requested.clear()
        page.show_as(width, height, phone=phone)
        page.open(file.as_uri())
        page.wait_for(f"location.href === {url} && document.readyState === 'complete'")
        assert page.evaluate("window.figuresDrawn ? window.figuresDrawn.then(() => true) : true")
        assert page.evaluate(DRAWN), f"{file}: a figure is not drawn"
        scroll_width = page.evaluate("document.documentElement.scrollWidth")
        assert scroll_width <= width, f"{file}: wider than {width} pixels"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(WIDEST) <= 700, f"{file}: a figure is wider than paper"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not page.evaluate("document.body.innerText.includes('undefined')")
        assert not page.errors, f"{file}: {page.errors}"
        remote = [url for url in page.requested if not url.startswith(("file:", "data:", "blob:"))]
        assert not remote, f"{file}: requests {remote}"
    buttons = "[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)"
    uploads = [title for title in page.evaluate(buttons) if "Share" in title or "Studio" in title]
    assert not uploads, f"{file}: a button uploads the data"


@contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """A tab of a new Chromium, which keeps its files in `folder`."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
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
