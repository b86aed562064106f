"""What a trained model does on faces it never saw."""

from fervit_lib.evaluation.compare import Evaluated, evaluate_run, runs_to_compare
from fervit_lib.evaluation.export import export_onnx, onnx_difference
from fervit_lib.evaluation.metrics import bootstrap_interval, class_metrics, majority_accuracy, summary_metrics
from fervit_lib.evaluation.predict import predict_probs, read_predictions, write_predictions
from fervit_lib.evaluation.segmenter import (
    export_segmenter,
    measure_segmenters,
    segmenter_difference,
    size_and_latency,
)

__all__ = [
    "Evaluated",
    "bootstrap_interval",
    "class_metrics",
    "evaluate_run",
    "export_onnx",
    "export_segmenter",
    "majority_accuracy",
    "measure_segmenters",
    "onnx_difference",
    "predict_probs",
    "read_predictions",
    "runs_to_compare",
    "segmenter_difference",
    "size_and_latency",
    "summary_metrics",
    "write_predictions",
]
