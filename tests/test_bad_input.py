# ruff: noqa: E501  (a mistake a row)
"""Bad input, one row a mistake: one error that names file or argument, says what was expected, and leaves the disk."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file

from fervit_lib import pt_codes, report, runs
from fervit_lib.datasets import (
    audit_faces,
    draw_toy_faces,
    draw_toy_people,
    ffhq_crop,
    load_faces,
    load_people,
)
from fervit_lib.distillation import OnnxFeatures, binary_kl, people_dls, temperature_at
from fervit_lib.encoders import load_encoder
from fervit_lib.encoders.autoencoder import Autoencoder, save_autoencoder
from fervit_lib.encoders.published import load_style_encoder
from fervit_lib.evaluation.predict import load_predictor
from fervit_lib.explain import attention_rollout, linear_cka
from fervit_lib.latents import LatentStore
from fervit_lib.models import create_model, load_model, save_model
from fervit_lib.models.segmentation import build_segmenter, load_student, load_teacher
from fervit_lib.sweep import read_sweep
from fervit_lib.system import atomic, checkpoints, runtime
from fervit_lib.training import STRATEGIES, build_learner, face_dls, fit, get_strategy

CPU = torch.device("cpu")
Call = Callable[[], Any]
SMALL = {"embed_dim": 8, "depth": 1, "num_heads": 2, "latent_dim": 4, "num_tokens": 3}


def listing(folder: Path) -> dict[str, str]:
    """Every file, folder and link below `folder`, with a hash of what is in it."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def write(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# -- faces

ROW = "0," + " ".join(["7"] * 2304) + ",Training\n"
HEADER = "emotion,pixels,Usage\n"


def faces_folder(folder: Path) -> Path:
    for split in ("train", "val", "test"):
        for name in ("happy", "sad"):
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (8, 8), number).save(folder / split / name / f"{number}.png")
    return folder


def table(
    content: str | bytes, name: str = "fer2013.csv", split: str = "train", labels: str = "hard"
) -> Callable:
    def make(folder: Path) -> Call:
        path = write(folder / name, content)
        return lambda: load_faces(path, split, labels)

    return make


def zipped(content: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("fer2013.csv", content)
    return buffer.getvalue()


def encrypted(folder: Path) -> Call:
    data = bytearray(zipped(HEADER + ROW))
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + place] |= 1  # "this member has a password"
    return table(bytes(data), "fer2013.zip")(folder)


def an_archive_of_nothing(folder: Path) -> Call:
    with tarfile.open(folder / "fer2013.tar.gz", "w:gz"):
        pass
    return lambda: load_faces(folder / "fer2013.tar.gz", "train")


def spoilt_faces(spoil: Callable[[Path], Any], call: Callable[[Path], Any]) -> Callable:
    def make(folder: Path) -> Call:
        spoil(faces_folder(folder))
        return lambda: call(folder)

    return make


def votes(content: str) -> Callable:
    def make(folder: Path) -> Call:
        names = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
        for name in names:
            (folder / "train" / name).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (8, 8)).save(folder / "train" / name / f"fer{number:07d}.png")
        write(folder / "fer2013new.csv", content)
        return lambda: load_faces(folder, "train", "majority")

    return make


VOTES = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
)


# -- people


def coco(**changes: Any) -> Callable:
    def make(folder: Path) -> Call:
        path = write_coco(folder, **changes)
        return lambda: [load_people(path, "test")[i] for i in range(8)]

    return make


def write_coco(
    folder: Path, name: Any = "0.jpg", size: Any = (20, 10), shape: Any = None, **more: Any
) -> Path:
    (folder / "val2017").mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (20, 10)).save(folder / "val2017" / f"{number}.jpg")
    files = [name, *(f"{number}.jpg" for number in range(1, 8))]
    images = [{"id": i, "file_name": n, "width": 20, "height": 10} for i, n in enumerate(files)]
    images[0] |= {"width": size[0], "height": size[1]}
    box = [[4, 2, 12, 2, 12, 8, 4, 8]]
    shapes = [box if shape is None else shape, *[box] * 7]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": s} for i, s in enumerate(shapes)
    ]
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    } | more
    write(folder / "annotations" / "instances_val2017.json", json.dumps(content))
    return folder


def coco_bytes(content: str) -> Callable:
    def make(folder: Path) -> Call:
        write(folder / "annotations" / "instances_val2017.json", content)
        return lambda: load_people(folder, "test")

    return make


def pairs(spoil: Callable[[Path], Any]) -> Callable:
    def make(folder: Path) -> Call:
        for kind in ("images", "masks"):
            (folder / "test" / kind).mkdir(parents=True)
            Image.new("L", (8, 8), 255).save(folder / "test" / kind / "a.png")
        spoil(folder / "test")
        return lambda: load_people(folder, "test")[0]

    return make


# -- codes


def spoilt_store(**changes: Any) -> Callable:
    """`store.json` with other entries; None: left out."""

    def make(folder: Path) -> Call:
        write_store(folder)
        store = atomic.read_json(folder / "store.json") | changes
        atomic.write_json(
            folder / "store.json",
            {name: value for name, value in store.items() if value is not None},
        )
        return lambda: LatentStore.open(folder, "train")

    return make


def write_store(folder: Path) -> Path:
    shard(codes=torch.zeros(2, 18, 4).half())(folder)
    store = {
        "encoder": "psp",
        "classes": ["a", "b"],
        "faces": "faces",
        "synthetic": False,
        "made_by": {},
    }
    atomic.write_json(folder / "store.json", store | {"num_codes": {"train": 2, "val": 2}})
    return folder


def shard(header: Any = None, **tensors: torch.Tensor) -> Callable:
    def make(folder: Path) -> Call:
        store = {
            "encoder": "psp",
            "classes": ["a", "b"],
            "faces": "faces",
            "synthetic": False,
            "made_by": {},
        }
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(folder / "store.json", store | {"num_codes": {"train": 2}})
        content = {"codes": torch.zeros(2, 18, 4).half(), "labels": torch.tensor([0, 1])} | tensors
        said = {"fingerprint": "f", "paths": ["a.png", "b.png"]} if header is None else header
        for split in ("train", "val"):
            save_file(content, folder / f"{split}-00000.safetensors", {"shard": json.dumps(said)})
        return lambda: LatentStore.open(folder, "train")

    return make


def dls_of(folder: Path, **options: Any) -> Call:
    write_store(folder)
    model = create_model(
        "scratch", 2, **{**SMALL, "num_tokens": 18, "latent_dim": 4, **options.pop("model", {})}
    )
    return lambda: face_dls(model, folder, **{"batch_size": 1, "device": CPU} | options)


def pt(content: Any) -> Callable:
    def make(folder: Path) -> Call:
        (folder / "pt" / "train").mkdir(parents=True)
        torch.save(content, folder / "pt" / "train" / "0.pt")
        return lambda: pt_codes.import_pt_folder(folder / "pt", folder / "store", faces=folder)

    return make


def code(**changes: Any) -> dict[str, Any]:
    return {"latent": torch.zeros(18, 512), "label": 1, "img_path": "a.png"} | changes


# -- checkpoints


def ours(load: Callable[[Path], Any], tensors: dict | None = None, **metadata: Any) -> Callable:
    """A checkpoint of this project with other contents than it should have."""

    def make(folder: Path) -> Call:
        checkpoints.save_checkpoint(
            folder / "a.safetensors", tensors or {"w": torch.zeros(2)}, metadata
        )
        return lambda: load(folder / "a.safetensors")

    return make


def header(load: Callable[[Path], Any], said: dict[str, str] | None) -> Callable:
    def make(folder: Path) -> Call:
        save_file({"w": torch.zeros(2)}, folder / "a.safetensors", said)
        return lambda: load(folder / "a.safetensors")

    return make


def published(**changes: Any) -> Callable:
    def make(folder: Path) -> Call:
        torch.save(
            {"state_dict": {}, "latent_avg": torch.zeros(18, 4), "opts": {}} | changes,
            folder / "e.pt",
        )
        stages = ((4, 1), (4, 1), (4, 1), (4, 1))
        return lambda: load_style_encoder(folder / "e.pt", "psp", stages)

    return make


def bytes_of(name: str, load: Callable[[Path], Any], content: bytes | str = b"\0 none") -> Callable:
    def make(folder: Path) -> Call:
        path = write(folder / name, content)
        return lambda: load(path)

    return make


def teacher(content: Any) -> Callable:
    def make(folder: Path) -> Call:
        torch.save(content, folder / "t.pth")
        return lambda: load_teacher(folder / "t.pth", "resnet18", "slim")

    return make


def write_onnx(
    path: Path, kind: str = "Relu", shape: tuple = (1, 3, 8, 8), inputs: int = 1, **attributes: Any
) -> Path:
    values = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(inputs)
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node(kind, ["x0"], ["y"], **attributes)], "g", values, [out]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def detector(tensor: str = "y", **graph: Any) -> Callable:
    def make(folder: Path) -> Call:
        write_onnx(folder / "d.onnx", **graph)
        return lambda: OnnxFeatures(folder / "d.onnx", tensor, CPU)

    return make


def onnx_with_weights_elsewhere(folder: Path) -> Call:
    write(folder / "secret.bin", b"\0" * 16)
    path = write_onnx(folder / "inner" / "d.onnx") if (folder / "inner").mkdir() is None else None
    model = onnx.load(path)
    weight = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    weight.external_data.add(key="location", value="../secret.bin")
    model.graph.initializer.append(weight)
    path.write_bytes(model.SerializeToString())
    return lambda: OnnxFeatures(path, "y", CPU)


# -- sweeps, arguments


def sweep(text: str | bytes | None = None, **changes: Any) -> Callable:
    base = {
        "name": "tiny",
        "method": "random",
        "metric": {"name": "macro_f1", "goal": "maximize"},
        "parameters": {"lr": {"min": 0.1, "max": 0.5}},
        "run_cap": 6,
    }

    def make(folder: Path) -> Call:
        path = write(
            folder / "sweep.yaml", yaml.safe_dump(base | changes) if text is None else text
        )
        return lambda: read_sweep(path)

    return make


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


def call(function: Callable, *arguments: Any, **options: Any) -> Callable:
    return lambda folder: lambda: function(*arguments, **options)


def learner(**options: Any) -> Callable:
    dls = SimpleNamespace(device=CPU)

    def make(folder: Path) -> Call:
        model = create_model("scratch", 2, **SMALL)
        return lambda: build_learner(
            model, dls, STRATEGIES["full"], folder=folder / "run", **options
        )

    return make


def fitted(**options: Any) -> Callable:
    return call(fit, None, STRATEGIES["full"], **{"epochs": 1} | options)


def run_named(**names: Any) -> Callable:
    names = {"experiment": "a", "step": "train", "variant": "b"} | names
    return lambda folder: (
        lambda: runs.start_run(folder, **names, parameters={}, seed=0, device="cpu")
    )


DEEP = "[" * 100_000

ROWS: dict[str, tuple[Callable[[Path], Call], str]] = {
    # faces as folders
    "faces: not there": (
        lambda f: lambda: load_faces(f / "none", "train"),
        r"none: no such file.*; give",
    ),
    "faces: empty folder": (
        lambda f: lambda: load_faces(f, "train"),
        "no folder 'train'.*expected",
    ),
    "faces: unknown labels": (
        call(load_faces, ".", "train", "mild"),
        "labels: expected one of hard",
    ),
    "faces: split of a typing error": (
        call(load_faces, ".", "trian"),
        "split: expected one of train",
    ),
    "faces: private test of a folder": (
        spoilt_faces(lambda f: 0, lambda f: load_faces(f, "private_test")),
        "only Kagg",
    ),
    "faces: no class folders": (
        lambda f: (f / "train").mkdir() or (lambda: load_faces(f, "train")),
        "no class folders",
    ),
    "faces: class without images": (
        spoilt_faces(
            lambda f: [p.unlink() for p in (f / "val" / "sad").iterdir()],
            lambda f: load_faces(f, "val"),
        ),
        r"val/sad: expected images.*add some",
    ),
    "faces: picture of zero bytes": (
        spoilt_faces(lambda f: write(f / "train/happy/0.png"), lambda f: load_faces(f, "train")[0]),
        r"train/happy/0\.png: cannot be read as an image",
    ),
    "faces: text with a picture's name": (
        spoilt_faces(
            lambda f: write(f / "train/happy/0.png", "hello"), lambda f: load_faces(f, "train")[0]
        ),
        r"train/happy/0\.png: cannot be read as an image",
    ),
    "faces: votes asked for, none there": (
        spoilt_faces(lambda f: 0, lambda f: load_faces(f, "train", "soft")),
        r"fer2013new\.csv: no FER\+ votes.*; place",
    ),
    # faces as tables
    "table: empty": (table(""), r"fer2013\.csv: expected a CSV file with the columns"),
    "table: header alone": (table(HEADER), r"fer2013\.csv: no row with Usage 'Training'.*download"),
    "table: binary": (
        table(b"\x89PNG\xff\xfe" * 50),
        r"fer2013\.csv: cannot be read as a CSV file",
    ),
    "table: UTF-16": (
        table((HEADER + ROW).encode("utf-16")),
        r"fer2013\.csv: cannot be read as a CSV file",
    ),
    "table: zero bytes": (table(b"\0" * 5000), r"fer2013\.csv: (expected|cannot be read)"),
    "table: quotes without end": (table(HEADER + '0,"' + "7 " * 2304), r"fer2013\.csv.*expected"),
    "table: huge number": (
        table(HEADER + ROW.replace("7", "9" * 40, 1)),
        r"fer2013\.csv, row 2: .*expected",
    ),
    "table: negative pixel": (
        table(HEADER + ROW.replace("7", "-7", 1)),
        "row 2: pixels from -7 to 7, expected 0 to 255",
    ),
    "table: fraction": (
        table(HEADER + ROW.replace("7", "7.5", 1)),
        r"row 2: (pixels hold something|has \d+ pixels)",
    ),
    "table: emotion as a word": (
        table(HEADER + ROW.replace("0", "sad", 1)),
        "row 2: emotion is 'sad', expected 0 to 6",
    ),
    "table: no zip": (
        table("x", "fer2013.zip"),
        r"fer2013\.zip: cannot be read as a CSV file.*download it again",
    ),
    "table: no gzip": (
        table("x", "fer2013.csv.gz"),
        r"fer2013\.csv\.gz: cannot be read as a CSV file",
    ),
    "table: no xz": (
        table("x", "fer2013.csv.xz"),
        r"fer2013\.csv\.xz: cannot be read as a CSV file",
    ),
    "table: no tar": (table("x", "fer2013.tar"), r"fer2013\.tar: cannot be read as a CSV file"),
    "table: truncated tar.gz": (
        table(gzip.compress(b"\0" * 999)[:-9], "f.tar.gz"),
        r"f\.tar\.gz: (cannot be read|expected a CSV file)",
    ),
    "table: tar without a table": (an_archive_of_nothing, r"fer2013\.tar\.gz: expected a CSV file"),
    "table: zip with a password": (
        encrypted,
        r"fer2013\.zip: cannot be read as a CSV file.*password",
    ),
    # votes of FER+
    "votes: empty": (
        votes(""),
        r"fer2013new\.csv: cannot be read as FER\+ votes.*download it again",
    ),
    "votes: no columns": (
        votes("a,b\n1,2\n"),
        r"fer2013new\.csv: expected FER\+ votes.*no column Usage",
    ),
    "votes: a word": (
        votes(VOTES + "Training,x,1,many,0,0,0,0,0,0,0,0\n"),
        "row 2: happiness is many, expected",
    ),
    "votes: negative": (
        votes(VOTES + "Training,x,1,-3,0,0,0,0,0,0,0,0\n"),
        "row 2: happiness is -3, expected",
    ),
    "votes: a hole": (
        votes(VOTES + "Training,x,1,,0,0,0,0,0,0,0,0\n"),
        "row 2: happiness is .*nan.*, expected",
    ),
    "votes: ragged": (
        votes(VOTES + "1,2\n" + "1," * 40 + "\n"),
        r"fer2013new\.csv: cannot be read",
    ),
    "votes: too few": (
        votes(VOTES + "Training,x,10,0,0,0,0,0,0,0,0,0\n"),
        r"fer2013new\.csv: has 1 rows, expected",
    ),
    # people
    "people: not there": (
        lambda f: lambda: load_people(f / "none", "test"),
        "none: no such folder; give one",
    ),
    "people: empty folder": (lambda f: lambda: load_people(f, "test"), "expected test/images/"),
    "people: unknown split": (
        lambda f: lambda: load_people(f, "tset"),
        "split: expected one of train",
    ),
    "people: no images": (
        lambda f: (f / "test/images").mkdir(parents=True) or (lambda: load_people(f, "test")),
        "no imag",
    ),
    "people: mask missing": (
        pairs(lambda f: (f / "masks/a.png").unlink()),
        r"a\.png: image without mask.*; add it",
    ),
    "people: mask is text": (
        pairs(lambda f: write(f / "masks/a.png", "x")),
        r"masks/a\.png: cannot be read as a mask",
    ),
    "people: image is empty": (
        pairs(lambda f: write(f / "images/a.png")),
        r"images/a\.png: cannot be read as an image",
    ),
    "people: mask of another size": (
        pairs(lambda f: Image.new("L", (9, 7), 255).save(f / "masks/a.png")),
        "9x7 pixels, expected 8x8.*make it anew",
    ),
    "people: empty mask": (
        pairs(lambda f: Image.new("L", (8, 8)).save(f / "masks/a.png")),
        "no pixel of a person",
    ),
    # COCO
    "coco: no file": (
        lambda f: (f / "annotations").mkdir() or (lambda: load_people(f, "test")),
        "put COCO's file there",
    ),
    "coco: empty": (
        coco_bytes(""),
        r"instances_val2017\.json: expected COCO's instances.*download it again",
    ),
    "coco: a list": (coco_bytes("[1, 2]"), r"instances_val2017\.json: expected COCO's instances"),
    "coco: a number": (coco_bytes("7"), r"instances_val2017\.json: expected COCO's instances"),
    "coco: nested too deeply": (
        coco_bytes(DEEP),
        r"instances_val2017\.json: expected COCO's instances",
    ),
    "coco: no images in it": (
        coco(images=[]),
        r"instances_val2017\.json: expected COCO's instances",
    ),
    "coco: categories without names": (
        coco(categories=[{"id": 1}]),
        r"instances_val2017\.json: expected COCO's",
    ),
    "coco: a category of no kind": (
        coco(categories=[7]),
        r"instances_val2017\.json: expected COCO's instances",
    ),
    "coco: an annotation of no image": (
        coco(annotations=[{"image_id": 99, "category_id": 1}]),
        r"instances_val2017\.json: expected COCO's instances",
    ),
    "coco: a number as file name": (
        coco(name=7),
        r"instances_val2017\.json: expected COCO's instances",
    ),
    "coco: file name out of the folder": (
        coco(name="../../x.jpg"),
        "file_name: expected a file within",
    ),
    "coco: absolute file name": (coco(name="/etc/passwd"), "file_name: expected a file within"),
    "coco: NUL in a file name": (coco(name="a\0.jpg"), "file_name: expected a file within"),
    "coco: image that is gone": (
        coco(name="gone.jpg"),
        "expected gone.jpg .*unpack COCO's images there",
    ),
    "coco: negative size": (coco(size=(-20, 10)), "width, height: expected at least 1"),
    "coco: size as text": (coco(size=("20", 10)), "width, height: expected at least 1"),
    "coco: size that fills the memory": (
        coco(size=(10**6, 10**6)),
        "width, height: expected .* 100,000,000 pixels",
    ),
    "coco: polygon of words": (coco(shape=[["a"] * 6]), r"0\.jpg: annotation 0 .* is damaged"),
    "coco: polygon of odd length": (
        coco(shape=[[1, 2, 3, 4, 5, 6, 7]]),
        r"0\.jpg: annotation 0 .* is damaged",
    ),
    "coco: polygon that is none": (coco(shape=7), r"0\.jpg: annotation 0 .* is damaged"),
    "coco: runs of another size": (
        coco(shape={"size": [10**6, 10**6], "counts": [10**12]}),
        "expected 20x10 as the",
    ),
    "coco: runs that do not add up": (
        coco(shape={"size": [10, 20], "counts": [5]}),
        "add up to 5 pixels, expected 200",
    ),
    "coco: negative runs": (coco(shape={"size": [10, 20], "counts": [-5, 205]}), "run lengths"),
    "coco: runs not in ASCII": (
        coco(shape={"size": [10, 20], "counts": "ü"}),
        r"0\.jpg: annotation 0 .* is damaged",
    ),
    # codes
    "store: not there": (
        lambda f: lambda: LatentStore.open(f, "train"),
        "no complete store.*run 01_encode",
    ),
    "store: half a file": (
        bytes_of("store.json", lambda p: LatentStore.open(p.parent, "train"), "{"),
        r"store\.json",
    ),
    "store: nested too deeply": (
        bytes_of("store.json", lambda p: LatentStore.open(p.parent, "train"), DEEP),
        r"store\.json: expected a JSON object",
    ),
    "store: without num_codes": (
        spoilt_store(num_codes=None),
        r"store\.json: num_codes: expected.*run 01_encode",
    ),
    "store: num_codes as text": (
        spoilt_store(num_codes={"train": "2"}),
        r"store\.json: num_codes: expected",
    ),
    "store: negative number": (
        spoilt_store(num_codes={"train": -1}),
        r"store\.json: num_codes: expected",
    ),
    "store: classes as text": (spoilt_store(classes="ab"), r"store\.json: classes: expected"),
    "store: without made_by": (spoilt_store(made_by=None), r"store\.json: made_by: expected"),
    "store: more codes than shards": (
        spoilt_store(num_codes={"train": 10**15}),
        r"shard missing; run 01_encode",
    ),
    "store: fewer codes than shards": (
        spoilt_store(num_codes={"train": 1}),
        "says 1 train codes, the shards hold 2",
    ),
    "store: no such split": (
        lambda f: write_store(f) and (lambda: LatentStore.open(f, "test")),
        "no split 'test'.*has",
    ),
    "shard: header is a list": (
        shard(header=[1]),
        r"train-00000\.safetensors: not a complete shard.*run 01_encode",
    ),
    "shard: paths are a number": (
        shard(header={"paths": 7}),
        r"train-00000\.safetensors: not a complete shard",
    ),
    "shard: codes of two axes": (
        shard(codes=torch.zeros(2, 18).half()),
        r"train-00000\.safetensors: codes \(2, 18\)",
    ),
    "shard: codes as integers": (
        shard(codes=torch.zeros(2, 18, 4).int()),
        r"00000\.safetensors: codes .*int32",
    ),
    "shard: labels as floats": (
        shard(labels=torch.zeros(2)),
        r"00000\.safetensors: codes .* do not match its labels",
    ),
    "shard: negative label": (
        shard(labels=torch.tensor([0, -1])),
        r"00000\.safetensors: codes .* do not match its",
    ),
    "dls: batch larger than the set": (
        lambda f: dls_of(f, batch_size=9),
        "batch_size: expected 1 to 2",
    ),
    "dls: no batch": (lambda f: dls_of(f, batch_size=0), "batch_size: expected 1 to 2"),
    "dls: no faces": (
        lambda f: dls_of(f, fraction=0.0),
        r"data_fraction: expected a share in \(0, 1\]",
    ),
    "dls: more shots than faces": (lambda f: dls_of(f, shots=9), "shots: expected 1 to 1"),
    "dls: labels of a typing error": (
        lambda f: dls_of(f, labels="sfot"),
        "labels: expected hard or soft",
    ),
    "dls: codes of another encoder": (
        lambda f: dls_of(f, model={"num_tokens": 14}),
        r"expected codes of shape \(14, 4\)",
    ),
    "pt: not there": (
        call(pt_codes.import_pt_folder, Path("none"), Path("x"), faces=Path()),
        "none: no such folder; g",
    ),
    "pt: a list": (pt([1]), r"0\.pt: expected \{latent, label, img_path\}"),
    "pt: latent is a number": (
        pt(code(latent=7)),
        r"0\.pt: latent: expected",
    ),
    "pt: sparse": (
        pt(code(latent=torch.zeros(18, 512).to_sparse())),
        r"0\.pt: latent: expected",
    ),
    "pt: integers": (
        pt(code(latent=torch.zeros(18, 512).int())),
        r"0\.pt: latent: expected shape.*int32",
    ),
    "pt: claims a terabyte": (
        pt(code(latent=torch.zeros(1, 512).expand(10**9, 512))),
        r"0\.pt: latent: expected shape",
    ),
    "pt: no layers": (pt(code(latent=torch.zeros(0, 512))), r"0\.pt: latent: expected shape"),
    "pt: label is infinite": (pt(code(label=float("inf"))), r"0\.pt: expected \{latent, label"),
    "pt: label of no class": (pt(code(label="bored")), r"0\.pt: expected \{latent, label"),
    "pt: codes not finite": (
        pt(code(latent=torch.full((18, 512), torch.nan))),
        "codes: expected finite",
    ),
    # checkpoints
    "model: not there": (
        lambda f: lambda: load_model(f / "a.safetensors"),
        "no such checkpoint; run the notebook",
    ),
    "model: no safetensors": (
        bytes_of("a.safetensors", load_model),
        r"a\.safetensors: expected a safetensors checkpoint",
    ),
    "model: header claims all memory": (
        bytes_of("a.safetensors", load_model, b"\xff" * 8 + b"{}"),
        r"a\.safetensors: expected a safetensors checkpoint",
    ),
    "model: nobody's weights": (
        header(load_model, None),
        r"a\.safetensors: expected",
    ),
    "model: header is no JSON": (
        header(load_model, {"fervit": "{"}),
        r"a\.safetensors: expected a safetensors",
    ),
    "model: header is a list": (
        header(load_model, {"fervit": "[]"}),
        r"a\.safetensors: .*metadata is a list",
    ),
    "model: header nested too deeply": (
        header(load_model, {"fervit": DEEP}),
        r"a\.safetensors: expected a safetensors",
    ),
    "model: without classes": (
        ours(load_model, approach="scratch", options={}),
        r"a\.safetensors: made by another.*classes",
    ),
    "model: unknown approach": (
        ours(load_model, approach="x", classes=["a"], options={}),
        r"a\.safetensors: .*approach",
    ),
    "model: width is a word": (
        ours(load_model, approach="scratch", classes=["a"], options={"embed_dim": "wide"}),
        r"a\.safetensors: .*embed_dim",
    ),
    "model: option of another version": (
        ours(load_model, approach="scratch", classes=["a"], options={"layers": 3}),
        r"a\.safetensors: .*no layers",
    ),
    "model: weights of another": (
        ours(load_model, approach="scratch", classes=["a"], options=SMALL),
        r"a\.safetensors: .*Missing key.*train again",
    ),
    "model: an autoencoder": (
        ours(load_model, kind="autoencoder"),
        "expected a trained model, .* 'autoencoder'",
    ),
    "encoder: unknown kind": (
        call(load_encoder, "x.pt", "stylegan"),
        "encoder: expected one of autoencoder, psp, e4e",
    ),
    "encoder: a trained model": (
        ours(lambda p: load_encoder(p, "autoencoder"), approach="scratch"),
        "an autoencoder che",
    ),
    "encoder: without a size": (
        ours(lambda p: load_encoder(p, "autoencoder"), kind="autoencoder"),
        r"a\.saf.*img_size",
    ),
    "encoder: size is a word": (
        ours(lambda p: load_encoder(p, "autoencoder"), kind="autoencoder", img_size="64"),
        r"a\.safetensors: not the weights",
    ),
    "encoder: weights missing": (
        ours(
            lambda p: load_encoder(p, "autoencoder"), kind="autoencoder", img_size=32, trained_on=""
        ),
        r"a\.safetensors: not the weights of this autoencoder.*run 01_encode",
    ),
    "psp: not there": (
        lambda f: lambda: load_encoder(f / "p.pt", "psp"),
        r"p\.pt: no such checkpoint; place psp_ffhq",
    ),
    "psp: empty": (
        bytes_of("p.pt", lambda p: load_encoder(p, "psp"), b""),
        r"p\.pt: (cannot be read|refused)",
    ),
    "psp: keys are numbers": (
        published(state_dict={7: torch.zeros(1)}),
        r"e\.pt: .*; place psp_ffhq",
    ),
    "psp: weights are text": (
        published(state_dict={"encoder.x": "y"}),
        r"e\.pt: expected only encoder",
    ),
    "psp: kind is a list": (published(opts={"encoder_type": ["x"]}), r"e\.pt: .*; place psp_ffhq"),
    "psp: huge size": (published(opts={"output_size": 2**40}), r"e\.pt: .*; place psp_ffhq"),
    "psp: negative size": (published(opts={"output_size": -1}), r"e\.pt: .*; place psp_ffhq"),
    "psp: no weights": (
        published(),
        r"e\.pt: its weights are not those of psp.*Missing key.*place psp_ffhq",
    ),
    "e4e: a text file": (
        bytes_of("e.pt", lambda p: load_encoder(p, "e4e"), "hello"),
        r"e\.pt: .*; (place|download)",
    ),
    "student: a trained model": (
        ours(load_student, approach="x"),
        "expected a person segmenter",
    ),
    "student: without options": (
        ours(load_student, kind="segmenter"),
        r"a\.safetensors: not the weights.*run 03_distill",
    ),
    "student: unknown encoder": (
        ours(load_student, kind="segmenter", options={"encoder": "x"}),
        r"a\.safetensors: .*encoder: .*has no 'x'",
    ),
    "student: an encoder of the network": (
        ours(load_student, kind="segmenter", options={"encoder": "tu-hf-hub:a/b"}),
        r"a\.safetensors: .*encoder: .*has no",
    ),
    "teacher: a tensor": (teacher(torch.zeros(1)), r"t\.pth: expected a dict with `state_dict`"),
    "teacher: keys are numbers": (
        teacher({"state_dict": {1: 2}}),
        r"t\.pth: expected a dict with `state_dict`",
    ),
    "teacher: no weights": (
        teacher({"state_dict": {}}),
        r"t\.pth: not the weights of a U-Net with resnet18.*name the enc",
    ),
    "detector: not there": (
        lambda f: lambda: OnnxFeatures(f / "d.onnx", "y", CPU),
        r"d\.onnx: no detector there; place",
    ),
    "detector: no ONNX": (
        bytes_of("d.onnx", lambda p: OnnxFeatures(p, "y", CPU)),
        r"d\.onnx: cannot be read as ONNX",
    ),
    "detector: empty": (
        bytes_of("d.onnx", lambda p: OnnxFeatures(p, "y", CPU), b""),
        r"d\.onnx: .*; |d\.onnx: expected a",
    ),
    "detector: no such tensor": (detector("z"), r"tensor: .*d\.onnx has no 'z'"),
    "detector: two inputs": (
        detector(inputs=2),
        r"d\.onnx: expected a graph with one input, images, got x0, x1",
    ),
    "detector: unknown operator": (
        detector(kind="Magic"),
        r"d\.onnx: cannot be (run|read) as ONNX.*download it again",
    ),
    "detector: no images": (
        detector(shape=(3,)),
        r"d\.onnx: expected images",
    ),
    "detector: weights out of its folder": (
        onnx_with_weights_elsewhere,
        r"d\.onnx: cannot be read as ONNX",
    ),
    "timm: unknown model": (
        call(create_model, "image", model_name="vit_x", pretrained="none"),
        "model_name: timm has no 'vit_x'",
    ),
    "timm: unknown weights": (
        call(create_model, "image", pretrained="imagnet"),
        "pretrained: expected imagenet",
    ),
    "timm: no such file": (
        call(create_model, "image", pretrained="no/such.pth"),
        r"pretrained: no file .*such\.pth",
    ),
    "run: not there": (
        lambda f: lambda: load_predictor(f / "e" / "train" / "v"),
        "no such checkpoint; run the notebook",
    ),
    "page: a list": (
        bytes_of("x.ipynb", lambda p: report.write_page(p, p.with_name("x.html")), "[]"),
        r"x\.ipynb: exp",
    ),
    "page: cells are text": (
        bytes_of(
            "x.ipynb",
            lambda p: report.write_page(p, p.with_name("x.html")),
            '{"nbformat": 4, "cells": "x"}',
        ),
        r"x\.ipynb: expected a Jupyter notebook",
    ),
    "page: nested too deeply": (
        bytes_of("x.ipynb", lambda p: report.write_page(p, p.with_name("x.html")), DEEP),
        r"x\.ipynb: expected a Jupyter",
    ),
    # sweeps
    "sweep: not there": (
        lambda f: lambda: read_sweep(f / "s.yaml"),
        r"s\.yaml: no such file; give a sweep",
    ),
    "sweep: empty": (sweep(""), r"sweep\.yaml: a sweep: expected `key: value`, got None"),
    "sweep: not UTF-8": (sweep(b"\xff\xfe\0"), r"sweep\.yaml: expected YAML"),
    "sweep: no YAML": (sweep("a: [1"), r"sweep\.yaml: expected YAML, but it does not parse"),
    "sweep: lists nested too deeply": (
        sweep("[" * 3000),
        r"sweep\.yaml: expected YAML.*at most 100 lists and maps deep",
    ),
    "sweep: maps nested too deeply": (
        sweep("".join(f"{' ' * n}a:\n" for n in range(500))),
        r"sweep\.yaml: expected YAML.*at most 100 lists and maps deep",
    ),
    "sweep: a billion laughs": (sweep(LAUGHS), r"sweep\.yaml: expected YAML.*alias \*a"),
    "sweep: Python in YAML": (
        sweep("!!python/object/apply:os.getcwd []"),
        r"sweep\.yaml: expected YAML",
    ),
    "sweep: name is a number": (sweep(name=7), r"sweep\.yaml: name: expected letters"),
    "sweep: name leads elsewhere": (sweep(name="../up"), r"sweep\.yaml: name: expected letters"),
    "sweep: distribution is a list": (
        sweep(parameters={"lr": {"distribution": ["x"]}}),
        "distribution: expected one of",
    ),
    "sweep: range without end": (
        sweep(parameters={"lr": {"min": 0.0, "max": float("inf")}}),
        "lr: expected finite numb",
    ),
    "sweep: range of no number": (
        sweep(parameters={"lr": {"min": float("nan"), "max": 1.0}}),
        "lr: expected finite numb",
    ),
    "sweep: logarithm too large": (
        sweep(parameters={"lr": {"distribution": "log_uniform", "min": 0, "max": 10**4}}),
        "lr.max: expected the logarithm",
    ),
    "sweep: grid without end": (
        sweep(method="grid", parameters={"depth": {"min": 1, "max": 10**12}}),
        "method: expected a grid of at most 100,000",
    ),
    "sweep: hyperband without end": (
        sweep(early_terminate={"type": "hyperband", "max_iter": 9, "s": 10**9}),
        "early_terminate.s: expected a whole",
    ),
    "sweep: epochs are a word": (
        sweep(
            parameters={"lr": {"min": 0.1, "max": 0.5}, "epochs": {"value": "ten"}},
            early_terminate={"type": "hyperband", "min_iter": 1},
        ),
        "parameters.epochs: expected int, got 'ten'",
    ),
    "sweep: parameter of no name": (
        sweep(parameters={7: {"values": [1, 2]}}),
        "parameters.7: .*no such parameter",
    ),
    # parameters of models and fits
    "model: no classes": (
        call(create_model, "scratch", 0),
        "num_classes: ",
    ),
    "model: half a block": (
        call(create_model, "scratch", depth=1.5),
        "depth: ",
    ),
    "model: no heads": (
        call(create_model, "scratch", num_heads=0),
        "num_heads: ",
    ),
    "model: negative width": (
        call(create_model, "latent_cnn", embed_dim=-4),
        "embed_dim: ",
    ),
    "model: drops everything": (
        call(create_model, "scratch", drop_rate=1.0),
        "drop_rate: ",
    ),
    "model: attends to nothing": (
        call(create_model, "scratch", attn_drop_rate=-0.1),
        "attn_drop_rate: ",
    ),
    "model: MLP of no width": (
        call(create_model, "scratch", mlp_ratio=0.0),
        "mlp_ratio: ",
    ),
    "model: negative adapter": (
        call(create_model, "scratch", adapter_dim=-1),
        "adapter_dim: ",
    ),
    "model: unknown position": (
        call(create_model, "scratch", position="x"),
        "position: expected one of learned",
    ),
    "strategy: typing error": (
        call(get_strategy, "ful"),
        "strategy: expected one of full, adapter",
    ),
    "learner: precision": (learner(precision="half"), "precision: expected one of auto"),
    "learner: smoothing all away": (
        learner(label_smoothing=1.0),
        r"label_smoothing: expected a share in \[0, 1\)",
    ),
    "learner: negative mixup": (learner(mixup=-0.2), "mixup: expected a number of 0 or more"),
    "learner: decay of no number": (
        learner(weight_decay=float("nan")),
        "weight_decay: expected a number of 0 or more",
    ),
    "learner: negative clipping": (
        learner(grad_clip=-1.0),
        "grad_clip: expected a number of 0 or more",
    ),
    "fit: no epochs": (fitted(epochs=0), "epochs: expected at least 1, got 0"),
    "fit: negative rate": (fitted(lr=-1e-3), "lr: expected a rate above 0"),
    "fit: rate of no number": (fitted(lr=float("nan")), "lr: expected a rate above 0"),
    "fit: negative patience": (fitted(patience=-1), "patience: expected epochs"),
    "fit: schedule": (fitted(schedule="stairs"), "schedule: expected one of one_cycle"),
    "fit: warmup": (fitted(schedule="cosine", warmup=1.0), "warmup: expected a share"),
    "device: typing error": (call(runtime.get_device, "gpu"), "device: expected auto, cpu, cuda"),
    "seed: negative": (call(runtime.seed_everything, -1), "seed: expected an integer"),
    "seed: a fraction": (call(runtime.seed_everything, 1.5), "seed: expected an integer"),
    "segmenter: decoder": (
        call(build_segmenter, "resnet18", "wide"),
        "decoder: expected one of full, slim",
    ),
    "distill: other shapes": (
        call(binary_kl, torch.zeros(1, 1), torch.zeros(1, 2), 1.0),
        "expected the student's shape",
    ),
    "distill: temperature schedule": (
        call(temperature_at, 0.0, 3.0, 1.0, "stairs"),
        "temperature_schedule: expected",
    ),
    "distill: side of 40": (
        lambda f: (
            draw_toy_people(f, 20, 16)
            and (lambda: people_dls(f, size=40, batch_size=2, device=CPU))
        ),
        "image_size: expected a multiple of 32",
    ),
    "explain: maps of other shapes": (
        call(linear_cka, torch.zeros(3, 2), torch.zeros(3, 2)),
        "at least 4, got 3",
    ),
    "explain: no maps": (call(attention_rollout, []), "maps: expected"),
    "audit: no sets": (call(audit_faces, {}), "datasets: expected sets"),
    "crop: one eye": (
        call(ffhq_crop, Image.new("L", (9, 9)), np.zeros((1, 2))),
        r"landmarks: expected finite .*\(68, 2\)",
    ),
    "toy: too few faces": (
        lambda f: lambda: draw_toy_faces(f / "t", 3),
        "num_faces: expected at least 28",
    ),
    "toy: folder of photographs": (
        lambda f: faces_folder(f) and (lambda: draw_toy_faces(f, 28)),
        "choose another folder",
    ),
    # names of runs
    "run name: leads elsewhere": (run_named(variant="../../b"), "variant: expected letters"),
    "run name: a number": (run_named(experiment=7), "experiment: expected letters"),
    "run name: with a newline": (run_named(variant="a\n"), "variant: expected letters"),
    "run name: longer than a file system takes": (
        run_named(variant="a" * 300),
        "variant: expected letters.*at most 200",
    ),
    "run name: HTML": (run_named(step="<b>"), "step: expected letters"),
}


@pytest.mark.parametrize(("make", "message"), ROWS.values(), ids=ROWS)
def test_bad_input_is_one_error_and_leaves_the_disk(
    tmp_path: Path, make: Callable[[Path], Call], message: str
) -> None:
    bad = make(tmp_path)
    before = listing(tmp_path)
    with pytest.raises((ValueError, OSError), match=message) as failure:
        bad()
    said = str(failure.value)
    assert not isinstance(failure.value, OSError) or failure.value.errno is None, (
        "the system's error, and not ours"
    )
    assert "expected" in said or ";" in said or "cannot be read" in said, "what to do about it"
    assert len(said) < 1000
    assert listing(tmp_path) == before


def test_the_same_files_load_when_they_are_whole(tmp_path: Path) -> None:
    """Or every row above could fail for the wrong reason."""
    assert len(load_faces(faces_folder(tmp_path / "faces"), "train")) == 4
    assert len(load_people(write_coco(tmp_path / "coco"), "test")) == 8
    assert len(LatentStore.open(write_store(tmp_path / "store"), "val")) == 2
    assert len(dls_of(tmp_path / "dls")().train.targets) == 2
    assert OnnxFeatures(write_onnx(tmp_path / "d.onnx"), "y", CPU)(
        torch.zeros(1, 3, 8, 8)
    ).shape == (1, 3, 8, 8)
    pt(code())(tmp_path)
    model = create_model("scratch", 2, **SMALL)
    save_model(
        tmp_path / "m.safetensors", model, approach="scratch", classes=["a", "b"], options=SMALL
    )
    assert load_model(tmp_path / "m.safetensors")[1] == ("a", "b")
    save_autoencoder(tmp_path / "a.safetensors", Autoencoder(32), "x")
    assert load_encoder(tmp_path / "a.safetensors", "autoencoder").img_size == 32
    assert sweep()(tmp_path)().name == "tiny"
