"""01_encode with a landmark detector, on drawn faces and pictures without a face."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fervit_lib.datasets import SPLITS
from fervit_lib.datasets.toy_faces import toy_face
from fervit_lib.latents import LatentStore
from fervit_lib.system.atomic import read_json
from tests.model_files import needs_mediapipe
from tests.run_cells import run_cells

pytestmark = [pytest.mark.slow, pytest.mark.notebooks, needs_mediapipe]
PER_CLASS = 9


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; train has two pictures of noise among its happy faces."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for name in ("happy", "sad"):
            (folder / split / name).mkdir(parents=True)
            for i in range(PER_CLASS):
                toy_face(name, rng, 48).save(folder / split / name / f"{i}.png")
    for i in range(2):
        noise = Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8))
        noise.save(folder / "train" / "happy" / f"noise{i}.png")
    return folder


def test_what_is_done_with_faces_that_are_not_found(source: Path, tmp_path: Path) -> None:
    given = {"experiment": "aligned", "dataset": "drawn", "faces": str(source), "device": "cpu"}
    given |= {"landmarks": "mediapipe", "num_views": 1, "img_size": 32}
    given |= {"reports": str(tmp_path / "reports"), "data_dir": str(tmp_path / "data")}
    choices = ("whole", "template", "leave_out")
    steps = [("01_encode", given | {"variant": misses, "misses": misses}) for misses in choices]
    errors, _ = run_cells(steps)
    assert errors == [None] * 3
    codes = {}
    for misses in choices:
        result = read_json(tmp_path / f"reports/aligned/encode/{misses}/result.json")
        total = 2 * len(SPLITS) * PER_CLASS + 2
        assert f"{total - 2} of {total} faces cropped by mediapipe" in result["alignment"]
        store = LatentStore.open(tmp_path / "data/latents/drawn" / misses, "train")
        assert store.made_by["landmarks"] == "mediapipe"
        assert store.made_by["misses"] == misses
        codes[misses] = store
        assert len(store) == 2 * PER_CLASS + (0 if misses == "leave_out" else 2)
        has_noise = any("noise" in path for path in store.paths)
        assert has_noise == (misses != "leave_out")
    encodings = {store.made_by["encoding"] for store in codes.values()}
    assert len(encodings) == 3
