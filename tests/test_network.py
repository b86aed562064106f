"""Nothing leaves this machine unless asked for: a recorder sees native code and child processes."""

import ipaddress
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jupyterlab_server.config import get_page_config
from tiny import SMALL, write_config

from fervit_lib.figures.theme import CONFIG
from fervit_lib.system.runtime import PROJECT_ROOT

Record = Callable[..., set[str]]

# In the order of preference: the first sees every call of the kernel, the second those of libc.
TRACE = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
WAYS = ("strace", "shim")


def is_outside(address: str) -> bool:
    """Whether an address or a name is not this machine's own."""
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address != "localhost"
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return not (parsed.is_loopback or parsed.is_unspecified)


def recorder(way: str, folder: Path) -> tuple[list[str], dict[str, str], Path]:
    """The beginning of a recorded command, its variables, and the file with what it did."""
    log = folder / way
    if way == "strace":
        return [*TRACE, "-o", str(log)], {}, log
    library = folder / "network.so"
    source = Path(__file__).with_name("network.c")
    command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    log.touch()
    return [], {"LD_PRELOAD": str(library), "NETWORK_RECORD": str(log)}, log


def run_recorded(way: str, folder: Path, *command: str, **variables: str) -> set[str]:
    """Run a command as on a user's machine, not as in CI; the addresses outside that it sent to."""
    folder.mkdir(exist_ok=True)
    prefix, environment, log = recorder(way, folder)
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    environment |= {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(PROJECT_ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [*prefix, *command],
        cwd=PROJECT_ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    lines = log.read_text(errors="replace").splitlines()
    if way == "strace":
        sent = [re.search(r'sa_family=AF_INET6?\b[^}]*?"([^"]+)"', line) for line in lines]
        lines = [match[1] for match in sent if match]
    return set(filter(is_outside, lines))


@pytest.fixture(scope="session")
def ways(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The ways to record that work here: one at least."""
    folder = tmp_path_factory.mktemp("ways")
    working = []
    for way in WAYS:
        try:
            run_recorded(way, folder, "true")
        except (OSError, AssertionError, subprocess.CalledProcessError):
            continue
        working.append(way)
    assert working, "expected strace or gcc, by which network use can be recorded; install one"
    return working


@pytest.fixture
def record(ways: list[str], tmp_path: Path) -> Record:
    return lambda *command, **variables: run_recorded(
        ways[0], tmp_path / "recorded", *command, **variables
    )


SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    try:
        udp.sendto(b"x", (sys.argv[1], 9))
    except OSError:
        pass
"""
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]], check=True)"


@pytest.mark.parametrize("way", WAYS)
def test_the_recorder_sees_children_and_lets_loopback_pass(
    ways: list[str], tmp_path: Path, way: str
) -> None:
    if way not in ways:
        return  # `ways` has failed if none works
    child = [sys.executable, "-c", CHILD, SEND]
    assert run_recorded(way, tmp_path, *child, "192.0.2.1") == {"192.0.2.1"}
    (tmp_path / way).unlink()
    assert not run_recorded(way, tmp_path, *child, "127.0.0.1")


# ONNX Runtime waits some seconds before it looks its maker's server up.
USE = """
import sys, time
import onnxruntime
import onnx
from onnx import TensorProto, helper

start = time.monotonic()
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())
"""
LIBRARY = f"""
import fervit_lib
{USE}
from pathlib import Path
import torch
from fervit_lib import figures, models, training
from fervit_lib.distillation import *
from fervit_lib.encoders import *
from fervit_lib.evaluation import *
from fervit_lib.explain import *
import plotly.graph_objects as go

figures.use_theme()
figure = go.Figure(go.Scatter(y=[1, 2]))
figure.show()
figure.write_html(Path(sys.argv[1], "figure.html"))
models.create_model("scratch", num_classes=7)
models.create_model("hybrid", num_classes=7, model_name="test_vit", pretrained="none")
models.create_model("image", num_classes=7, model_name="resnet10t", pretrained="none")
import fervit_lib.sweep.work, fervit_lib.report.index, wandb, snakemake, optuna, tensorboard
time.sleep(max(0, 15 - (time.monotonic() - start)))
"""


@pytest.mark.slow
def test_the_librarys_functions_send_nothing(record: Record, tmp_path: Path) -> None:
    assert record(sys.executable, "-c", LIBRARY, str(tmp_path)) == set()
    assert not list(tmp_path.glob("recorded/home/**/Microsoft"))


@pytest.mark.slow
def test_without_the_switch_the_telemetry_is_recorded(record: Record, tmp_path: Path) -> None:
    wait = f"{USE}\ntime.sleep(15)"
    found = record(sys.executable, "-c", wait, ORT_DISABLE_TELEMETRY="0")
    assert found, "the recorder saw no lookup, so that the other tests show nothing"
    assert list(tmp_path.glob("recorded/home/**/Microsoft"))


@pytest.mark.slow
@pytest.mark.notebooks
def test_a_pipeline_and_a_sweep_send_nothing(record: Record, tmp_path: Path) -> None:
    config = write_config(tmp_path, train=SMALL | {"wandb": "offline"}, explain=[])
    call = ["-m", "snakemake", "--profile", "profiles/local", "--cores", "2", "--nolock"]
    call += ["--configfile", str(config)]
    assert record(sys.executable, *call) == set()
    assert (tmp_path / "reports" / "tiny" / "evaluate" / "all" / "result.json").is_file()
    store = next((tmp_path / "data" / "latents").glob("*/*/store.json")).parent
    fixed = {name: {"value": value} for name, value in SMALL.items()}
    sweep = {
        "name": "tiny-sweep",
        "method": "grid",
        "parameters": {"lr": {"values": [0.001, 0.002]}, "latents": {"value": str(store)}} | fixed,
        "run_cap": 1,
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    call = ["-m", "fervit_lib.sweep", str(tmp_path / "sweep.yaml"), "--worker"]
    assert record(sys.executable, *call, "--reports", str(tmp_path / "reports")) == set()
    assert list((tmp_path / "reports" / "tiny-sweep" / "train").glob("*/result.json"))


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_switch_is_set_unless_the_user_has_set_it(given: str | None, expected: str) -> None:
    variables = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    if given:
        variables["ORT_DISABLE_TELEMETRY"] = given
    code = "import os, fervit_lib; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == expected


def test_figures_have_no_button_that_uploads_them() -> None:
    assert CONFIG["showSendToCloud"] is False
    buttons = [button for group in CONFIG["modeBarButtons"] for button in group]
    assert buttons and not any("cloud" in button.lower() for button in buttons)


def test_make_lab_asks_for_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "jupyter"
    program.write_text('#!/bin/sh\nprintf %s "$JUPYTER_CONFIG_PATH"')
    program.chmod(0o755)
    # `-o`: whatever its date, nothing is installed.
    command = ["make", "--silent", "-o", ".venv/installed", "lab", f"BIN={tmp_path}"]
    path = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True).stdout
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", path)
    disabled = get_page_config([])["disabledExtensions"]
    assert "@jupyterlab/apputils-extension:announcements" in disabled
