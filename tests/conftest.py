"""Fixtures of several tests, the order of the lanes, and the rule about skipped tests."""

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.latents import complete_store, shard_path, write_shard

CLASSES = ("angry", "happy", "sad")


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Browsers and launchers leave temporary files behind: in pytest's folder, which is removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        yield


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Path]:
    """Write a store of separable codes (a direction per class); faces are named as in FER+."""

    def make(folder: Path, sizes: dict[str, int] | None = None, noise: float = 1.0) -> Path:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(len(CLASSES), 18, 512, generator=generator)
        sizes = sizes or {"train": 96, "val": 30, "test": 30}
        for split, n in sizes.items():
            labels = np.arange(n) % len(CLASSES)
            codes = directions[labels] + noise * torch.randn(n, 18, 512, generator=generator)
            write_shard(
                shard_path(folder, split, 0),
                codes,
                labels,
                [f"{split}/fer{i:07d}.png" for i in range(n)],
                "made",
            )
        complete_store(
            folder,
            sizes,
            classes=CLASSES,
            encoder="autoencoder",
            faces=Path("faces"),
            synthetic=True,
        )
        return folder

    return make


ALLOWED_SKIPS = [
    [field.strip() for field in line.split("|")]
    for line in Path(__file__).with_name("allowed_skips.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
LONG = ("notebooks", "launched", "browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none.

    Run the files with long tests first, so that no worker is left with one at the end.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))
    long_files = {
        item.path for item in items if any(item.get_closest_marker(name) for name in LONG)
    }
    items.sort(key=lambda item: item.path not in long_files)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """In CI a skipped test fails unless `allowed_skips.txt` names it with its reason."""
    outcome = yield
    report = outcome.get_result()
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("CI"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(fnmatch(item.nodeid, test) and part in reason for test, part, _ in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped in CI ({reason}), expected it to run; install what it "
            f"needs, or name it in tests/allowed_skips.txt with the reason"
        )
