"""`make lab` listens on this machine alone, and answers nobody without its token."""

import os
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from ipaddress import ip_address

import psutil
import pytest

from fervit_lib.system.runtime import PROJECT_ROOT


class Lab:
    def __init__(self, process: subprocess.Popen, address: str, token: str) -> None:
        self.process, self.address, self.token = process, address, token

    def answer(self, path: str, token: str | None = None, method: str = "GET") -> int:
        """The status of a request that follows no redirection."""
        headers = {"Authorization": f"token {token}"} if token else {}
        data = b"{}" if method == "POST" else None
        request = urllib.request.Request(f"{self.address}{path}", data, headers, method=method)
        opener = urllib.request.build_opener(NoRedirection)
        try:
            return opener.open(request, timeout=120).status
        except urllib.error.HTTPError as error:
            return error.code

    def listening(self) -> set[str]:
        """The addresses on which the server, or anything that it started, waits for somebody."""
        family = [process := psutil.Process(self.process.pid), *process.children(recursive=True)]
        sockets = [socket for member in family for socket in member.net_connections("inet")]
        return {
            socket.laddr.ip
            for socket in sockets
            if socket.status == psutil.CONN_LISTEN or not socket.raddr
        }


class NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: object) -> None:
        return None


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """What `make lab` starts, with no browser and with no settings of who runs the tests."""
    folder = tmp_path_factory.mktemp("lab")
    told = subprocess.run(
        ["make", "--dry-run", "lab"], cwd=PROJECT_ROOT, capture_output=True, text=True
    ).stdout
    [command] = [line for line in told.splitlines() if "jupyter lab" in line]
    more = ["--no-browser"] + (["--allow-root"] if os.geteuid() == 0 else [])
    places = {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*shlex.split(command), *more],
            cwd=PROJECT_ROOT,
            env=os.environ | places,
            stdout=file,
            stderr=file,
        )
    try:
        end = time.monotonic() + 120
        while not (
            found := re.search(
                r"(http://(?:localhost|127\.0\.0\.1):\d+)/lab\?token=(\w+)", log.read_text()
            )
        ):
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.3)
        yield Lab(process, found[1], found[2])
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for child in children:
            if child.is_running():
                child.kill()


def test_nobody_is_answered_without_the_token(lab: Lab) -> None:
    assert len(lab.token) >= 32
    for path in (
        "/api/contents",
        "/api/kernels",
        "/api/sessions",
        "/api/terminals",
        "/files/02_train.ipynb",
    ):
        assert lab.answer(path) in (302, 403), path
        assert lab.answer(path, token="0" * len(lab.token)) in (302, 403), path
    assert lab.answer("/lab") == 302  # to the form that asks for it
    assert lab.answer("/api/kernels", method="POST") == 403
    assert lab.answer("/api/contents", lab.token) == 200


def test_nothing_listens_but_on_this_machine(lab: Lab) -> None:
    assert lab.answer("/api/kernels", lab.token, "POST") == 201  # which opens five more sockets
    end = time.monotonic() + 60
    while len(psutil.Process(lab.process.pid).children()) < 1 and time.monotonic() < end:
        time.sleep(0.2)
    assert lab.listening()
    assert all(ip_address(address).is_loopback for address in lab.listening())
