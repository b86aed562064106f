"""Where the time of `make demo` goes, and whether it keeps its promises.

    .venv/bin/python benchmarks/demo.py            # the demo that is in reports/demo
    .venv/bin/python benchmarks/demo.py --run      # runs it first, into an empty folder
    .venv/bin/python benchmarks/demo.py --run --avx2 --busy 1

`--avx2` makes a newer CPU compute as two plain cores do, in float32; `--busy 1` keeps one other
process running beside the demo. Times are wall seconds, summed over the runs of a step; two steps
run side by side, so the sum is more than the demo takes. The columns: `start` until the first cell
of the notebook, `import` of its packages, `fit` of cells that train or encode, `figures` of cells
that draw or show tables, `data` of all other cells, `page` of the notebook as HTML.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "demo.yaml"

# Whoever adds to the demo pays for it here. Wall seconds on two cores with AVX2, of all runs of a
# step together; the demo as a whole may take TOTAL.
TOTAL = 300
BUDGET = {
    #          start import data fit figures page
    "encode": (8, 1, 16, 18, 4, 2),
    "distill": (8, 1, 6, 135, 8, 2),
    "tour": (2, 1, 2, 3, 16, 2),
    "train": (18, 2, 12, 170, 8, 16),
    "explain": (2, 1, 6, 0, 12, 2),
    "evaluate": (2, 1, 2, 0, 30, 2),
}
COLUMNS = ("start", "import", "data", "fit", "figures", "page")

FITS = re.compile(r"\b(fit|fit_\w+|encode_faces|run_ablation|train_toy_\w+|pretrain\w*)\(")
DRAWN = ("application/vnd.plotly.v1+json", "text/html", "image/png")


def cell_kind(cell: dict) -> str:
    """The column of a code cell."""
    source = "".join(cell["source"])
    if re.search(r"^(import|from) ", source, re.MULTILINE) and "use_theme()" in source:
        return "import"
    if FITS.search(source):
        return "fit"
    shown = {kind for output in cell["outputs"] for kind in output.get("data", {})}
    return "figures" if shown & set(DRAWN) else "data"


def time_run(notebook: Path) -> dict[str, float]:
    """Seconds of one run by column."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    seconds = dict.fromkeys(COLUMNS, 0.0)
    first = None
    for cell in content["cells"]:
        times = cell["metadata"].get("papermill", {})
        if cell["cell_type"] == "code" and times.get("duration"):
            first = first or times["start_time"]
            seconds[cell_kind(cell)] += times["duration"]
    own = content["metadata"].get("fervit", {})
    if first and own:
        started = datetime.fromisoformat(own["started"])
        seconds["start"] = (datetime.fromisoformat(first) - started).total_seconds()
        seconds["page"] = own["page_seconds"]
    return seconds


def budget_table(experiment: Path) -> pd.DataFrame:
    """One row per step of an experiment: runs, and by column and in all, seconds and budget."""
    rows = []
    for step, budget in BUDGET.items():
        runs = [time_run(file) for file in sorted(experiment.glob(f"{step}/*/notebook.ipynb"))]
        seconds = pd.DataFrame(runs, columns=list(COLUMNS)).sum()
        allowed = dict(zip(COLUMNS, budget, strict=True))
        shown = {name: f"{seconds[name]:.1f} of {allowed[name]}" for name in COLUMNS}
        shown["sum"] = f"{seconds.sum():.1f} of {sum(budget)}"
        rows.append({"step": step, "runs": len(runs), **shown})
    return pd.DataFrame(rows).set_index("step")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` other processes computing."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def run_demo(folder: Path, avx2: bool, busy: int) -> float:
    """Run the demo with data and reports in `folder`; returns its seconds."""
    config = yaml.safe_load(CONFIG.read_text())
    config |= {"data_dir": str(folder / "data"), "reports": str(folder / "reports")}
    (folder / "demo.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    plain = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2"} if avx2 else {}
    command = ["make", "--no-print-directory", "-C", str(ROOT), "run"]
    with busy_processes(busy):
        started = time.perf_counter()
        subprocess.run(
            [*command, f"CONFIG={folder / 'demo.yaml'}"], env=os.environ | plain, check=True
        )
        return time.perf_counter() - started


def describe_cpu(avx2: bool) -> str:
    """The CPU's name, how many cores this process may use, and the flags that decide its speed."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    name = re.search(r"model name\s*: (.*)", text)
    flags = set((re.search(r"flags\s*: (.*)", text) or [""])[0].split())
    known = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = ", limited to avx2" if avx2 else ""
    return f"{name[1] if name else 'unknown CPU'}, {cores} cores, {' '.join(known)}{limit}"


def promises(experiment: Path) -> pd.DataFrame:
    """The figures that may not fall while the demo gets faster, and the least of each."""

    def result(step: str, variant: str) -> dict[str, Any]:
        return json.loads((experiment / step / variant / "result.json").read_text())

    runs = {run["variant"]: run for run in result("evaluate", "all")["runs"]}
    arms = {arm["arm"]: arm["fg_iou"] for arm in result("distill", "all")["arms"]}
    ridge = result("train", "hybrid-full-seed0-pretrained=mae")["mae_share_of_ridge"]
    rows = [("test accuracy of LatentViT", runs["scratch-full-seed0"]["accuracy"], 0.85)]
    rows += [("masked pretraining: R² as a share of ridge's", ridge, 0.70)]
    rows += [(f"foreground IoU of the student {arm}", iou, 0.70) for arm, iou in arms.items()]
    return pd.DataFrame(rows, columns=["promise", "reached", "least"]).set_index("promise")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--busy", type=int, default=0, metavar="N")
    parser.add_argument("--experiment", type=Path, default=ROOT / "reports" / "demo")
    arguments = parser.parse_args()
    print(describe_cpu(arguments.avx2))
    with tempfile.TemporaryDirectory() as name:
        experiment = arguments.experiment
        if arguments.run:
            seconds = run_demo(Path(name), arguments.avx2, arguments.busy)
            experiment = Path(name, "reports", "demo")
            beside = f" beside {arguments.busy} other processes" if arguments.busy else ""
            print(f"the demo: {seconds:.0f} s{beside}; on two plain cores {TOTAL} s are allowed")
        print(budget_table(experiment).to_string())
        table = promises(experiment)
        print(table.round(3).to_string())
        if (table["reached"] < table["least"]).any():
            sys.exit("a promise is not kept")


if __name__ == "__main__":
    main()
