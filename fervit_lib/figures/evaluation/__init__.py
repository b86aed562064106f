"""Figures and tables of an evaluation."""

from fervit_lib.figures.evaluation.accuracy import (
    plot_accuracy_intervals,
    plot_class_scores,
    plot_confidence,
    plot_confusion,
    plot_cross,
    plot_pairs,
)
from fervit_lib.figures.evaluation.calibration import plot_reliability
from fervit_lib.figures.evaluation.tables import TABLES, table_of, table_of_predictions
from fervit_lib.figures.evaluation.tradeoffs import (
    plot_corruptions,
    plot_costs,
    plot_learning_curves,
)
from fervit_lib.figures.png import write_evaluation_pngs
from fervit_lib.figures.theme import write_figure
