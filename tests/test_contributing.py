"""CONTRIBUTING.md tried: one of everything that it tells how to add, in a copy of the project, whose notebooks run."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from fervit_lib.datasets import SPLITS
from fervit_lib.system.checkpoints import save_checkpoint
from fervit_lib.system.runtime import PROJECT_ROOT

ENCODER = '''
"""Pixels to codes by one linear map, the plainest encoder there is."""

from pathlib import Path

from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.system.checkpoints import load_checkpoint


class Projection(nn.Module):
    """Images (B, 3, 16, 16) in [-1, 1] → `w_plus` (B, 18, 512)."""

    img_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * self.img_size**2, NUM_LAYERS * LATENT_DIM)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)).unflatten(1, (NUM_LAYERS, LATENT_DIM)).float()


def load_projection(path: Path) -> Projection:
    model = Projection()
    model.load_state_dict(load_checkpoint(path)[0])
    return model.eval()
'''
READER = '''
"""Faces as arrays of numpy: `<split>_images` (N, S, S) uint8, `<split>_labels` (N,), and `classes`."""

from pathlib import Path

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset


def load_arrays(path: Path, split: str) -> FaceDataset:
    """One split of a file of arrays."""
    with np.load(path) as arrays:
        classes = tuple(arrays["classes"].tolist())
        labels = arrays[f"{split}_labels"]
        images = arrays[f"{split}_images"]
    paths = tuple(f"{split}:{i}" for i in range(len(labels)))
    return FaceDataset(classes, labels, paths, path, pixels=images)
'''
MODEL = '''
"""A linear model of the mean over the layers of a code."""

from torch import Tensor, nn

from fervit_lib.latents import LATENT_DIM, NUM_LAYERS
from fervit_lib.models.base import ExpressionModel


class LatentMean(ExpressionModel):
    """`w_plus` (B, num_tokens, 512) → logits (B, num_classes)."""

    reads = "codes"
    parts = {"input_proj": "input_proj", "norm": "transformer", "head": "head"}

    def __init__(self, num_classes: int = 7, *, num_tokens: int = NUM_LAYERS, embed_dim: int = 512) -> None:
        super().__init__()
        self.input_shape = (num_tokens, LATENT_DIM)
        self.input_proj = nn.Linear(LATENT_DIM, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward_features(self, w_plus: Tensor) -> Tensor:
        return self.norm(self.input_proj(w_plus.mean(1)))

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features)
'''
FIGURE = '''
"""How long codes are."""

import numpy as np
import plotly.graph_objects as go

from fervit_lib.figures.theme import new_figure


def plot_code_lengths(lengths: np.ndarray) -> go.Figure:
    """A histogram of `lengths` (N,)."""
    figure = new_figure("Length of a code", yaxis={"title": "faces"})
    figure.add_histogram(x=lengths)
    return figure
'''
SPREAD = "figures.plot_code_statistics(norm.numpy(), spread.numpy()).show()"


@dataclass(frozen=True)
class Edit:
    """A text in a file, and what stands there afterwards; no text: the file is new."""

    file: str
    after: str
    before: str = ""

    def apply(self, project: Path) -> None:
        path = project / self.file
        if not self.before:
            assert not path.exists()
            path.write_text(self.after)
            return
        text = path.read_text()
        assert text.count(self.before) == 1, f"{self.file}: expected {self.before!r} once"
        path.write_text(text.replace(self.before, self.after))


def line_after(file: str, line: str, new: str) -> Edit:
    return Edit(file, f"{line}\n{new}\n", f"{line}\n")


# Rows of CONTRIBUTING.md, in its words.
EDITS = {
    "an encoder": [
        Edit("fervit_lib/encoders/projection.py", ENCODER),
        line_after(
            "fervit_lib/encoders/load.py",
            "from fervit_lib.encoders.autoencoder import load_autoencoder",
            "from fervit_lib.encoders.projection import load_projection",
        ),
        line_after(
            "fervit_lib/encoders/load.py",
            "ENCODERS: dict[str, Callable[[Path], nn.Module]] = {",
            '    "projection": load_projection,',
        ),
        line_after(
            "pretrained_models/README.md",
            "| file | needed by | source | licence |\n|---|---|---|---|",
            "| `projection.safetensors` | `01_encode` with `encoder: projection` | yours | yours |",
        ),
    ],
    "a source of faces": [
        Edit("fervit_lib/datasets/arrays.py", READER),
        Edit(
            "fervit_lib/datasets/faces.py",
            "from fervit_lib.datasets.arrays import load_arrays\n"
            "from fervit_lib.datasets.face_dataset import FaceDataset\n",
            "from fervit_lib.datasets.face_dataset import FaceDataset\n",
        ),
        line_after(
            "fervit_lib/datasets/faces.py",
            "READERS = (",
            '    (lambda path: path.suffix == ".npz", load_arrays),',
        ),
        line_after(
            "data/README.md",
            "| what | where | how it gets there | licence |\n|---|---|---|---|",
            "| faces as arrays | `faces.npz` | written by you | yours |",
        ),
    ],
    "an approach": [
        Edit("fervit_lib/models/latent_mean.py", MODEL),
        line_after(
            "fervit_lib/models/create.py",
            "from fervit_lib.models.latent_cnn import LatentCNN",
            "from fervit_lib.models.latent_mean import LatentMean",
        ),
        line_after(
            "fervit_lib/models/create.py",
            "APPROACHES: dict[str, type[ExpressionModel]] = {",
            '    "latent_mean": LatentMean,',
        ),
        Edit(
            "notebooks/02_train.ipynb",
            "image: pixels; latent_cnn, latent_mean",
            "image: pixels; latent_cnn",
        ),
    ],
    "a strategy": [
        line_after(
            "fervit_lib/training/strategies.py",
            "STRATEGIES: dict[str, Strategy] = {",
            '    "both_ends": Strategy(("input_proj", "head"), lr=1e-2),',
        ),
        Edit("notebooks/02_train.ipynb", "# full, both_ends, adapter,", "# full, adapter,"),
        line_after(
            "README.md",
            "| `strategy` | trains |\n|---|---|",
            "| `both_ends` | the input layer and the head, alike |",
        ),
    ],
    "a figure": [
        Edit("fervit_lib/figures/lengths.py", FIGURE),
        line_after(
            "fervit_lib/figures/__init__.py",
            "from fervit_lib.figures.faces import contact_sheet, plot_class_counts",
            "from fervit_lib.figures.lengths import plot_code_lengths",
        ),
        Edit(
            "notebooks/01_encode.ipynb",
            f'{SPREAD}\\n",\n    "figures.plot_code_lengths(codes.flatten(1).norm(dim=-1).numpy()).show()"',
            f'{SPREAD}"',
        ),
    ],
}

# The cells of notebooks one after another in one process: kernels of their own would take as long again to start.
RUN = """
import json, sys
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
for name, parameters in json.loads(sys.argv[1]):
    variables = {}
    for cell in parameterize_notebook(load_notebook_node(f"notebooks/{name}.ipynb"), parameters).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), variables)
from PIL import Image
from fervit_lib.evaluation import load_predictor
read = load_predictor("reports/mine/train/first").predict([Image.new("L", (48, 48), 200)])
print("read:", list(read.table), tuple(read.codes.shape))
"""


def rows() -> dict[str, set[str]]:
    """What can be added, and the files that CONTRIBUTING.md says are touched, with this example's names."""
    table = {}
    for line in (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| a"):
            what, files, _ = (cell.strip() for cell in line.strip("|").split("|"))
            named = set(re.findall(r"`([^`]+)`", files))
            table[what] = named | (
                {"notebooks/01_encode.ipynb"} if "the notebook that shows it" in files else set()
            )
    return table


def write_faces(path: Path) -> None:
    """Three classes that are told by their brightness, on noise."""
    rng, arrays = np.random.default_rng(0), {"classes": np.array(["angry", "happy", "sad"])}
    for split, n in zip(SPLITS, (48, 12, 12), strict=True):
        labels = np.arange(n) % 3
        noise = rng.integers(0, 100, (n, 32, 32))
        arrays |= {
            f"{split}_labels": labels,
            f"{split}_images": (noise + 70 * labels[:, None, None]).astype(np.uint8),
        }
    np.savez(path, **arrays)


@pytest.mark.parametrize("what", EDITS)
def test_no_more_than_three_files_are_touched_and_they_are_those_that_are_listed(what: str) -> None:
    touched = {edit.file for edit in EDITS[what]}
    new = {edit.file for edit in EDITS[what] if not edit.before}
    listed = {re.sub(r"<\w+>\.py$", Path(next(iter(new), "")).name, file) for file in rows()[what]}
    assert touched == listed and len(touched) <= 3


def test_all_that_is_listed_is_tried() -> None:
    assert rows().keys() == EDITS.keys()


@pytest.mark.notebooks
def test_one_of_each_runs_together(tmp_path: Path) -> None:
    for name in (
        "fervit_lib",
        "notebooks",
        "data",
        "pretrained_models",
        "README.md",
        "pyproject.toml",
    ):
        if (PROJECT_ROOT / name).is_file():
            shutil.copy(PROJECT_ROOT / name, tmp_path / name)
        elif name in ("data", "pretrained_models"):
            (tmp_path / name).mkdir()
            shutil.copy(PROJECT_ROOT / name / "README.md", tmp_path / name)
        else:
            shutil.copytree(PROJECT_ROOT / name, tmp_path / name)
    for edits in EDITS.values():
        for edit in edits:
            edit.apply(tmp_path)
    write_faces(tmp_path / "data" / "faces.npz")
    generator = torch.Generator().manual_seed(0)
    weights = {
        "linear.weight": torch.randn(18 * 512, 768, generator=generator) / 28,
        "linear.bias": torch.zeros(9216),
    }
    save_checkpoint(
        tmp_path / "pretrained_models" / "projection.safetensors", weights, {"kind": "projection"}
    )
    encode = {"faces": "data/faces.npz", "dataset": "mine", "encoder": "projection", "num_views": 1}
    encode |= {"checkpoint": "pretrained_models/projection.safetensors", "experiment": "mine"}
    train = {
        "latents": "data/latents/mine/projection",
        "approach": "latent_mean",
        "strategy": "both_ends",
        "epochs": 8,
    }
    train |= {
        "embed_dim": 32,
        "batch_size": 8,
        "pretrained": "random",
        "experiment": "mine",
        "variant": "first",
    }
    steps = json.dumps([("01_encode", encode), ("02_train", train)])
    command, environment = (
        [sys.executable, "-c", RUN, steps],
        os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "read: ['emotion', 'confidence', 'angry', 'happy', 'sad'] (1, 18, 512)" in done.stdout
    assert "Length of a code" in done.stdout
    result = json.loads(
        (tmp_path / "reports" / "mine" / "train" / "first" / "result.json").read_text()
    )
    assert result["approach"] == "latent_mean" and result["strategy"] == "both_ends"
    assert (
        result["total_parameters"] - result["trainable_parameters"] == 2 * 32
    )  # of the norm, which stays as it is
    assert result["val_accuracy"] > 0.6  # guessing: 0.33
