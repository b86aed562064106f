import io

import pandas as pd
import pytest
from PIL import Image

from fervit_lib.notebook.upload import show_predictions, upload_faces


def uploaded(name: str) -> dict:
    content = io.BytesIO()
    Image.new("L", (20, 30), 90).save(content, "png")
    return {"name": name, "content": content.getvalue()}


def test_uploaded_images_are_predicted() -> None:
    sizes = []

    def predict(images: list[Image.Image]) -> pd.DataFrame:
        sizes.extend(image.size for image in images)
        n = len(images)
        return pd.DataFrame({"emotion": ["sad"] * n, "confidence": [0.5] * n})

    button, _ = upload_faces(predict).children
    button.value = (
        {**uploaded("a.png"), "type": "image/png", "size": 1, "last_modified": pd.Timestamp(0)},
    )
    assert sizes == [(20, 30)]
    show_predictions([uploaded("a.png"), uploaded("b.png")], predict)
    assert len(sizes) == 3


def test_a_name_that_is_not_utf_8_is_shown_escaped() -> None:
    tables = []

    def predict(images: list[Image.Image]) -> pd.DataFrame:
        tables.append(pd.DataFrame({"emotion": ["sad"], "confidence": [0.5]}))
        return tables[-1]

    show_predictions([uploaded("\udc8f.png")], predict)
    assert tables[0].index.tolist() == ["\\udc8f.png"]


def test_a_file_that_is_not_an_image_is_named() -> None:
    with pytest.raises(ValueError, match=r"notes\.txt"):
        show_predictions([{"name": "notes.txt", "content": b"text"}], lambda images: None)
