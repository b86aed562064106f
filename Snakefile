"""One experiment, by `make run CONFIG=configs/<experiment>.yaml`, or without make:
`snakemake --profile profiles/local --configfile configs/<experiment>.yaml`.

A configuration sets parameters of the notebooks, one block per step; see `fervit_lib/pipeline.py`.
Each variant of a step is one papermill run into reports/<experiment>/<step>/<variant>/.
"""

import json
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path

from snakemake.logging import logger

from fervit_lib import pipeline
from fervit_lib.pipeline import NOTEBOOKS
from fervit_lib.report import terminal, warm
from fervit_lib.report.failures import describe_failures
from fervit_lib.system.atomic import write_json
from fervit_lib.system.yaml_files import read_yaml

if not config:
    raise SystemExit("no configuration: run `snakemake --configfile configs/demo.yaml --cores all`")
try:
    for file in map(Path, workflow.configfiles):  # Snakemake's reader lets duplicate keys pass
        read_yaml(file)
    VARIANTS = pipeline.read_config(config)
except ValueError as error:  # one line, without a stack trace
    files = ", ".join(map(str, workflow.configfiles)) or "configuration"
    raise SystemExit(str(error) if files in str(error) else f"{files}: {error}")

REPORTS = config.get("reports", "reports")
DATA = config.get("data_dir", "data")
EXPERIMENT = f"{REPORTS}/{config['experiment']}"
# The stores of codes, by variant of encode. With several data sets the name of a variant begins with
# its data set, the name of its store does not: `encode/<dataset>-<store>`, `latents/<dataset>/<store>`.
STORES = {v: pipeline.store_folder(DATA, v, p) for v, p in VARIANTS["encode"].items()}
# `raf-db` before `raf`, whose names match the beginning of those of `raf-db`.
DATASETS = sorted(set(map(pipeline.dataset_of, VARIANTS["encode"].values())), reverse=True)
[ENCODED, STORE] = (
    ["{variant}", f"{DATASETS[0]}/{{variant}}"]
    if len(DATASETS) == 1
    else ["{dataset}-{store}", "{dataset}/{store}"]
)
FIRST = next(iter(STORES.values()))

# Trainings run side by side and share the cores of a machine; a single one gets up to eight, as
# any other step. Those with a teacher wait for it, and do not run beside it. Encoding and
# distillation need nothing of each other: each gets half of the cores.
TEACHERS = pipeline.find_sources(VARIANTS["train"], Path(EXPERIMENT, "train"), "teacher")
ENCODERS = pipeline.find_sources(VARIANTS["encode"], Path(EXPERIMENT, "encode"), "checkpoint")
CORES = workflow.resource_settings.cores or 1
taught = sum(map(bool, TEACHERS.values()))
TRAIN_THREADS = max(1, min(8, CORES // max(1, taught, len(TEACHERS) - taught)))
ENCODE_THREADS = max(1, min(8, CORES // 2 if VARIANTS["distill"] else CORES))

# Each step reserves its GPUs in Python: `--resources gpu=2` runs two steps at once, on a GPU
# each. With several GPUs, as `--set-resources train:gpu=4` gives them, a step with --launch is
# one run of as many processes. The executed notebook and its page are logs, because Snakemake
# keeps the logs of a failed step and removes its outputs. Only the lines of `StepLines` are for
# stdout.
PYTHON = shlex.quote(sys.executable)
RUN = (
    f"{PYTHON} -m fervit_lib.report run --gpus {{resources.gpu}} {{params.launch}}"
    ' {input.notebook:q} "$(dirname {log.notebook:q})" {params.json:q} >&2'
)


def folder(step, variant="{variant}"):
    return f"{EXPERIMENT}/{step}/{variant}"


def results(step):
    return [f"{folder(step, variant)}/result.json" for variant in VARIANTS[step]]


def logs(step, variant="{variant}"):
    files = {"notebook": "notebook.ipynb", "page": "notebook.html", "text": "log.txt"}
    return {name: f"{folder(step, variant)}/{file}" for name, file in files.items()}


def parameters(step, **paths):
    """The parameters of a run, as JSON, from its wildcards."""

    def as_json(wildcards):
        variant = "-".join(wildcards)
        names = {"experiment": config["experiment"], "variant": variant, "reports": REPORTS}
        return json.dumps(names | paths | VARIANTS[step][variant])

    return as_json


def encoder_results(wildcards):
    return [f"{folder('encode', v)}/result.json" for v in ENCODERS["-".join(wildcards)]]


def codes(wildcards):
    return f"{VARIANTS['train'][wildcards.variant]['latents']}/store.json"


def teacher_results(wildcards):
    return [f"{folder('train', teacher)}/result.json" for teacher in TEACHERS[wildcards.variant]]


# Files for the Makefile, which shows what a call ended with: Snakemake's messages are in a log.
CALL = pipeline.call_files(config)
TIMES = Path(f"{CALL}.times.json")


onstart:
    global STEP_LINES
    jobs = workflow.dag.needrun_jobs()
    seconds = {}
    with suppress(OSError, ValueError):  # none yet, or damaged: then the time left is not shown
        seconds = json.loads(TIMES.read_text())
    STEP_LINES = terminal.StepLines([terminal.step_name(j.log) for j in jobs if j.log], seconds)
    logger.addHandler(STEP_LINES)
    if workflow.local_exec:
        warm.start_server()


onsuccess:
    write_json(TIMES, STEP_LINES.seconds)
    shown = [Path(path) for step in ("evaluate", "distill") for path in results(step)]
    lines = [*terminal.headlines(shown), f"Report: {EXPERIMENT}/index.html", ""]
    Path(f"{CALL}.done").write_text("\n".join(lines))


# The report holds the steps that did run.
onerror:
    from fervit_lib.report.index import write_index

    text = describe_failures(Path(EXPERIMENT), STEP_LINES.failed, STEP_LINES.waiting)
    Path(f"{CALL}.failed").write_text(text and f"{text}\n")
    if Path(EXPERIMENT).is_dir():
        write_index(Path(EXPERIMENT), *map(Path, workflow.configfiles[:1]))


localrules:
    experiment,
    index,


# Every result is requested by name, because Snakemake only remakes a missing file if it is
# requested or out of date.
rule experiment:
    input:
        [f"{store}/store.json" for store in STORES.values()],
        [results(step) for step in NOTEBOOKS],
        f"{EXPERIMENT}/index.html",


rule index:
    input:
        [results(step) for step in NOTEBOOKS],
        config=workflow.configfiles[:1],
    output:
        f"{EXPERIMENT}/index.html",
    params:
        folder=EXPERIMENT,
    shell:
        f"{PYTHON} -m fervit_lib.report index {{params.folder:q}}"
        " --config {input.config:q}"


# The requests of a step. On one machine --cores is the limit (a step that requests more gets as
# many) and --resources gpu=2 mem_mb=64000, if given; an executor passes the same numbers to its
# scheduler. --set-threads and --set-resources change them. A training that reaches its time limit
# resumes after its last complete epoch when it is run again.
rule encode:
    input:
        encoder_results,
        notebook=NOTEBOOKS["encode"],
    output:
        f"{folder('encode', ENCODED)}/result.json",
        f"{DATA}/latents/{STORE}/store.json",
    params:
        launch="--launch",
        json=parameters("encode", data_dir=DATA),
    log:
        **logs("encode", ENCODED),
    wildcard_constraints:
        dataset="|".join(map(re.escape, DATASETS)),
    threads: ENCODE_THREADS
    resources:
        gpu=1,
        mem_mb=16_000,
        runtime="8h",
    shell:
        RUN


# A small model on a CPU, whatever the machine has.
use rule encode as tour with:
    input:
        f"{FIRST}/store.json",
        notebook=NOTEBOOKS["tour"],
    output:
        f"{folder('tour')}/result.json",
    params:
        launch="",
        json=parameters("tour", latents=FIRST, device="cpu"),
    log:
        **logs("tour"),
    threads: 1
    resources:
        gpu=0,
        mem_mb=4_000,
        runtime="30m",


use rule encode as train with:
    input:
        codes,
        teacher_results,
        notebook=NOTEBOOKS["train"],
    output:
        f"{folder('train')}/result.json",
    params:
        launch="--launch",
        json=parameters("train"),
    log:
        **logs("train"),
    threads: TRAIN_THREADS
    resources:
        gpu=1,
        mem_mb=16_000,
        runtime="12h",


use rule encode as distill with:
    input:
        notebook=NOTEBOOKS["distill"],
    output:
        f"{folder('distill')}/result.json",
    params:
        launch="--launch",
        json=parameters("distill", data_dir=DATA),
    log:
        **logs("distill"),
    resources:
        gpu=1,
        mem_mb=32_000,
        runtime="1d",


use rule encode as evaluate with:
    input:
        results("train"),
        results("encode") if len(STORES) > 1 else [],
        notebook=NOTEBOOKS["evaluate"],
    output:
        f"{folder('evaluate')}/result.json",
    params:
        launch="",
        json=parameters("evaluate"),
    log:
        **logs("evaluate"),
    threads: 8
    resources:
        gpu=1,
        mem_mb=16_000,
        runtime="4h",


use rule evaluate as explain with:
    input:
        results("train"),
        notebook=NOTEBOOKS["explain"],
    output:
        f"{folder('explain')}/result.json",
    params:
        launch="",
        json=parameters("explain", interactive=False),
    log:
        **logs("explain"),
