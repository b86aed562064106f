"""Tables of an evaluation: which columns, under which headings, in which format."""

import pandas as pd
from pandas.io.formats.style import Styler

from fervit_lib.figures.tables import Column, style_table
from fervit_lib.figures.theme import MAX_CLASSES, require

_LATENCY = {
    "latency_p50_ms": ("latency p50 (ms)", "{:.2f}"),
    "latency_p95_ms": ("latency p95 (ms)", "{:.2f}"),
}
_INTERVAL = {"low": ("95% CI low", "{:.1%}"), "high": ("95% CI high", "{:.1%}")}
_ACCURACY = {
    "accuracy": ("accuracy", "{:.1%}"),
    "accuracy_low": ("95% CI low", "{:.1%}"),
    "accuracy_high": ("95% CI high", "{:.1%}"),
}
_MACRO_F1 = {
    "macro_f1": "macro-F1",
    "macro_f1_low": "95% CI low",
    "macro_f1_high": "95% CI high",
}
TABLES: dict[str, dict[str, Column]] = {  # name: {column: heading and format}
    "runs": {
        "variant": "run",
        **_ACCURACY,
        "balanced_accuracy": ("balanced accuracy", "{:.1%}"),
        **_MACRO_F1,
        "weighted_f1": "weighted F1",
        "roc_auc": "ROC-AUC",
        "interval_over": "interval over",
    },
    "cross": {
        "run": "run",
        "trained_on": "trained on",
        "tested_on": "tested on",
        **_ACCURACY,
        **_MACRO_F1,
        "num_classes": ("common classes", "{:.0f}"),
        "num_test": ("n (faces)", "{:,.0f}"),
        "other_classes": ("left out: of other classes", "{:,.0f}"),
        "seen": ("left out: seen in training", "{:,.0f}"),
        "reason": "not tested, because",
    },
    "seeds": {
        "recipe": "recipe",
        "seeds": "n (runs)",
        "accuracy": ("accuracy", "{:.1%}"),
        "accuracy_sd": ("± SD", "{:.1%}"),
        "balanced_accuracy": ("balanced accuracy", "{:.1%}"),
        "balanced_accuracy_sd": ("± SD", "{:.1%}"),
        "macro_f1": "macro-F1",
        "macro_f1_sd": "± SD",
    },
    "skipped": {"run": "run", "reason": "reason"},
    "mistakes": {
        "true": "true label",
        "predicted": "predicted label",
        "faces": "n (faces)",
        "share": ("share of the true class", "{:.0%}"),
    },
    "calibration": {
        "variant": "run",
        "temperature": ("temperature", "{:.2f}"),
        "ece": "ECE",
        "ece_calibrated": "ECE after",
        "nll": "NLL",
        "nll_calibrated": "NLL after",
        "brier": "Brier score",
        "brier_calibrated": "Brier score after",
    },
    "size": {
        "variant": "run",
        "total_parameters": "parameters",
        "trainable_parameters": "trained parameters",
        "macs": "MACs per face",
        "checkpoint_mb": ("checkpoint (MB)", "{:.1f}"),
        "train_seconds": ("training time (s)", "{:,.0f}"),
        "seconds_per_epoch": ("time per epoch (s)", "{:,.1f}"),
        "peak_memory_gb": ("peak training memory (GB)", "{:.1f}"),
    },
    "speed": {
        "variant": "run",
        "machine": "machine",
        "others_cpu": ("used by others (of a core)", "{:.0%}"),
        **_LATENCY,
        "throughput": ("throughput (faces/s)", "{:,.0f}"),
        "best_batch": "batch size",
        "whole_p50_ms": ("p50 from file to label (ms)", "{:.2f}"),
        "whole_p95_ms": ("p95 from file to label (ms)", "{:.2f}"),
        "whole_throughput": ("from file to label (faces/s)", "{:,.0f}"),
        "host_memory_gb": ("memory (GB)", "{:.2f}"),
        "gpu_memory_gb": ("GPU memory (GB)", "{:.2f}"),
        "joules_per_face": ("energy per face (J)", "{:.3g}"),
    },
    "augmentation": {
        "run": "run",
        "plain": ("unchanged", "{:.1%}"),
        "flip": ("with mirror image", "{:.1%}"),
        "ten_crop": ("ten crops", "{:.1%}"),
        "corrupted": ("mean under corruptions", "{:.1%}"),
    },
    "part": {
        "run": "run",
        "all": ("all test faces", "{:.1%}"),
        "part": ("without duplicates", "{:.1%}"),
        **_INTERVAL,
        "faces": "n (faces)",
    },
    "reconstruction": {
        "run": "run",
        "photographs": ("accuracy on photographs", "{:.1%}"),
        "reconstructions": ("on reconstructions", "{:.1%}"),
        "differ": ("read differently", "{:.1%}"),
        **_INTERVAL,
        "chance": ("differently by chance", "{:.1%}"),
        "faces": "n (faces)",
    },
    "votes": {
        "run": "run",
        "hard": ("accuracy, label of the set", "{:.1%}"),
        "majority": ("accuracy, majority of votes", "{:.1%}"),
        "shared": ("mean share of votes", "{:.1%}"),
        "faces": "n (faces)",
    },
    "onnx": {
        "what": "part",
        "file": "file",
        "mb": ("size (MB)", "{:.1f}"),
        "difference": ("largest difference", "{:.1e}"),
        "agrees": "within 1e-4",
        **_LATENCY,
        "reason": "not exported, because",
    },
}


def table_of(rows: pd.DataFrame, name: str) -> Styler:
    """One of `TABLES`, with a dash for a missing number. Columns without any value are left out."""
    require(name in TABLES, "name", f"one of {', '.join(TABLES)}", repr(name))
    return style_table(rows, TABLES[name])


def table_of_predictions(table: pd.DataFrame) -> Styler:
    """Predictions, one row per image: `emotion`, then values in [0, 1]; see `Predictor.predict`.

    Of many classes the most probable ones are shown.
    """
    highest = table.drop(columns="emotion").max().nlargest(1 + MAX_CLASSES).index
    table = table[[name for name in table if name in ("emotion", *highest)]]
    shares = list(table.columns.drop("emotion"))
    # Names of files and classes are arbitrary text, which pandas shows as HTML by default.
    styler = table.style.format("{:.1%}", subset=shares).format(subset=["emotion"], escape="html")
    return styler.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
