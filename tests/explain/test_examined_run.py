"""Choosing runs, loading them with faces, and their models before training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fervit_lib.evaluation import runs_to_compare
from fervit_lib.explain import (
    choose_runs,
    companion_runs,
    layer_position_embeddings,
    load_examined_run,
    load_initial_model,
)
from fervit_lib.latents import store_identity
from fervit_lib.models import create_model, save_model
from fervit_lib.runs import Run, start_run
from fervit_lib.system.checkpoints import save_checkpoint
from fervit_lib.system.runtime import seed_everything

CPU = torch.device("cpu")
SMALL = {"embed_dim": 32, "depth": 1}
MODELS = {
    "good": ("scratch", SMALL | {"num_heads": 2}, 0.9),
    "poor": ("scratch", SMALL | {"num_heads": 2, "position": "semantic"}, 0.2),
    "other": ("hybrid", {"pretrained": "none"}, 0.5),
    "cnn": ("latent_cnn", SMALL, 0.6),
}


def make_runs(reports: Path, store: Path, names: dict = MODELS) -> None:
    codes = store_identity(store)
    for name, (approach, options, score) in names.items():
        parameters = {"latents": str(store), "model_name": "any"} | options
        parameters |= {"data_fraction": 1.0, "shots": 0, "data_seed": 0, "epoch_faces": 0}
        run = start_run(reports, "tiny", "train", name, parameters=parameters, seed=5, device="cpu")
        seed_everything(5)
        model = create_model(approach, 3, **options)
        with torch.no_grad():
            model.head.bias += 1  # what training did
        save_model(run.best_checkpoint, model, classes=("angry", "happy", "sad"), codes=codes)
        numbers = {
            "total_parameters": 10,
            "trainable_parameters": 5,
            "train_seconds": 1.0,
            "epochs": 2,
            "peak_memory_gb": 1.0,
        }
        run.write_result(
            approach=approach,
            strategy="full",
            seed=5,
            train_faces=96,
            val_macro_f1=score,
            **numbers,
        )


@pytest.fixture
def reports(make_store: Callable, tmp_path: Path) -> Path:
    make_runs(tmp_path / "reports", make_store(tmp_path / "store"))
    return tmp_path / "reports"


def names_of(runs: list[Run]) -> list[str]:
    return [run.variant for run in runs]


def test_the_best_run_is_chosen_and_the_best_of_another_approach(reports: Path) -> None:
    comparison = runs_to_compare(reports, "tiny")
    assert names_of(choose_runs(comparison)) == ["good", "other"]
    assert names_of(choose_runs(comparison, "other")) == ["other", "good"]
    assert names_of(choose_runs(comparison, "good", "poor")) == ["good", "poor"]
    assert names_of(companion_runs(comparison)) == ["cnn"]


def test_runs_that_cannot_be_examined_are_refused(
    reports: Path, make_store: Callable, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="run_name.*cnn"):
        choose_runs(runs_to_compare(reports, "tiny"), "cnn")
    with pytest.raises(ValueError, match="other_name"):
        choose_runs(runs_to_compare(reports, "tiny"), "", "none")
    make_runs(tmp_path / "alone", tmp_path / "store", {"cnn": MODELS["cnn"]})
    with pytest.raises(ValueError, match="scratch or hybrid"):
        choose_runs(runs_to_compare(tmp_path / "alone", "tiny"))


def test_every_run_gets_the_same_faces_and_the_mean_training_code(reports: Path) -> None:
    good, cnn = (
        load_examined_run(Run(reports, "tiny", "train", name), 12, 0, CPU)
        for name in ("good", "cnn")
    )
    assert good.codes.shape == (12, 18, 512) and torch.equal(good.codes, cnn.codes)
    assert len(set(good.indices.tolist())) == 12
    assert [good.store.labels[i].item() for i in good.indices] == good.labels.tolist()
    train = torch.cat(
        [shard["codes"] for shard in type(good.store).open(good.store.folder, "train").shards]
    ).float()
    torch.testing.assert_close(good.mean_code, train.mean(0), atol=1e-3, rtol=0)
    assert good.predict(good.codes).shape == (12, 3)
    assert sorted(good.labels[good.examples()]) == [0, 1, 2]
    assert good.images([0]) == []  # the faces of this store do not exist
    assert not good.has_patch_tokens


def test_the_initial_model_has_the_weights_of_its_seed_or_its_pretraining(reports: Path) -> None:
    examined = load_examined_run(Run(reports, "tiny", "train", "good"), 12, 0, CPU)
    state, began = examined.model.state_dict(), load_initial_model(examined).state_dict()
    torch.testing.assert_close(began["head.bias"] + 1, state["head.bias"])
    assert torch.equal(
        began["transformer.blocks.0.attn.qkv.weight"], state["transformer.blocks.0.attn.qkv.weight"]
    )

    options = {"pretrained": "mae"}
    make_runs(reports, examined.store.folder, {"mae": ("hybrid", options, 0.1)})
    mae = load_examined_run(Run(reports, "tiny", "train", "mae"), 12, 0, CPU)
    pretrained = {
        f"encoder.{name}": torch.full_like(tensor, 0.25)
        for name, tensor in mae.model.state_dict().items()
    }
    file = mae.run.best_checkpoint.with_name("masked.safetensors")
    save_checkpoint(file, pretrained | {"mask_token": torch.zeros(1)}, {"kind": "masked"})
    assert all((tensor == 0.25).all() for tensor in load_initial_model(mae).state_dict().values())


def test_registers_are_refused(reports: Path) -> None:
    options = {"pretrained": "none", "model_name": "vit_small_patch14_reg4_dinov2"}
    make_runs(reports, reports.parent / "store", {"registers": ("hybrid", options, 0.1)})
    with pytest.raises(ValueError, match="got 4 more"):
        load_examined_run(Run(reports, "tiny", "train", "registers"), 12, 0, CPU)


def test_position_embeddings_of_layers_include_the_band(reports: Path) -> None:
    model = load_examined_run(Run(reports, "tiny", "train", "poor"), 3, 0, CPU).model
    assert layer_position_embeddings(model).shape == (18, 32)
    with torch.no_grad():
        model.tokens.pos_embed.zero_()
    torch.testing.assert_close(
        layer_position_embeddings(model), model.tokens.band_embed()[0].detach()
    )
