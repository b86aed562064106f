"""What importing a part of the library imports."""

import subprocess
import sys

CODE = """
import sys

import fervit_lib.evaluation
import fervit_lib.explain

unwanted = {"fastai", "fervit_lib.training", "papermill", "segmentation_models_pytorch", "sklearn"}
print(*unwanted & set(sys.modules))
"""
COMMAND = "import sys, fervit_lib.report.__main__; print(*sys.modules)"


def test_a_command_for_a_warm_process_imports_nothing_slow() -> None:
    code = "import sys, fervit_lib.report.__main__, fervit_lib.report.failures; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "pandas", "papermill", "plotly"} & set(result.stdout.split())


def test_predicting_and_explaining_need_no_training_code() -> None:
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
