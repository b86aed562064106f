"""One experiment, by `make run CONFIG=configs/<experiment>.yaml`, or without make:
`snakemake --profile profiles/local --configfile configs/<experiment>.yaml`.

A configuration sets parameters of the notebooks, one block per step; see `fervit_lib/pipeline.py`.
Each variant of a step is one papermill run into reports/<experiment>/<step>/<variant>/.
"""

import json
import shlex
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from snakemake.logging import logger

from fervit_lib import latents, pipeline
from fervit_lib.datasets import digest_source, manifest_path
from fervit_lib.pipeline import NOTEBOOKS
from fervit_lib.report import terminal, warm
from fervit_lib.report.failures import describe_failures
from fervit_lib.system.atomic import read_json, write_json
from fervit_lib.system.identity import digest
from fervit_lib.system.names import split_names
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
FIRST = next(iter(VARIANTS["encode"]), "")
TRAINED = ", ".join(VARIANTS["train"])

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


def codes_file(variant="{variant}"):
    """Says where the codes of a variant of encode are, and what they are: equal for equal codes."""
    return f"{folder('encode', variant)}/{latents.RESULT}"


def remove_lost_codes():
    """Codes are made again if their store is gone."""
    for variant in VARIANTS["encode"]:
        try:
            latents.find_store(Path(folder("encode", variant)))
        except (OSError, ValueError):
            Path(codes_file(variant)).unlink(missing_ok=True)


@cache
def source_digest(path, manifest):
    """A short file with the digest of a file or folder, which Snakemake compares by content.

    It is written when Snakemake starts, not by the jobs of a cluster.
    """
    file = Path(".snakemake", "sources", f"{digest(str(path))}.json")
    if workflow.is_main_process:
        write_json(file, {"source": str(path), "digest": digest_source(path, manifest)})
    return str(file)


def sources(step):
    """By variant of a step, the digests of the files and folders that it reads and no step writes."""
    keys = ("faces", "people", "checkpoint", "teacher", "detector", "pretrained", "baselines")
    keys += ("student_weights",)
    known = pipeline.read_parameters(Path(NOTEBOOKS[step]))
    defaults = {name: parameter.default for name, parameter in known.items()}
    written = Path(EXPERIMENT).resolve()
    digests = {}
    for variant, values in VARIANTS[step].items():
        values = defaults | values
        names = [name for key in keys for name in split_names(values.get(key, ""))]
        if step == "encode" and not values["checkpoint"]:
            names.append(f"pretrained_models/{values['encoder']}_ffhq_encode.pt")
        paths = [Path(name).expanduser() for name in names]
        # Of a run, its weights: a new page of a teacher changes nothing.
        weights = [path / "checkpoints" / "best.safetensors" for path in paths]
        paths = [w if w.is_file() else p for p, w in zip(paths, weights, strict=True)]
        paths = [p for p in paths if p.exists() and not p.resolve().is_relative_to(written)]
        manifest = manifest_path(Path(DATA, "latents", values.get("dataset", "toy"), "codes"))
        digests[variant] = [source_digest(path, manifest) for path in paths]
    return digests


def results(step):
    return [f"{folder(step, variant)}/result.json" for variant in VARIANTS[step]]


def logs(step, variant="{variant}"):
    files = {"notebook": "notebook.ipynb", "page": "notebook.html", "text": "log.txt"}
    return {name: f"{folder(step, variant)}/{file}" for name, file in files.items()}


def parameters(step, **paths):
    """The parameters of a run, as JSON, from its wildcards."""

    def as_json(wildcards):
        names = {"experiment": config["experiment"], "reports": REPORTS, "overwrite": True}
        names["variant"] = wildcards.variant
        return json.dumps(names | paths | VARIANTS[step][wildcards.variant])

    return as_json


def encoder_results(wildcards):
    return [codes_file(variant) for variant in ENCODERS[wildcards.variant]]


def codes(wildcards):
    values = VARIANTS["train"][wildcards.variant]
    encoded = Path(values["latents"]).name
    # Votes are read from beside the faces; the codes do not depend on them.
    votes = SOURCES["encode"][encoded] if values.get("labels") == "soft" else []
    return [codes_file(encoded), *votes]


def teacher_results(wildcards):
    return [f"{folder('train', teacher)}/result.json" for teacher in TEACHERS[wildcards.variant]]


SOURCES = {step: sources(step) for step in ("encode", "train", "distill", "evaluate")}
if workflow.is_main_process:
    remove_lost_codes()


def source_digests(step):
    return lambda wildcards: SOURCES[step][wildcards.variant]


# Files for the Makefile, which shows what a call ended with: Snakemake's messages are in a log.
CALL = pipeline.call_files(config)
TIMES = Path(f"{CALL}.times.json")


onstart:
    global STEP_LINES
    jobs = workflow.dag.needrun_jobs()
    seconds = {}
    with suppress(OSError, ValueError):  # none yet, or damaged: then the time left is not shown
        seconds = read_json(TIMES)
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
        [codes_file(variant) for variant in VARIANTS["encode"]],
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
        source_digests("encode"),
        notebook=NOTEBOOKS["encode"],
    output:
        f"{folder('encode')}/result.json",
        codes_file(),
    params:
        launch="--launch",
        json=parameters("encode", data_dir=DATA),
    log:
        **logs("encode"),
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
        codes_file(FIRST),
        notebook=NOTEBOOKS["tour"],
    output:
        f"{folder('tour')}/result.json",
    params:
        launch="",
        json=parameters("tour", latents=folder("encode", FIRST), device="cpu"),
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
        source_digests("train"),
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
        source_digests("distill"),
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
        [codes_file(variant) for variant in VARIANTS["encode"]],
        source_digests("evaluate"),
        notebook=NOTEBOOKS["evaluate"],
    output:
        f"{folder('evaluate')}/result.json",
    params:
        launch="",
        json=parameters("evaluate", trained=TRAINED),
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
        json=parameters("explain", interactive=False, trained=TRAINED),
    log:
        **logs("explain"),
