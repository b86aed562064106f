"""Predict the expressions in uploaded images."""

from collections.abc import Callable, Sequence

import ipywidgets
import pandas as pd
from IPython.display import display
from PIL import Image

from fervit_lib.evaluation.predict import open_image
from fervit_lib.figures import contact_sheet
from fervit_lib.figures.evaluation import table_of_predictions
from fervit_lib.system.names import escape

# Images to a table with one row per image: emotion, confidence, and a column per class.
Predict = Callable[[Sequence[Image.Image]], pd.DataFrame]


def upload_faces(predict: Predict) -> ipywidgets.VBox:
    """A button to upload images of faces, which are then shown with their predictions."""
    button = ipywidgets.FileUpload(accept="image/*", multiple=True, description="Upload faces")
    output = ipywidgets.Output()

    def show(change: dict) -> None:
        output.clear_output(wait=True)
        with output:  # also shows the error for a file that is not an image
            show_predictions(change["new"], predict)

    button.observe(show, names="value")
    return ipywidgets.VBox([button, output])


def show_predictions(files: Sequence[dict], predict: Predict) -> None:
    """Show uploaded files ({name, content}) with their predictions.

    Raises:
        ValueError: a file is not an image, or too large.
    """
    images = {
        escape(file["name"]): open_image(bytes(file["content"]), file["name"]) for file in files
    }
    if not images:
        return
    table = predict(list(images.values()))
    table.index = list(images)
    rows = {name: [image] for name, image in images.items()}
    display(contact_sheet(rows, size=96, title="Uploaded faces"))
    display(table_of_predictions(table))
