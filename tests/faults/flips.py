"""Change single bytes of the files that a later step reads, and call that step.

Either the step is refused, and its message names the file, or all its results are equal to those of
the undamaged files. Each call counts as one of a new process, which has checked no file yet.

Not tried, because no later step reads them: predictions, tables, figures and pages of an
evaluation. Not tried, because they have no checksum of ours: the study of a sweep (SQLite's or
Optuna's), and pictures, whose content is what a face is known by. Features of people are cached in
memory alone.
"""

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from torch import Tensor, nn

from fervit_lib import (
    datasets,
    distillation,
    encoders,
    evaluation,
    explain,
    latents,
    models,
    training,
)
from fervit_lib.models import segmentation
from fervit_lib.report.index import write_index
from fervit_lib.report.terminal import headlines
from fervit_lib.system import identity
from fervit_lib.system.atomic import write_json
from fervit_lib.system.runtime import seed_everything

CPU = torch.device("cpu")
SEGMENTER = {"encoder": "mobilenet_v2", "decoder": "slim"}


@dataclass(frozen=True)
class Kind:
    """Files of one kind within the folder of all steps, and a step that reads them.

    Attributes:
        step: returns figures; also changes nothing that another call reads.
    """

    name: str
    files: str
    step: Callable[[Path], Any]


def digest(content: Any) -> str:
    """Hash of figures: of arrays and tensors bit for bit."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if isinstance(content, dict):
        content = [(str(name), digest(value)) for name, value in content.items()]
    if isinstance(content, Tensor):
        content = content.detach().contiguous().numpy()
    if isinstance(content, np.ndarray):
        content = (content.dtype, content.shape, content.tobytes())
    if isinstance(content, list | tuple) and any(
        isinstance(c, Tensor | np.ndarray | nn.Module) for c in content
    ):
        content = list(map(digest, content))
    return hashlib.sha256(repr(content).encode()).hexdigest()


def find_codes(root: Path) -> Path:
    return latents.find_store(root / "codes/reports/scratchpad/encode/autoencoder")


def read_codes(root: Path) -> Any:
    """What a training reads."""
    store = find_codes(root)
    model = models.create_model("scratch", 7, embed_dim=16, depth=1, num_heads=2)
    dls = training.face_dls(model, store, batch_size=16, device=CPU)
    views = [view[:] for view in (*dls.train.views, *dls.valid.views)]
    return views, dls.train.targets, dls.valid.targets, dls.classes, latents.store_identity(store)


def encode_again(root: Path) -> Any:
    """01_encode's own reading: what is damaged is encoded again."""
    made = root / "codes/reports/scratchpad/encode/autoencoder/checkpoints/best.safetensors"
    encoder = encoders.load_encoder(made, "autoencoder")
    faces = datasets.load_splits(root / "codes/data/toy")["train"]
    folder = root / "flips/toy/codes"
    encoders.encode_faces(encoder, "e", faces, folder, "train", device=CPU)
    shard = latents.read_shard(latents.shard_path(folder, "train", 0))
    return {name: value for name, value in shard.items() if name != "checksum"}


def evaluate(root: Path) -> Any:
    """What 04_evaluate and 05_attention_explorer compute of two runs, of codes and of pixels."""
    comparison = evaluation.runs_to_compare(root / "two/reports", "demo")
    if comparison.skipped:  # the page lists each with its reason
        raise ValueError(" ".join(comparison.skipped.values()))
    faces = evaluation.Faces(comparison.stores[0])
    figures = []
    for run in comparison.full_runs:
        evaluated = evaluation.evaluate_run(run, faces, root / "flips", CPU)
        examined = explain.load_examined_run(run, 20, 0, CPU)
        pictures = [faces.dataset("test")[i][0] for i in range(4)]
        predicted = evaluation.load_predictor(run.folder, "cpu").predict(pictures)
        figures += [evaluated.test.probs, evaluated.calibrated, examined.codes, examined.mean_code]
        figures += [
            digest(evaluated.metrics),
            digest(predicted.table.to_csv()),
            explain.load_initial_model(examined),
        ]
    return figures


def show_index(root: Path) -> Any:
    """The page of an experiment names what it cannot show."""
    page = write_index(root / "two/reports/demo").read_text()
    path = root / "flips" / "index"
    if not path.is_file():
        path.write_text(page)
    elif page != path.read_text():
        named = [name for name in ("config.json", "result.json") if name in page]
        raise ValueError(f"another page, which names {named or 'no file'}")
    return page


def show_headlines(root: Path) -> Any:
    [line] = headlines([root / "flips" / "result.json"])
    if "damaged" in line:
        raise ValueError(line)
    return line


class StopAfterTwo(Callback):
    order = 95  # after the state is written

    def after_epoch(self) -> None:
        if self.epoch == 1:
            raise CancelFitException


def fit(root: Path, *callbacks: Callback) -> Any:
    """Continue a fit after its second epoch."""
    seed_everything(0)
    folder = root / "flips" / ("fit" if callbacks else "resumed")
    model = models.create_model("scratch", 7, embed_dim=16, depth=1, num_heads=2)
    dls = training.face_dls(model, find_codes(root), batch_size=16, device=CPU)
    best = training.SaveBest(
        lambda: models.save_model(folder / "best.safetensors", model, classes=dls.classes)
    )
    full = training.get_strategy("full", "none")
    learn = training.build_learner(model, dls, full, folder=folder, cbs=[best, *callbacks])
    training.fit(learn, full, epochs=4, lr=1e-3, state=folder / "last.safetensors")
    curves = (folder / "metrics.csv").read_text().splitlines()
    # The last column has the seconds.
    return model, best.best_epoch, best.best_values, [line.rpartition(",")[0] for line in curves]


def resume(root: Path) -> Any:
    shutil.copytree(root / "flips/fit", root / "flips/resumed", dirs_exist_ok=True)
    try:
        return fit(root)
    finally:
        shutil.rmtree(root / "flips/resumed")


def pretrain(root: Path) -> Any:
    seed_everything(0)
    model = models.create_model("scratch", 7, embed_dim=16, depth=1, num_heads=2)
    dls = training.face_dls(model, find_codes(root), batch_size=16, device=CPU)
    curves, r2 = training.fit_masked(model, dls, root / "flips", root / "flips/shared", epochs=1)
    return (
        model,
        digest(curves.drop(columns="seconds", errors="ignore").to_csv()),
        digest(r2.to_csv()),
    )


def people(root: Path) -> DataLoaders:
    folder = datasets.draw_toy_people(root / "flips/people", 20, 32, 0)
    augment = distillation.Augment(1.0, 4, 0)
    return distillation.people_dls(folder, size=32, batch_size=4, device=CPU, augment=augment)


def draw_people(root: Path) -> Any:
    folder = datasets.draw_toy_people(root / "flips/drawn", 20, 32, 0)
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def teach(root: Path) -> Any:
    """The toy teacher and detector as 03_distill finds them: what is damaged is trained again."""
    dls, folder = people(root), root / "flips/toy"
    file = distillation.train_toy_teacher(dls, folder, SEGMENTER, epochs=1, seed=0, settings={})
    teacher = segmentation.load_teacher(file, **SEGMENTER)
    file = distillation.train_toy_detector(dls, folder, epochs=1, seed=0, settings={})
    source = distillation.OnnxFeatures(file, distillation.TOY_TENSOR, CPU)
    return teacher, source(torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))


def load_student(root: Path) -> Any:
    return segmentation.load_student(root / "flips/student.safetensors")


RUNS = "two/reports/demo/train/*"
KINDS = [
    Kind("shards of codes, in training", "codes/data/latents/toy/*/*.safetensors", read_codes),
    Kind("shards of codes, in evaluation", "codes/data/latents/toy/*/test*.safetensors", evaluate),
    Kind("shards of codes, encoded again", "flips/toy/codes/train-0*.safetensors", encode_again),
    Kind("store.json", "codes/data/latents/toy/*/store.json", read_codes),
    Kind("codes.json", "codes/reports/*/encode/*/codes.json", read_codes),
    Kind("face hashes", "flips/toy/.face-hashes", encode_again),
    Kind("pixels", "codes/data/latents/toy/*/pixels/*/*.safetensors", evaluate),
    Kind("best.safetensors", f"{RUNS}/checkpoints/best.safetensors", evaluate),
    Kind("config.json", f"{RUNS}/config.json", evaluate),
    Kind("result.json", f"{RUNS}/result.json", evaluate),
    Kind("config.json, in the index", f"{RUNS}/config.json", show_index),
    Kind("result.json, in the index", f"{RUNS}/result.json", show_index),
    Kind("result.json, on the terminal", "flips/result.json", show_headlines),
    Kind("autoencoder", "codes/reports/*/encode/*/checkpoints/best.safetensors", evaluate),
    Kind("last.safetensors", "flips/fit/last.safetensors", resume),
    Kind("metrics.csv", "flips/fit/metrics.csv", resume),
    Kind("masked pretraining", "flips/shared/*.safetensors", pretrain),
    Kind("toy teacher, toy detector", "flips/toy/toy_*[hx]", teach),
    Kind("their records", "flips/toy/*.json", teach),
    Kind("record of toy pictures", "flips/drawn/SYNTHETIC.json", draw_people),
    Kind("student", "flips/student.safetensors", load_student),
]


def prepare(root: Path) -> None:
    """Write the files that `codes` and `two` do not have."""
    (root / "flips").mkdir()
    fit(root, StopAfterTwo())
    student = segmentation.build_segmenter(**SEGMENTER)
    segmentation.save_student(root / "flips/student.safetensors", student, SEGMENTER)
    run = {"variant": "a", "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    write_json(root / "flips" / "result.json", {"runs": [run]})


def flip(root: Path, flips: int, draw: random.Random, kinds: list[Kind] = KINDS) -> None:
    """Flip at least `flips` bytes, as many of each kind, and print how each ended.

    Raises:
        AssertionError: a figure changed, or a message does not name the file.
    """
    prepare(root)
    total: Counter = Counter()
    wrong = []
    print(f"{'kind':32} {'flips':>5} {'refused':>7} {'equal':>5} {'WRONG':>5}")
    for kind in kinds:
        expected = digest(kind.step(root))
        counts: Counter = Counter()
        for _ in range(-(-flips // len(kinds))):
            path = draw.choice(sorted(root.glob(kind.files)))
            outcome, what = try_flip(partial(kind.step, root), path, expected, draw)
            counts[outcome] += 1
            if outcome == "WRONG":
                wrong.append(f"{kind.name}: {what}")
        of_kind = (counts.total(), counts["refused"], counts["equal"], counts["WRONG"])
        print("{:32} {:5} {:7} {:5} {:5}".format(kind.name, *of_kind), flush=True)
        total += counts
    refused, equal = total["refused"], total["equal"]
    print(f"{total.total()} flips: {refused} refused by name, {equal} with equal results")
    assert not wrong, "\n".join(wrong)


def try_flip(
    step: Callable[[], Any], path: Path, expected: str, draw: random.Random
) -> tuple[str, str]:
    """Change a byte of `path`, run a step, and restore the file: `refused`, `equal` or `WRONG`."""
    content = bytearray(path.read_bytes())
    # Half of them among the first bytes, where headers are.
    position = draw.randrange(min(len(content), draw.choice([2000, len(content)])))
    what = f"{path.name}, byte {position} of {len(content)}"
    kept = path.with_name(f".{path.name}.kept")
    shutil.copy2(path, kept)
    content[position] ^= draw.randrange(1, 256)
    path.write_bytes(content)
    identity._checked.clear()
    try:
        figures = digest(step())
        return ("equal" if figures == expected else "WRONG"), f"{what}: other figures"
    except (OSError, ValueError) as error:
        is_named = path.name in str(error)
        return ("refused" if is_named else "WRONG"), f"{what}: {error!s:.500}"
    except Exception as error:
        return "WRONG", f"{what}: {type(error).__name__}: {error!s:.500}"
    finally:
        kept.replace(path)
        identity._checked.clear()
