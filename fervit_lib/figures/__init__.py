"""Functions from data to a plotly figure or an image, all with the same look."""

from fervit_lib.figures.codes import (
    plot_code,
    plot_code_distances,
    plot_code_statistics,
    plot_embedding,
)
from fervit_lib.figures.faces import (
    contact_sheet,
    flip_through,
    picture_grid,
    plot_class_counts,
)
from fervit_lib.figures.tables import format_p, style_table
from fervit_lib.figures.theme import MAX_CLASSES, group_classes, use_theme
from fervit_lib.figures.training import (
    plot_lr_search,
    plot_reconstruction,
    plot_steps,
    plot_training_curves,
)
