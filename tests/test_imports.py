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


def test_predicting_and_explaining_need_no_training_code() -> None:
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
