"""One experiment: `snakemake --profile profiles/local --configfile configs/<experiment>.yaml` (`make` says it shorter).

A configuration names parameters of the notebooks, a block a step; a step may hold several blocks, and a list as a value
stands for one variant per entry; a step with `[]` is left out. Each variant is one papermill run into reports/<experiment>/<step>/<variant>/.
"""

import difflib
import json
import sys
from pathlib import Path

import papermill
from sklearn.model_selection import ParameterGrid

from fervit_lib.system.names import check_name

NOTEBOOKS = {
    "encode": "notebooks/01_encode.ipynb",
    "train": "notebooks/02_train.ipynb",
    "distill": "notebooks/03_distill.ipynb",
    "evaluate": "notebooks/04_evaluate.ipynb",
    "explain": "notebooks/05_attention_explorer.ipynb",
}
NAMED_BY = {
    "encode": ["encoder"],
    "train": ["approach", "strategy", "seed"],
    "distill": ["task"],
    "evaluate": [],
    "explain": [],
}
SET_HERE = {"experiment", "variant", "reports", "data_dir", "latents", "interactive"}
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool}


def near(name, known):
    return f"did you mean {match[0]!r}?" if (match := difflib.get_close_matches(name, known, 1)) else f"known are {', '.join(sorted(known))}"


def refuse(message):
    raise SystemExit(f"{', '.join(map(str, workflow.configfiles)) or 'configuration'}: {message}")  # no stack trace


def check_folder(where, name):
    """Refuse what is no plain name of a folder."""
    try:
        check_name(where, name)
    except ValueError as error:
        refuse(error)


def check_block(step, block, known):
    """Refuse a parameter that the step's notebook does not have, or a value of another type."""
    if not isinstance(block, dict):
        refuse(f"{step}: expected parameters of {NOTEBOOKS[step]} as `name: value`, got {block!r}")
    for name, value in block.items():
        if name not in known or name in SET_HERE:
            refuse(f"{step}: {NOTEBOOKS[step]} has no parameter {name!r} to set; {near(name, set(known) - SET_HERE)}")
        expected = known[name]["inferred_type_name"]
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, TYPES[expected]) or (isinstance(entry, bool) and expected != "bool"):
                refuse(f"{step}.{name}: expected {expected}, got {entry!r}")


def variants(step):
    """{variant name: parameters} of one step."""
    known = papermill.inspect_notebook(NOTEBOOKS[step])
    defaults = {name: eval(known[name]["default"]) for name in NAMED_BY[step]}  # literals of a notebook of ours
    named = {}
    if step == "distill" and step not in config:  # beside the path from faces to a comparison: only where asked for
        return named
    blocks = config.get(step, {})
    blocks = {} if blocks is None else blocks
    for block in blocks if isinstance(blocks, list) else [blocks]:
        check_block(step, block, known)
        varied = [name for name, value in block.items() if isinstance(value, list) and name not in NAMED_BY[step]]
        for parameters in ParameterGrid({name: value if isinstance(value, list) else [value] for name, value in block.items()}):
            heads = [(defaults | parameters)[name] for name in NAMED_BY[step]]
            words = [f"seed{word}" if key == "seed" else str(word) for key, word in zip(NAMED_BY[step], heads)]
            name = "-".join(words + [f"{key}={parameters[key]}" for key in varied]) or "all"
            check_folder(step, name)
            if name in named:
                refuse(f"{step}: two blocks make the variant {name!r}; let a list name what tells them apart")
            named[name] = parameters
    return named


if not config:
    raise SystemExit("no configuration: run `snakemake --configfile configs/demo.yaml --cores all`")
for key in config:
    if key not in (known := {*NOTEBOOKS, "experiment", "question", "reports", "data_dir"}):
        refuse(f"unknown key {key!r}; {near(key, known)}")
if not isinstance(config.get("experiment"), str):
    refuse("expected `experiment: <name>`, which names the folder under reports/")

check_folder("experiment", config["experiment"])

REPORTS = config.get("reports", "reports")
DATA = config.get("data_dir", "data")
EXPERIMENT = f"{REPORTS}/{config['experiment']}"
VARIANTS = {step: variants(step) for step in NOTEBOOKS}
if len(VARIANTS["encode"]) != 1:
    refuse(f"encode: expected one encoder, got {', '.join(VARIANTS['encode'])}; write a configuration for each")
[(ENCODE, ENCODE_PARAMETERS)] = VARIANTS["encode"].items()
LATENTS = f"{DATA}/latents/{ENCODE_PARAMETERS.get('dataset', 'toy')}/{ENCODE}"

# The trainings of one machine run side by side and share its cores; a lone one has up to eight, as any other step.
TRAIN_THREADS = max(1, min(8, (workflow.resource_settings.cores or 1) // max(1, len(VARIANTS["train"]))))

# A step takes the first GPUs that no other step of this user has on this machine: --resources gpu=2 fills two. The kernel
# lets go of the locks when their holder ends. A scheduler says which GPUs itself.
TAKE_GPUS = (
    'free=(); for gpu in $([ -n "${{CUDA_VISIBLE_DEVICES:-}}" ] || nvidia-smi --query-gpu=uuid --format=csv,noheader 2> /dev/null); '
    'do [ ${{#free[@]}} -lt {resources.gpu} ] || break; exec {{lock}}> "${{TMPDIR:-/tmp}}/fervit-$UID-$gpu.lock"; '
    "flock -n $lock && free+=($gpu) || exec {{lock}}>&-; done; "
    '[ ${{#free[@]}} = 0 ] || export CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${{free[*]}}"); '
)

# The executed notebook and its page are logs, which Snakemake keeps of a failed step, and not outputs, which it removes.
REPORT_RUN = '-m fervit_lib.report run {input.notebook} "$(dirname {log.notebook:q})" {params.json:q}'
RUN_NOTEBOOK = f"{TAKE_GPUS}{sys.executable} {REPORT_RUN}"
# With several GPUs, as --set-resources train:gpu=4 gives them, a step is one run of so many processes.
SHARE_NOTEBOOK = (
    f"{TAKE_GPUS}{sys.executable} $([ {{resources.gpu}} -lt 2 ] ||"
    f" echo -m torch.distributed.run --standalone --nproc-per-node {{resources.gpu}}) {REPORT_RUN}"
)


def parameters_of(step, variant, **more):
    own = {"experiment": config["experiment"], "variant": variant, "reports": REPORTS, **more}
    return json.dumps(own | VARIANTS[step][variant])


def results(step):
    return [f"{EXPERIMENT}/{step}/{variant}/result.json" for variant in VARIANTS[step]]


def distill_needs(parameters):
    """The codes whose faces are read, and the training run whose weights teach, where it is of this experiment."""
    teacher = Path(parameters.get("teacher", ""))
    taught_here = Path(EXPERIMENT, "train") in teacher.parents
    codes = [f"{LATENTS}/store.json"] if parameters.get("task") == "expression" else []
    return codes + ([str(teacher.parents[1] / "result.json")] if taught_here else [])


onstart:
    from fervit_lib import report

    report.forget_failures(Path(EXPERIMENT), [(step, variant) for step in NOTEBOOKS for variant in VARIANTS[step]])


# The last word on a failure is for a reader, and the Makefile shows it: Snakemake's own shows commands. What did run is
# in the report.
onerror:
    from fervit_lib import report

    runs = [(step, variant) for step in NOTEBOOKS for variant in VARIANTS[step]]
    told = report.describe_failures(Path(EXPERIMENT), runs)
    for file in map(Path, workflow.configfiles[:1]):
        Path(f".snakemake/{file.name}.failed").write_text(f"{told}\n" if told else "")
        if Path(EXPERIMENT).is_dir():
            report.write_index(Path(EXPERIMENT), file)


# What a step asks for. On one machine --cores is the limit (a step that wants more gets so many) and --resources gpu=2
# mem_mb=64000, where given; an executor hands the same numbers to its scheduler. --set-threads and --set-resources change
# them. A training that meets its time limit goes on after its last whole epoch when it is called again.
localrules: experiment, index


# Every result is asked for by name: Snakemake makes a missing file anew only if it is, or if what needs it is old.
rule experiment:
    input:
        f"{LATENTS}/store.json",
        [results(step) for step in NOTEBOOKS],
        f"{EXPERIMENT}/index.html",


rule index:
    message:
        f"report: {EXPERIMENT}/index.html"
    input:
        [results(step) for step in NOTEBOOKS],
        config=workflow.configfiles[:1],
    output:
        f"{EXPERIMENT}/index.html",
    params:
        folder=EXPERIMENT,
    shell:
        f"{sys.executable} -m fervit_lib.report index {{params.folder:q}} --config {{input.config:q}}"


rule encode:
    message:
        f"encode: faces into codes ({ENCODE})"
    input:
        notebook=NOTEBOOKS["encode"],
    output:
        f"{EXPERIMENT}/encode/{ENCODE}/result.json",
        f"{LATENTS}/store.json",
    params:
        json=parameters_of("encode", ENCODE, data_dir=DATA),
    log:
        notebook=f"{EXPERIMENT}/encode/{ENCODE}/notebook.ipynb",
        page=f"{EXPERIMENT}/encode/{ENCODE}/notebook.html",
        text=f"{EXPERIMENT}/encode/{ENCODE}/log.txt",
    threads: 8
    resources:
        gpu=1,
        mem_mb=16_000,
        runtime="8h",
    shell:
        SHARE_NOTEBOOK


rule train:
    message:
        "train: {wildcards.variant}"
    input:
        f"{LATENTS}/store.json",
        notebook=NOTEBOOKS["train"],
    output:
        f"{EXPERIMENT}/train/{{variant}}/result.json",
    params:
        json=lambda wildcards: parameters_of("train", wildcards.variant, latents=LATENTS),
    log:
        notebook=f"{EXPERIMENT}/train/{{variant}}/notebook.ipynb",
        page=f"{EXPERIMENT}/train/{{variant}}/notebook.html",
        text=f"{EXPERIMENT}/train/{{variant}}/log.txt",
    threads: TRAIN_THREADS
    resources:
        gpu=1,
        mem_mb=16_000,
        runtime="12h",
    shell:
        SHARE_NOTEBOOK


rule distill:
    message:
        "distill: {wildcards.variant}"
    input:
        lambda wildcards: distill_needs(VARIANTS["distill"][wildcards.variant]),
        notebook=NOTEBOOKS["distill"],
    output:
        f"{EXPERIMENT}/distill/{{variant}}/result.json",
    params:
        json=lambda wildcards: parameters_of("distill", wildcards.variant, latents=LATENTS, data_dir=DATA),
    log:
        notebook=f"{EXPERIMENT}/distill/{{variant}}/notebook.ipynb",
        page=f"{EXPERIMENT}/distill/{{variant}}/notebook.html",
        text=f"{EXPERIMENT}/distill/{{variant}}/log.txt",
    threads: 8
    resources:
        gpu=1,
        mem_mb=32_000,
        runtime="1d",
    shell:
        SHARE_NOTEBOOK


rule evaluate:
    message:
        "evaluate: every training run on the test split"
    input:
        results("train"),
        notebook=NOTEBOOKS["evaluate"],
    output:
        f"{EXPERIMENT}/evaluate/{{variant}}/result.json",
    params:
        json=lambda wildcards: parameters_of("evaluate", wildcards.variant),
    log:
        notebook=f"{EXPERIMENT}/evaluate/{{variant}}/notebook.ipynb",
        page=f"{EXPERIMENT}/evaluate/{{variant}}/notebook.html",
        text=f"{EXPERIMENT}/evaluate/{{variant}}/log.txt",
    threads: 8
    resources:
        gpu=1,
        mem_mb=16_000,
        runtime="4h",
    shell:
        RUN_NOTEBOOK


rule explain:
    message:
        "explain: what the models look at"
    input:
        results("train"),
        notebook=NOTEBOOKS["explain"],
    output:
        f"{EXPERIMENT}/explain/{{variant}}/result.json",
    params:
        json=lambda wildcards: parameters_of("explain", wildcards.variant, interactive=False),
    log:
        notebook=f"{EXPERIMENT}/explain/{{variant}}/notebook.ipynb",
        page=f"{EXPERIMENT}/explain/{{variant}}/notebook.html",
        text=f"{EXPERIMENT}/explain/{{variant}}/log.txt",
    threads: 8
    resources:
        gpu=1,
        mem_mb=16_000,
        runtime="4h",
    shell:
        RUN_NOTEBOOK
