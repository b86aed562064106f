"""CONTRIBUTING.md in practice: add one of each to a copy of the project, run its notebooks."""

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
"""The simplest encoder: pixels to codes by one linear layer."""

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
"""Faces in an .npz file: `classes`, `<split>_images` (N, S, S) uint8, `<split>_labels` (N,)."""

from pathlib import Path

import numpy as np

from fervit_lib.datasets.face_dataset import FaceDataset

SPLITS = ("train", "val", "test")


def load_arrays(path: Path) -> FaceDataset:
    """All faces of a file of arrays, with the split of each."""
    with np.load(path) as arrays:
        classes = tuple(arrays["classes"].tolist())
        labels = [arrays[f"{split}_labels"] for split in SPLITS]
        images = [arrays[f"{split}_images"] for split in SPLITS]
    published = np.repeat(SPLITS, [len(part) for part in labels])
    return FaceDataset(
        classes,
        np.concatenate(labels),
        tuple(f"{split}:{i}" for i, split in enumerate(published)),
        path,
        pixels=np.concatenate(images),
        published=published,
    )
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

    def __init__(
        self, num_classes: int = 7, *, num_tokens: int = NUM_LAYERS, embed_dim: int = 512
    ) -> None:
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
LOSS_TERM = """\
        loss = loss_class(weight=weight, label_smoothing=self.label_smoothing)
        return lambda logits, targets: (
            loss(logits, targets) + self.z_loss * logits.logsumexp(1).square().mean()
        )
"""
SPREAD = "figures.plot_code_statistics(codes).show()"


@dataclass(frozen=True)
class Edit:
    """Replace the text `before` in a file by `after`; without `before` the file is new."""

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


# The rows of CONTRIBUTING.md, by their first column.
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
            "APPROACHES = {",
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
            "STRATEGIES = {",
            '    "both_ends": Strategy(("input_proj", "head"), lr=1e-2),',
        ),
        Edit("notebooks/02_train.ipynb", "[Strategy] full, both_ends,", "[Strategy] full,"),
        line_after(
            "README.md",
            "| `strategy` | trains |\n|---|---|",
            "| `both_ends` | the input layer and the head, at one rate |",
        ),
    ],
    "a loss term": [
        Edit(
            "fervit_lib/training/learner.py",
            "    z_loss: float = 0.0  # weight of the squared log-sum-exp\n    mixup: float = 0.0",
            "    mixup: float = 0.0",
        ),
        Edit(
            "fervit_lib/training/learner.py",
            LOSS_TERM,
            "        return loss_class(weight=weight, label_smoothing=self.label_smoothing)\n",
        ),
        line_after(
            "notebooks/02_train.ipynb",
            '    "mixup: float = 0.0  # mix pairs by a share from Beta(mixup, mixup); 0: off\\n",',
            '    "z_loss: float = 1e-3  # weight of the z-loss\\n",',
        ),
        line_after(
            "notebooks/02_train.ipynb", '    "    mixup=mixup,\\n",', '    "    z_loss=z_loss,\\n",'
        ),
    ],
    "a figure": [
        Edit("fervit_lib/figures/lengths.py", FIGURE),
        Edit(
            "fervit_lib/figures/__init__.py",
            "from fervit_lib.figures.lengths import plot_code_lengths\n"
            "from fervit_lib.figures.tables import format_p, style_table\n",
            "from fervit_lib.figures.tables import format_p, style_table\n",
        ),
        Edit(
            "notebooks/01_encode.ipynb",
            f'{SPREAD}\\n",\n'
            '    "figures.plot_code_lengths(np.linalg.norm(codes, axis=(1, 2))).show()"',
            f'{SPREAD}"',
        ),
    ],
}

# The cells of the notebooks in one process, because each kernel takes seconds to start.
RUN = """
import json, sys
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
for name, parameters in json.loads(sys.argv[1]):
    variables = {}
    notebook = load_notebook_node(f"notebooks/{name}.ipynb")
    for cell in parameterize_notebook(notebook, parameters).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), variables)
from PIL import Image
from fervit_lib.evaluation import load_predictor
read = load_predictor("reports/mine/train/first").predict([Image.new("L", (48, 48), 200)])
print("read:", list(read.table), tuple(read.codes.shape))
"""


def rows() -> dict[str, set[str]]:
    """What can be added, and the files that CONTRIBUTING.md lists for it."""
    table = {}
    for line in (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| a"):
            what, files, _ = (cell.strip() for cell in line.strip("|").split("|"))
            named = set(re.findall(r"`([^`]+)`", files))
            if "the notebook that shows it" in files:
                named.add("notebooks/01_encode.ipynb")
            table[what] = named
    return table


def write_faces(path: Path) -> None:
    """Three classes that differ by their brightness, with noise."""
    rng = np.random.default_rng(0)
    arrays = {"classes": np.array(["angry", "happy", "sad"])}
    for split, n in zip(SPLITS, (48, 12, 12), strict=True):
        labels = np.arange(n) % 3
        noise = rng.integers(0, 100, (n, 32, 32))
        images = noise + 70 * labels[:, None, None]
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_images"] = images.astype(np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize("what", EDITS)
def test_the_listed_files_are_edited_and_no_others(what: str) -> None:
    edited = {edit.file for edit in EDITS[what]}
    new = {edit.file for edit in EDITS[what] if not edit.before}
    listed = {re.sub(r"<\w+>\.py$", Path(next(iter(new), "")).name, file) for file in rows()[what]}
    assert edited == listed and len(edited) <= 3


def test_every_row_has_an_example() -> None:
    assert rows().keys() == EDITS.keys()


@pytest.mark.notebooks
def test_the_notebooks_run_with_one_of_each(tmp_path: Path) -> None:
    for name in ("fervit_lib", "notebooks"):
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name)
    for name in ("data/README.md", "pretrained_models/README.md", "README.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT_ROOT / name, tmp_path / name)
    for edits in EDITS.values():
        for edit in edits:
            edit.apply(tmp_path)
    write_faces(tmp_path / "data" / "faces.npz")
    generator = torch.Generator().manual_seed(0)
    weights = {
        "linear.weight": torch.randn(18 * 512, 768, generator=generator) / 28,
        "linear.bias": torch.zeros(9216),
    }
    checkpoint = "pretrained_models/projection.safetensors"
    save_checkpoint(tmp_path / checkpoint, weights, {"kind": "projection"})
    encode = {
        "experiment": "mine",
        "faces": "data/faces.npz",
        "dataset": "mine",
        "encoder": "projection",
        "checkpoint": checkpoint,
        "num_views": 1,
    }
    train = {
        "experiment": "mine",
        "variant": "first",
        "latents": "data/latents/mine/projection",
        "approach": "latent_mean",
        "strategy": "both_ends",
        "pretrained": "random",
        "embed_dim": 32,
        "epochs": 8,
        "batch_size": 8,
    }
    steps = json.dumps([("01_encode", encode), ("02_train", train)])
    command = [sys.executable, "-c", RUN, steps]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "read: ['emotion', 'confidence', 'angry', 'happy', 'sad'] (1, 18, 512)" in done.stdout
    assert "Length of a code" in done.stdout
    run = tmp_path / "reports" / "mine" / "train" / "first"
    result = json.loads((run / "result.json").read_text())
    assert result["approach"] == "latent_mean" and result["strategy"] == "both_ends"
    frozen = result["total_parameters"] - result["trainable_parameters"]
    assert frozen == 2 * 32  # scale and bias of the norm
    assert result["val_accuracy"] > 0.6  # chance: 0.33
