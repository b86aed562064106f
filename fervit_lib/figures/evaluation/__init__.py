"""Figures of an evaluation: data in, plotly figure out."""

from fervit_lib.figures.evaluation.accuracy import (
    plot_accuracy_intervals,
    plot_class_heatmap,
    plot_class_metrics,
    plot_confidence,
    plot_confusion,
    plot_pairs,
)
from fervit_lib.figures.evaluation.calibration import plot_calibration, plot_reliability
from fervit_lib.figures.evaluation.costs import (
    plot_accuracy_by_parameters,
    plot_corruptions,
    plot_costs,
    plot_learning_curves,
)
from fervit_lib.figures.evaluation.menus import write_figure
from fervit_lib.figures.evaluation.tables import TABLES, table_of, table_of_predictions
