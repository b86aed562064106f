"""Tables of an evaluation as a reader wants them: which columns, under which names, in which format."""

import pandas as pd
from pandas.io.formats.style import Styler

from fervit_lib.figures.theme import require, require_columns

_RUN = {"variant": ("run", "{}")}
_BY_RUN = {"run": ("run", "{}")}
_LATENCIES = {"latency_p50_ms": ("latency p50, ms", "{:.2f}"), "latency_p95_ms": ("p95", "{:.2f}")}
TABLES = {  # name: {column: (heading, format)}
    "runs": _RUN
    | {
        "accuracy": ("accuracy", "{:.1%}"),
        "accuracy_low": ("95% from", "{:.1%}"),
        "accuracy_high": ("to", "{:.1%}"),
        "balanced_accuracy": ("balanced", "{:.1%}"),
        "macro_f1": ("macro-F1", "{:.3f}"),
        "macro_f1_low": ("95% from", "{:.3f}"),
        "macro_f1_high": ("to", "{:.3f}"),
        "weighted_f1": ("weighted F1", "{:.3f}"),
        "roc_auc": ("ROC-AUC", "{:.3f}"),
    },
    "seeds": {
        "recipe": ("recipe", "{}"),
        "seeds": ("runs", "{}"),
        "accuracy": ("accuracy", "{:.1%}"),
        "accuracy_sd": ("± sd", "{:.1%}"),
        "balanced_accuracy": ("balanced", "{:.1%}"),
        "balanced_accuracy_sd": ("± sd", "{:.1%}"),
        "macro_f1": ("macro-F1", "{:.3f}"),
        "macro_f1_sd": ("± sd", "{:.3f}"),
    },
    "skipped": {"run": ("run", "{}"), "reason": ("reason", "{}")},
    "mistakes": {
        "true": ("true", "{}"),
        "predicted": ("read as", "{}"),
        "faces": ("faces", "{}"),
        "share": ("of the class", "{:.0%}"),
    },
    "calibration": _RUN
    | {
        "temperature": ("temperature", "{:.2f}"),
        "ece": ("ECE", "{:.3f}"),
        "ece_calibrated": ("after", "{:.3f}"),
        "nll": ("NLL", "{:.3f}"),
        "nll_calibrated": ("after", "{:.3f}"),
        "brier": ("Brier", "{:.3f}"),
        "brier_calibrated": ("after", "{:.3f}"),
    },
    "size": _RUN
    | {
        "total_parameters": ("parameters", "{:,}"),
        "trainable_parameters": ("trained", "{:,}"),
        "macs": ("MACs a face", "{:,}"),
        "checkpoint_mb": ("checkpoint, MB", "{:.1f}"),
        "train_seconds": ("training, s", "{:,.0f}"),
        "seconds_per_epoch": ("an epoch, s", "{:,.1f}"),
        "peak_memory_gb": ("GB in training", "{:.1f}"),
    },
    "speed": _RUN
    | _LATENCIES
    | {
        "throughput": ("faces a second", "{:,.0f}"),
        "best_batch": ("at batch", "{}"),
        "whole_p50_ms": ("from a file p50, ms", "{:.2f}"),
        "whole_p95_ms": ("p95", "{:.2f}"),
        "whole_throughput": ("files a second", "{:,.0f}"),
        "host_memory_gb": ("GB", "{:.2f}"),
        "gpu_memory_gb": ("GB of the GPU", "{:.2f}"),
        "joules_per_face": ("J a face", "{:.3g}"),
    },
    "parameters": _RUN
    | {
        "trainable_parameters": ("trained", "{:,}"),
        "share": ("of all", "{:.1%}"),
        "above": ("points above majority", "{:+.1f}"),
        "per_million": ("for a million trained", "{:+,.1f}"),
    },
    "augmentation": _BY_RUN
    | {
        "plain": ("as they are", "{:.1%}"),
        "flip": ("with mirror image", "{:.1%}"),
        "ten_crop": ("ten crops", "{:.1%}"),
        "corrupted": ("mean under corruptions", "{:.1%}"),
    },
    "part": _BY_RUN
    | {
        "all": ("all test faces", "{:.1%}"),
        "part": ("without duplicates", "{:.1%}"),
        "low": ("95% from", "{:.1%}"),
        "high": ("to", "{:.1%}"),
        "faces": ("faces", "{:,}"),
    },
    "votes": _BY_RUN
    | {
        "hard": ("the set's label", "{:.1%}"),
        "majority": ("the voters' majority", "{:.1%}"),
        "shared": ("mean share of votes", "{:.1%}"),
        "faces": ("faces", "{:,}"),
    },
    "onnx": {
        "what": ("part", "{}"),
        "file": ("file", "{}"),
        "mb": ("MB", "{:.1f}"),
        "difference": ("largest difference", "{:.1e}"),
        "agrees": ("within 1e-4", "{}"),
    }
    | _LATENCIES,
}


def table_of(rows: pd.DataFrame, name: str) -> Styler:
    """One of `TABLES`, text to the left; a dash where there is no number. Columns with none at all are left out."""
    require(name in TABLES, "name", f"one of {', '.join(TABLES)}", repr(name))
    columns = TABLES[name]
    require_columns("rows", rows, tuple(columns))
    # Headings may occur twice: the styler is told places, not names.
    shown = rows[[c for c in columns if rows[c].notna().any()]].reset_index(drop=True)
    headings = [columns[c][0] for c in shown]
    text = [c for c in shown if pd.api.types.is_string_dtype(shown[c])]
    styler = shown.style.hide().format({c: columns[c][1] for c in shown}, na_rep="–", escape="html")
    styler = styler.set_properties(text, **{"text-align": "left", "white-space": "nowrap"})
    places = ", ".join(f"th.col{shown.columns.get_loc(c)}" for c in text)
    styler = styler.set_table_styles([{"selector": places or "none", "props": "text-align: left"}])
    return styler.format_index(lambda c: headings[shown.columns.get_loc(c)], axis=1)


def table_of_predictions(table: pd.DataFrame) -> Styler:
    """What a model read in pictures: a row a picture, `emotion`, then numbers in [0, 1]; see `PicturePredictions.table`.

    Names of files and classes are anybody's text, and pandas shows them as HTML unless it is told not to.
    """
    require_columns("table", table, ["emotion", "confidence"])
    shares = [name for name in table if name != "emotion"]
    styler = table.style.format("{:.1%}", subset=shares).format(subset=["emotion"], escape="html")
    return styler.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
