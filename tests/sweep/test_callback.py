"""What a training kernel imports for its trial callback: nothing of what only a sweep needs."""

import json
import subprocess
import sys

from fervit_lib.system.runtime import PROJECT_ROOT

UNUSED = {  # not IPython: a kernel has it
    "jsonschema",
    "nbclient",
    "nbformat",
    "optuna",
    "papermill",
    "segmentation_models_pytorch",
    "sklearn",
    "snakemake",
    "wandb",
}
# The imports of 02_train, after the packages that it cannot do without. Not its other lines: as
# soon as a figure is to be shown, plotly itself imports IPython and nbformat (and so jsonschema).
SCRIPT = """
import ast, json, sys
import fastai.basics, pandas, plotly.io, timm, torch
before = list(sys.modules)
for cell in json.load(open("notebooks/02_train.ipynb"))["cells"]:
    if cell["cell_type"] == "code":
        tree = ast.parse("".join(cell["source"]))
        tree.body = [line for line in tree.body if isinstance(line, (ast.Import, ast.ImportFrom))]
        exec(compile(tree, "02_train", "exec"))
callbacks = trial_callbacks()
print(json.dumps({"before": before, "after": list(sys.modules), "callbacks": callbacks}))
"""


def test_a_training_outside_of_a_sweep_imports_none_of_its_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = json.loads(done.stdout)
    assert modules["callbacks"] == []
    # timm and fastai import these two themselves.
    assert UNUSED & set(modules["before"]) <= {"sklearn", "wandb"}
    assert UNUSED & set(modules["after"]) == UNUSED & set(modules["before"])
