import io

import pandas as pd
import pytest
from PIL import Image

from fervit_lib.notebook.upload import show_predictions, upload_faces


def uploaded(name: str) -> dict:
    content = io.BytesIO()
    Image.new("L", (20, 30), 90).save(content, "png")
    return {"name": name, "content": content.getvalue()}


def test_uploaded_pictures_are_read() -> None:
    given = []

    def predict(pictures: list[Image.Image]) -> pd.DataFrame:
        given.extend(picture.size for picture in pictures)
        return pd.DataFrame(
            {"emotion": ["sad"] * len(pictures), "confidence": [0.5] * len(pictures)}
        )

    button, _ = upload_faces(predict).children
    button.value = (
        {**uploaded("a.png"), "type": "image/png", "size": 1, "last_modified": pd.Timestamp(0)},
    )
    assert given == [(20, 30)]
    show_predictions([uploaded("a.png"), uploaded("b.png")], predict)
    assert len(given) == 3
    with pytest.raises(
        ValueError, match=r"notes\.txt: expected a picture, but it does not open as one"
    ):
        show_predictions([{"name": "notes.txt", "content": b"no picture"}], predict)
