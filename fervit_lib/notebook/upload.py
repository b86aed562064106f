"""What can be touched in a notebook."""

import io
from collections.abc import Callable, Sequence

import ipywidgets
import pandas as pd
from IPython.display import display
from PIL import Image

from fervit_lib.figures import contact_sheet
from fervit_lib.figures.evaluation import table_of_predictions
from fervit_lib.system.errors import check_image_size


def upload_faces(predict: Callable[[Sequence[Image.Image]], pd.DataFrame]) -> ipywidgets.VBox:
    """A button that takes pictures of faces and shows each with what a model reads in it.

    Args:
        predict: pictures → a table with a row a picture: emotion, confidence, and a column a class.
    """
    button = ipywidgets.FileUpload(accept="image/*", multiple=True, description="Read faces")
    shown = ipywidgets.Output()

    def read(change: dict) -> None:
        shown.clear_output(wait=True)
        with shown:  # a file that is no picture says so here
            show_predictions(change["new"], predict)

    button.observe(read, names="value")
    return ipywidgets.VBox([button, shown])


def show_predictions(
    files: Sequence[dict], predict: Callable[[Sequence[Image.Image]], pd.DataFrame]
) -> None:
    """Show uploaded files ({name, content}) and what `predict` reads in them. Raises ValueError for no picture."""
    pictures = {}
    for file in files:
        try:
            with Image.open(io.BytesIO(file["content"])) as image:
                pictures[file["name"]] = check_image_size(image).convert("RGB")
        except (
            Exception
        ) as error:  # on broken bytes Pillow raises anything from SyntaxError to struct.error
            raise ValueError(
                f"{file['name']}: expected a picture, but it does not open as one ({error})"
            ) from error
    if not pictures:
        return
    table = predict(list(pictures.values()))
    table.index = list(pictures)
    display(
        contact_sheet({name: [picture] for name, picture in pictures.items()}, size=96, title="")
    )
    display(table_of_predictions(table))
