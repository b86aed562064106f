"""Bad input: one error that names the file or argument, and nothing is written.

Arguments and files that the tests of one module cover are not repeated here.
"""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from PIL import Image

from fervit_lib.datasets import (
    audit_faces,
    draw_toy_faces,
    ffhq_crop,
    load_faces,
    load_people,
)
from fervit_lib.distillation import OnnxFeatures
from fervit_lib.encoders import load_encoder
from fervit_lib.encoders.autoencoder import Autoencoder, save_autoencoder
from fervit_lib.encoders.published import load_style_encoder
from fervit_lib.evaluation.predict import load_predictor
from fervit_lib.explain import attention_rollout
from fervit_lib.models import create_model, load_model, save_model
from fervit_lib.models.segmentation import load_student, load_teacher
from fervit_lib.report.page import write_page
from fervit_lib.sweep.config import read_sweep
from fervit_lib.system.checkpoints import save_checkpoint
from fervit_lib.training import STRATEGIES, fit

CPU = torch.device("cpu")
SMALL = {"embed_dim": 8, "depth": 1, "num_heads": 2, "latent_dim": 4, "num_tokens": 3}
DEEP_JSON = "[" * 100_000


@contextmanager
def is_refused(folder: Path, *names: str) -> Iterator[None]:
    """The block raises one error that names all of `names`, with a remedy, and writes nothing."""
    before = contents(folder)
    with pytest.raises((ValueError, OSError)) as failure:
        yield
    message = str(failure.value)
    for name in names:
        assert name in message
    assert not isinstance(failure.value, OSError) or failure.value.errno is None, "not explained"
    assert any(word in message for word in ("expected", ";", "cannot be read")), "no remedy"
    assert len(message) < 1000
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Every file below `folder` with its content, every folder with None."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def write(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Faces

HEADER = "emotion,pixels,Usage\n"
ROW = "0," + " ".join(["7"] * 2304) + ",Training\n"
VOTES = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
)


def write_faces(folder: Path, names: tuple[str, ...] = ("happy", "sad")) -> Path:
    for split in ("train", "val", "test"):
        for name in names:
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (8, 8), number).save(folder / split / name / f"fer{number:07d}.png")
    return folder


def test_folders_that_are_not_faces(tmp_path: Path) -> None:
    with is_refused(tmp_path, "no folder 'train'"):
        load_faces(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with is_refused(tmp_path, "train", "no class folders"):
        load_faces(tmp_path, "train")
    write_faces(tmp_path / "faces")
    with is_refused(tmp_path, "split"):
        load_faces(tmp_path / "faces", "private_test")
    with is_refused(tmp_path, "faces", "another folder"):
        draw_toy_faces(tmp_path / "faces", 28)


@pytest.mark.parametrize("content", ["", "hello"])
def test_a_face_that_is_not_an_image(tmp_path: Path, content: str) -> None:
    write_faces(tmp_path)
    write(tmp_path / "train" / "happy" / "fer0000000.png", content)
    with is_refused(tmp_path, "train/happy/fer0000000.png"):
        load_faces(tmp_path, "train")[0]


def pack_with_password() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("fer2013.csv", HEADER + ROW)
    data = bytearray(buffer.getvalue())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1  # the flag "this member has a password"
    return bytes(data)


def pack_nothing() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    return buffer.getvalue()


TABLES: dict[str, tuple[str, str | bytes]] = {
    "header only": ("fer2013.csv", HEADER),
    "binary": ("fer2013.csv", b"\x89PNG\xff\xfe" * 50),
    "UTF-16": ("fer2013.csv", (HEADER + ROW).encode("utf-16")),
    "zero bytes": ("fer2013.csv", b"\0" * 5000),
    "open quote": ("fer2013.csv", HEADER + '0,"' + "7 " * 2304),
    "not a tar": ("fer2013.tar", "x"),
    "truncated tar.gz": ("fer2013.tar.gz", gzip.compress(b"\0" * 999)[:-9]),
    "tar without a table": ("fer2013.tar.gz", pack_nothing()),
    "zip with a password": ("fer2013.zip", pack_with_password()),
}


@pytest.mark.parametrize(("name", "content"), TABLES.values(), ids=TABLES)
def test_a_table_that_is_not_one(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = write(tmp_path / name, content)
    with is_refused(tmp_path, name):
        load_faces(path, "train")


@pytest.mark.parametrize(
    "row",
    [ROW.replace("7", pixel, 1) for pixel in ("9" * 40, "-7", "7.5")]
    + [ROW.replace("0", "sad", 1)],
    ids=["huge pixel", "negative pixel", "fraction", "emotion as a word"],
)
def test_a_row_of_a_table(tmp_path: Path, row: str) -> None:
    path = write(tmp_path / "fer2013.csv", HEADER + row)
    with is_refused(tmp_path, "fer2013.csv", "row 2"):
        load_faces(path, "train")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("", "no row"),
        (VOTES + "1,2\n" + "1," * 40 + "\n", "row 2"),
        (VOTES + "Training,x,1,many,0,0,0,0,0,0,0,0\n", "row 2: happiness"),
        (VOTES + "Training,x,1,-3,0,0,0,0,0,0,0,0\n", "row 2: happiness"),
        (VOTES + "Training,x,1,,0,0,0,0,0,0,0,0\n", "row 2: happiness"),
    ],
    ids=["empty", "ragged", "word", "negative", "missing"],
)
def test_votes(tmp_path: Path, content: str, place: str) -> None:
    names = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    write_faces(tmp_path, names)
    write(tmp_path / "fer2013new.csv", content)
    with is_refused(tmp_path, "fer2013new.csv", place):
        load_faces(tmp_path, "train", "majority")


# People


@pytest.mark.parametrize(("kind", "content"), [("images", ""), ("masks", "x")])
def test_a_person_that_is_not_an_image(tmp_path: Path, kind: str, content: str) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "test" / folder).mkdir(parents=True)
        Image.new("L", (8, 8), 255).save(tmp_path / "test" / folder / "a.png")
    write(tmp_path / "test" / kind / "a.png", content)
    with is_refused(tmp_path, f"{kind}/a.png"):
        load_people(tmp_path, "test")[0]


def test_folders_that_are_not_people(tmp_path: Path) -> None:
    with is_refused(tmp_path, "test/images"):
        load_people(tmp_path, "test")
    (tmp_path / "test" / "images").mkdir(parents=True)
    with is_refused(tmp_path, "test/images"):
        load_people(tmp_path, "test")
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    with is_refused(tmp_path, "coco"):
        load_people(tmp_path / "coco", "test")


def write_coco(
    folder: Path, name: Any = "0.jpg", size: Any = (20, 10), shape: Any = None, **changes: Any
) -> Path:
    (folder / "val2017").mkdir(parents=True)
    names = [f"{number}.jpg" for number in range(8)]
    for file in names:
        Image.new("RGB", (20, 10)).save(folder / "val2017" / file)
    images = [
        {"id": i, "file_name": file, "width": 20, "height": 10} for i, file in enumerate(names)
    ]
    images[0] |= {"file_name": name, "width": size[0], "height": size[1]}
    polygon = [[4, 2, 12, 2, 12, 8, 4, 8]]
    shapes = [polygon] * 8
    if shape is not None:
        shapes[0] = shape
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": s} for i, s in enumerate(shapes)
    ]
    categories = [{"id": 1, "name": "person"}]
    content = {"images": images, "categories": categories, "annotations": annotations} | changes
    write(folder / "annotations" / "instances_val2017.json", json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "content", ["", "[1, 2]", "7", DEEP_JSON], ids=["empty", "list", "int", "deep"]
)
def test_coco_that_is_not_a_json_object(tmp_path: Path, content: str) -> None:
    write(tmp_path / "annotations" / "instances_val2017.json", content)
    with is_refused(tmp_path, "instances_val2017.json"):
        load_people(tmp_path, "test")


COCO: dict[str, tuple[str, dict[str, Any]]] = {
    "no images": ("instances_val2017.json", {"images": []}),
    "category without a name": ("instances_val2017.json", {"categories": [{"id": 1}]}),
    "category that is a number": ("instances_val2017.json", {"categories": [7]}),
    "annotation of no image": (
        "instances_val2017.json",
        {"annotations": [{"image_id": 99, "category_id": 1}]},
    ),
    "file name that is a number": ("instances_val2017.json", {"name": 7}),
    "file name outside the folder": ("file_name", {"name": "../../x.jpg"}),
    "absolute file name": ("file_name", {"name": "/etc/passwd"}),
    "NUL in a file name": ("file_name", {"name": "a\0.jpg"}),
    "missing image": ("gone.jpg", {"name": "gone.jpg"}),
    "negative size": ("width, height", {"size": (-20, 10)}),
    "size as text": ("width, height", {"size": ("20", 10)}),
    "size that fills the memory": ("width, height", {"size": (10**6, 10**6)}),
    "polygon of words": ("annotation 0", {"shape": [["a"] * 6]}),
    "polygon of odd length": ("annotation 0", {"shape": [[1, 2, 3, 4, 5, 6, 7]]}),
    "polygon that is a number": ("annotation 0", {"shape": 7}),
    "runs of another size": (
        "annotation 0",
        {"shape": {"size": [10**6, 10**6], "counts": [10**12]}},
    ),
    "negative runs": ("0.jpg", {"shape": {"size": [10, 20], "counts": [-5, 205]}}),
    "runs that are not ASCII": ("annotation 0", {"shape": {"size": [10, 20], "counts": "ü"}}),
}


@pytest.mark.parametrize(("name", "changes"), COCO.values(), ids=COCO)
def test_coco(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    write_coco(tmp_path, **changes)
    with is_refused(tmp_path, name):
        people = load_people(tmp_path, "test")
        [people[i] for i in range(8)]


# Checkpoints


def load_autoencoder(path: Path) -> Any:
    return load_encoder(path, "autoencoder")


SCRATCH = {"approach": "scratch", "classes": ["a"]}
SEGMENTER = {"kind": "segmenter"}
CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str, dict[str, Any]]] = {
    "model without classes": (load_model, "classes", {"approach": "scratch", "options": {}}),
    "model of an unknown approach": (
        load_model,
        "approach",
        {"approach": "x", "classes": ["a"], "options": {}},
    ),
    "model of a wrong type": (
        load_model,
        "embed_dim",
        SCRATCH | {"options": {"embed_dim": "wide"}},
    ),
    "model of an unknown option": (load_model, "layers", SCRATCH | {"options": {"layers": 3}}),
    "model of other weights": (load_model, "Missing key", SCRATCH | {"options": SMALL}),
    "encoder without a size": (load_autoencoder, "img_size", {"kind": "autoencoder"}),
    "encoder of a wrong type": (
        load_autoencoder,
        "a.safetensors",
        {"kind": "autoencoder", "img_size": "64"},
    ),
    "encoder of other weights": (
        load_autoencoder,
        "Missing key",
        {"kind": "autoencoder", "img_size": 32, "fingerprint": ""},
    ),
    "segmenter of another kind": (load_student, "person segmenter", {"approach": "x"}),
    "segmenter without options": (load_student, "a.safetensors", SEGMENTER),
    "segmenter of an unknown encoder": (
        load_student,
        "encoder",
        SEGMENTER | {"options": {"encoder": "x"}},
    ),
    "segmenter from the network": (
        load_student,
        "encoder",
        SEGMENTER | {"options": {"encoder": "tu-hf-hub:a/b"}},
    ),
}


@pytest.mark.parametrize(("load", "name", "metadata"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints(
    tmp_path: Path, load: Callable[[Path], Any], name: str, metadata: dict[str, Any]
) -> None:
    save_checkpoint(tmp_path / "a.safetensors", {"w": torch.zeros(2)}, metadata)
    with is_refused(tmp_path, "a.safetensors", name):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"state_dict": {7: torch.zeros(1)}},
        {"state_dict": {"encoder.x": "y"}},
        {"opts": {"encoder_type": ["x"]}},
        {"opts": {"output_size": 2**40}},
        {"opts": {"output_size": -1}},
        {},
    ],
    ids=["numbers as keys", "text as weights", "list as type", "huge", "negative", "no weights"],
)
def test_published_encoders(tmp_path: Path, changes: dict[str, Any]) -> None:
    content = {"state_dict": {}, "latent_avg": torch.zeros(18, 4), "opts": {}} | changes
    torch.save(content, tmp_path / "e.pt")
    stages = ((4, 1), (4, 1), (4, 1), (4, 1))
    with is_refused(tmp_path, "e.pt"):
        load_style_encoder(tmp_path / "e.pt", "psp", stages)


@pytest.mark.parametrize("content", [torch.zeros(1), {"state_dict": {1: 2}}])
def test_teachers(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "t.pth")
    with is_refused(tmp_path, "t.pth", "state_dict"):
        load_teacher(tmp_path / "t.pth", "resnet18", "slim")


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    with is_refused(tmp_path, "e/train/v"):
        load_predictor(tmp_path / "e" / "train" / "v")


# Detectors


def write_onnx(
    path: Path, operator: str = "Relu", shape: tuple = (1, 3, 8, 8), num_inputs: int = 1
) -> Path:
    inputs = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(num_inputs)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(operator, ["x0"], ["y"])], "g", inputs, [output])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize(
    "changes",
    [{"num_inputs": 2}, {"operator": "Magic"}, {"shape": (3,)}],
    ids=["two inputs", "unknown operator", "no images"],
)
def test_detectors(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_onnx(tmp_path / "d.onnx", **changes)
    with is_refused(tmp_path, "d.onnx"):
        OnnxFeatures(tmp_path / "d.onnx", "y", CPU)


def test_a_detector_of_zero_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "d.onnx")
    with is_refused(tmp_path, "d.onnx"):
        OnnxFeatures(path, "y", CPU)


def test_a_detector_with_weights_outside_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "secret.bin", b"\0" * 16)
    (tmp_path / "inner").mkdir()
    path = write_onnx(tmp_path / "inner" / "d.onnx")
    model = onnx.load(path)
    weight = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    weight.external_data.add(key="location", value="../secret.bin")
    model.graph.initializer.append(weight)
    path.write_bytes(model.SerializeToString())
    with is_refused(tmp_path, "d.onnx"):
        OnnxFeatures(path, "y", CPU)


# Results


@pytest.mark.parametrize("content", ["[]", '{"nbformat": 4, "cells": "x"}', DEEP_JSON])
def test_notebooks(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "x.ipynb", content)
    with is_refused(tmp_path, "x.ipynb"):
        write_page(path, tmp_path / "x.html")


# Sweeps

SWEEP = {
    "name": "tiny",
    "method": "random",
    "metric": {"name": "macro_f1", "goal": "maximize"},
    "parameters": {"lr": {"min": 0.1, "max": 0.5}},
    "run_cap": 6,
}
BILLION_LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
YAML_FILES: dict[str, str | bytes] = {
    "empty": "",
    "not UTF-8": b"\xff\xfe\0",
    "does not parse": "a: [1",
    "deep lists": "[" * 3000,
    "deep maps": "".join(f"{' ' * n}a:\n" for n in range(500)),
    "billion laughs": BILLION_LAUGHS,
    "Python": "!!python/object/apply:os.getcwd []",
}


@pytest.mark.parametrize("content", YAML_FILES.values(), ids=YAML_FILES)
def test_yaml(tmp_path: Path, content: str | bytes) -> None:
    path = write(tmp_path / "sweep.yaml", content)
    with is_refused(tmp_path, "sweep.yaml"):
        read_sweep(path)


def test_a_sweep_that_is_missing(tmp_path: Path) -> None:
    with is_refused(tmp_path, "sweep.yaml"):
        read_sweep(tmp_path / "sweep.yaml")


SWEEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "name is a number": ("name", {"name": 7}),
    "distribution is a list": ("distribution", {"parameters": {"lr": {"distribution": ["x"]}}}),
    "infinite range": ("lr", {"parameters": {"lr": {"min": 0.0, "max": float("inf")}}}),
    "range of NaN": ("lr", {"parameters": {"lr": {"min": float("nan"), "max": 1.0}}}),
    "exponent too large": (
        "parameters.lr",
        {"parameters": {"lr": {"distribution": "log_uniform", "min": 0, "max": 10**4}}},
    ),
    "grid too large": (
        "method",
        {"method": "grid", "parameters": {"depth": {"min": 1, "max": 10**12}}},
    ),
    "hyperband too large": (
        "early_terminate.s",
        {"early_terminate": {"type": "hyperband", "max_iter": 9, "s": 10**9}},
    ),
    "epochs are a word": (
        "parameters.epochs",
        {
            "parameters": {"lr": {"min": 0.1, "max": 0.5}, "epochs": {"value": "ten"}},
            "early_terminate": {"type": "hyperband", "min_iter": 1},
        },
    ),
    "parameter without a name": ("parameters.7", {"parameters": {7: {"values": [1, 2]}}}),
}


@pytest.mark.parametrize(("name", "changes"), SWEEPS.values(), ids=SWEEPS)
def test_sweeps(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    path = write(tmp_path / "sweep.yaml", yaml.safe_dump(SWEEP | changes))
    with is_refused(tmp_path, "sweep.yaml", name):
        read_sweep(path)


# Arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_classes", 0),
        ("depth", 1.5),
        ("num_heads", 0),
        ("embed_dim", -4),
        ("drop_rate", 1.0),
        ("attn_drop_rate", -0.1),
        ("mlp_ratio", 0.0),
        ("adapter_dim", -1),
        ("position", "x"),
    ],
)
def test_arguments_of_a_model(tmp_path: Path, argument: str, value: Any) -> None:
    with is_refused(tmp_path, f"{argument}: expected"):
        create_model("scratch", **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"), [("lr", -1e-3), ("lr", float("nan")), ("patience", -1)]
)
def test_arguments_of_a_fit(tmp_path: Path, argument: str, value: Any) -> None:
    with is_refused(tmp_path, f"{argument}: expected"):
        fit(None, STRATEGIES["full"], **{"epochs": 1, argument: value})


def test_empty_arguments(tmp_path: Path) -> None:
    with is_refused(tmp_path, "maps: expected"):
        attention_rollout([])
    with is_refused(tmp_path, "datasets: expected"):
        audit_faces({})
    with is_refused(tmp_path, "landmarks: expected"):
        ffhq_crop(Image.new("L", (9, 9)), np.zeros((1, 2)))


def test_the_same_files_load_when_they_are_undamaged(tmp_path: Path) -> None:
    """Otherwise the tests above could pass for the wrong reason."""
    assert len(load_faces(write_faces(tmp_path / "faces"), "train")) == 4
    assert len(load_people(write_coco(tmp_path / "coco"), "test")) == 8
    features = OnnxFeatures(write_onnx(tmp_path / "d.onnx"), "y", CPU)
    assert features(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    model = create_model("scratch", 2, **SMALL)
    save_model(tmp_path / "m.safetensors", model, classes="ab")
    assert load_model(tmp_path / "m.safetensors")[1] == ("a", "b")
    save_autoencoder(tmp_path / "a.safetensors", Autoencoder(32), "x")
    assert load_autoencoder(tmp_path / "a.safetensors").img_size == 32
    path = write(tmp_path / "sweep.yaml", yaml.safe_dump(SWEEP))
    assert read_sweep(path).name == "tiny"
