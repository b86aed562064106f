"""A file with random edits either loads or is refused by an error that names it."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from fervit_lib.datasets import load_faces, load_people
from fervit_lib.datasets.faces import read_faces
from fervit_lib.datasets.fer_plus import read_votes
from fervit_lib.distillation import OnnxFeatures
from fervit_lib.encoders import load_encoder
from fervit_lib.evaluation.predict import open_image
from fervit_lib.latents import LatentStore, complete_store, read_fingerprint, write_shard
from fervit_lib.models import create_model, load_model, save_model
from fervit_lib.pt_codes import import_pt_folder
from fervit_lib.sweep.config import read_sweep
from fervit_lib.system.atomic import read_json, write_json
from tests.datasets import published_sets

SMALL = {"embed_dim": 8, "depth": 1, "num_heads": 2, "latent_dim": 4, "num_tokens": 3}
EDITS = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Position as a fraction of the file, number of bytes removed, bytes inserted.
edit = st.tuples(
    st.floats(0, 1),
    st.integers(0, 12),
    st.binary(max_size=6) | st.sampled_from([b"null", b"[]", b"-1", b'"', b"1e999"]),
)
edits = st.lists(edit, min_size=1, max_size=4)


def changed(
    content: bytes, changes: list[tuple[float, int, bytes]], head: int | None = None
) -> bytes:
    """`content` with edits, only within its first `head` bytes if given."""
    for fraction, num_removed, inserted in changes:
        start = int(fraction * min(len(content), head or len(content)))
        content = content[:start] + inserted + content[start + num_removed :]
    return content


def loads_or_refuses(load: Callable[[], Any], *names: str) -> None:
    try:
        load()
    except (ValueError, FileNotFoundError) as error:
        assert any(name in str(error) for name in names), f"{error!r} names no file"


def table(folder: Path) -> tuple[Path, Callable]:
    rows = [f"{n},{' '.join(['7'] * 2304)},Training" for n in range(7) for _ in range(2)]
    (folder / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    return folder / "fer2013.csv", lambda: load_faces(folder / "fer2013.csv", "train")


def votes(folder: Path) -> tuple[Path, Callable]:
    names = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    (folder / "v.csv").write_text(
        f"Usage,Image name,{names}\n" + "Training,a.png,1,2,3,4,0,0,0,0,0,0\n" * 3
    )
    return folder / "v.csv", lambda: read_votes(folder / "v.csv")


def published(build: Callable[[Path], Path], file: str) -> Callable:
    """One file of a published set in miniature."""

    def make(folder: Path) -> tuple[Path, Callable]:
        root = build(folder / "set")
        return root / file, lambda: read_faces(root)

    make.__name__ = build.__name__
    return make


def store(folder: Path) -> tuple[Path, Callable]:
    write_shard(
        folder / "train-00000.safetensors",
        torch.zeros(1, 3, 4),
        torch.zeros(1).numpy(),
        ["a.png"],
        "f",
    )
    about = {"classes": ["a"], "encoder": "psp", "faces": folder, "synthetic": False}
    complete_store(folder, {"train": 1}, **about)

    def load() -> None:
        read_fingerprint(folder / "train-00000.safetensors")
        loaded = LatentStore.open(folder, "train")
        assert len(loaded.codes) == len(loaded.labels) == len(loaded.paths)

    return folder / "store.json", load


def shard(folder: Path) -> tuple[Path, Callable]:
    _, load = store(folder)
    return folder / "train-00000.safetensors", load


def coco(folder: Path) -> tuple[Path, Callable]:
    for name in ("val2017", "annotations"):
        (folder / name).mkdir()
    Image.new("L", (8, 6)).save(folder / "val2017" / "0.png")
    shapes = [
        [[0, 0, 5, 0, 5, 5]],
        {"size": [6, 8], "counts": [3, 45]},
        {"size": [6, 8], "counts": "3]1"},
    ]
    content = {
        "images": [{"id": 0, "file_name": "0.png", "width": 8, "height": 6}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": 1, "segmentation": s}
            for i, s in enumerate(shapes)
        ],
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))

    def load() -> None:
        people = load_people(folder, "test")
        [people.masks[i].draw(str(people.images[i])) for i in range(len(people))]

    return folder / "annotations" / "instances_val2017.json", load


def model(folder: Path) -> tuple[Path, Callable]:
    save_model(folder / "m.safetensors", create_model("scratch", 2, **SMALL), classes="ab")
    return folder / "m.safetensors", lambda: load_model(folder / "m.safetensors")


def psp(folder: Path) -> tuple[Path, Callable]:
    content = {
        "state_dict": {"encoder.x": torch.zeros(2)},
        "latent_avg": torch.zeros(4),
        "opts": {"output_size": 256},
    }
    torch.save(content, folder / "p.pt")
    return folder / "p.pt", lambda: load_encoder(folder / "p.pt", "psp")


def pt_file(folder: Path) -> tuple[Path, Callable]:
    (folder / "pt" / "train").mkdir(parents=True)
    for number in range(2):
        content = {"latent": torch.zeros(1, 512), "label": 1, "img_path": "a"}
        torch.save(content, folder / "pt" / "train" / f"{number}.pt")
    return folder / "pt" / "train" / "0.pt", lambda: import_pt_folder(
        folder / "pt", folder / "s", faces=folder
    )


def detector(folder: Path) -> tuple[Path, Callable]:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 3, 8, 8)) for n in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, (1,), [2.0])
    nodes = [helper.make_node("Mul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / "d.onnx",
    )
    return folder / "d.onnx", lambda: OnnxFeatures(folder / "d.onnx", "y", torch.device("cpu"))


def picture(folder: Path) -> tuple[Path, Callable]:
    Image.effect_noise((16, 16), 9).save(folder / "a.png")
    return folder / "a.png", lambda: open_image(folder / "a.png")


def sweep(folder: Path) -> tuple[Path, Callable]:
    text = (
        "name: a\nmethod: grid\nmetric: {name: macro_f1}\nparameters:\n  depth: {min: 1, max: 3}\n"
    )
    (folder / "s.yaml").write_text(text)
    return folder / "s.yaml", lambda: read_sweep(folder / "s.yaml")


def json_file(folder: Path) -> tuple[Path, Callable]:
    write_json(folder / "r.json", {"accuracy": 0.5, "runs": [{"a": "b"}]})
    return folder / "r.json", lambda: read_json(folder / "r.json")


# Edit only the first bytes of a table and the header of weights: the rest holds numbers, and any
# number is valid.
READERS = [
    (table, 4700),
    (votes, None),
    (store, None),
    (shard, 300),
    (coco, None),
    (model, 1500),
    (psp, None),
    (pt_file, None),
    (detector, None),
    (picture, None),
    (sweep, None),
    (json_file, None),
    (published(published_sets.raf_db, "EmoLabel/list_patition_label.txt"), None),
    (published(published_sets.raf_db_copy, "train_labels.csv"), None),
    (published(published_sets.affectnet_tables, "training.csv"), None),
    (published(published_sets.affectnet_folders, "labels.csv"), None),
    (published(published_sets.affectnet_arrays, "train_set/annotations/9_exp.npy"), None),
    (published(published_sets.expw, "label/label.lst"), None),
    (published(published_sets.fer_plus, "FER2013Train/label.csv"), None),
]


@pytest.mark.parametrize(("make", "head"), READERS, ids=[make.__name__ for make, _ in READERS])
def test_a_changed_file_loads_or_is_refused(
    make: Callable[[Path], tuple[Path, Callable]], head: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, load = make(Path(folder))
        original = path.read_bytes()
        if make is not psp:
            load()

        @EDITS
        @given(edits)
        def change(changes: list[tuple[float, int, bytes]]) -> None:
            path.write_bytes(changed(original, changes, head))
            loads_or_refuses(load, path.name, "train-00000.safetensors", "0.png", str(folder))

        change()


def load_psp(path: Path) -> Any:
    return load_encoder(path, "psp")


def load_train_faces(path: Path) -> Any:
    return load_faces(path, "train")


LOADERS: dict[str, Callable[[Path], Any]] = {
    "safetensors": load_model,
    "pt": load_psp,
    "csv": load_train_faces,
    "zip": load_train_faces,
    "tar": load_train_faces,
    "gz": load_train_faces,
    "xz": load_train_faces,
    "json": read_json,
    "yaml": read_sweep,
}


@EDITS
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_by_every_reader(content: bytes) -> None:
    for suffix, load in LOADERS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a.{suffix}"
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"a.{suffix}"):
                load(path)
