"""Data in, plotly figure (or picture) out, all in one look. Nothing here loads a model or acts when imported."""

from fervit_lib.figures.codes import plot_code_distances, plot_code_statistics, plot_embedding
from fervit_lib.figures.faces import contact_sheet, plot_class_counts
from fervit_lib.figures.theme import use_theme
from fervit_lib.figures.training import plot_rates_tried, plot_reconstruction, plot_training_curves
