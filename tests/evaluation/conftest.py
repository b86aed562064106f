"""Finished training runs, and toy faces with the codes of an untrained encoder."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch

from fervit_lib import runs
from fervit_lib.datasets import Protocol, draw_toy_faces, load_faces, load_splits
from fervit_lib.encoders import Autoencoder, encode_faces, load_encoder
from fervit_lib.encoders.autoencoder import save_autoencoder
from fervit_lib.latents import complete_store, store_identity
from fervit_lib.models import create_model, save_model

OPTIONS = {
    "scratch": {"embed_dim": 32, "depth": 1, "num_heads": 2},
    "image": {"model_name": "resnet18", "pretrained": "none", "image_size": 32},
}
NUMBERS = {
    "total_parameters": 10,
    "trainable_parameters": 5,
    "epochs": 2,
    "train_seconds": 3.0,
    "peak_memory_gb": 1.0,
    "val_macro_f1": 0.5,
}


class Toy(NamedTuple):
    reports: Path
    store: Path
    source: Path
    classes: tuple[str, ...]


@pytest.fixture(scope="session")
def finish_run() -> Callable[..., runs.Run]:
    """Write a finished training run of an untrained model."""

    def finish(
        reports: Path,
        store: Path,
        variant: str = "scratch-full-seed0",
        classes: tuple[str, ...] = ("angry", "happy", "sad"),
        seed: int = 0,
    ) -> runs.Run:
        parameters = {"latents": str(store), "data_fraction": 1.0, "shots": 0}
        parameters |= {"data_seed": 0, "epoch_faces": 0}
        codes = store_identity(store) if store.is_dir() else None
        run = runs.start_run(
            reports,
            "tiny",
            "train",
            variant,
            parameters=parameters,
            seed=seed,
            device="cpu",
            codes=codes,
        )
        approach = variant.split("-")[0]
        options = OPTIONS[approach]
        model = create_model(approach, len(classes), **options)
        save_model(run.best_checkpoint, model, classes=classes, codes=codes)
        epochs = pd.DataFrame({"epoch": [0, 1], "seconds": [1.0, 2.0]})
        epochs.to_csv(run.folder / "metrics.csv", index=False)
        run.write_result(approach=approach, strategy="full", seed=seed, train_faces=96, **NUMBERS)
        return run

    return finish


@pytest.fixture(scope="session")
def encode_toy() -> Callable[..., Path]:
    """Encode faces by a checkpoint of the autoencoder, as 01_encode does."""

    def encode(
        store: Path, source: Path, checkpoint: Path, protocol: Protocol | None = None
    ) -> Path:
        protocol = protocol or Protocol()
        encoder = load_encoder(checkpoint, "autoencoder")
        sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        sets = load_splits(source, protocol)
        for split, faces in sets.items():
            encode_faces(encoder, sha256, faces, store, split, device=torch.device("cpu"))
        complete_store(
            store,
            {split: len(faces) for split, faces in sets.items()},
            classes=faces.classes,
            encoder="autoencoder",
            faces=source,
            synthetic=True,
            made_by={
                "checkpoint": str(checkpoint),
                "sha256": sha256,
                "landmarks": "none",
                "encoding": sha256,
            },
            protocol=vars(protocol),
        )
        return store

    return encode


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, encode_toy: Callable[..., Path]) -> Toy:
    """140 toy faces, and their codes by an untrained encoder of a finished run of 01_encode."""
    folder = tmp_path_factory.mktemp("toy")
    source = draw_toy_faces(folder / "faces", 140, size=32)
    run = runs.start_run(
        folder / "reports", "tiny", "encode", "autoencoder", parameters={}, seed=0, device="cpu"
    )
    torch.manual_seed(0)
    save_autoencoder(run.best_checkpoint, Autoencoder(32), "toy")
    store = encode_toy(folder / "store", source, run.best_checkpoint)
    run.write_result(latents=str(store), encoder="autoencoder")
    return Toy(folder / "reports", store, source, load_faces(source, "test").classes)
