"""Files from somebody who means harm: loading them runs nothing, fills no memory, and shows no file of this machine."""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from jupyter_server.serverapp import ServerApp
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from fervit_lib import figures, pt_codes
from fervit_lib.datasets import load_faces, load_people
from fervit_lib.evaluation.predict import open_image
from fervit_lib.figures.evaluation import table_of_predictions
from fervit_lib.models import create_model
from fervit_lib.models.segmentation import load_teacher
from fervit_lib.notebook.upload import show_predictions
from fervit_lib.report import write_index, write_page
from fervit_lib.system.atomic import write_json
from fervit_lib.system.runtime import PROJECT_ROOT

HTML = "<img src=x onerror=alert(1)>"


class Evil:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


Placed = tuple[Path, Callable[[], Any]]  # a file, and what reads it


def into_pt(folder: Path, content: Any) -> Placed:
    (folder / "pt" / "train").mkdir(parents=True)
    torch.save(content, file := folder / "pt" / "train" / "0.pt")
    return file, lambda: pt_codes.import_pt_folder(folder / "pt", folder / "store", faces=folder)


def into_teacher(folder: Path, content: Any) -> Placed:
    torch.save({"state_dict": content}, file := folder / "t.pth")
    return file, lambda: load_teacher(file, "resnet18", "slim")


def into_timm(suffix: str) -> Callable[[Path, Any], Placed]:
    def place(folder: Path, content: Any) -> Placed:
        torch.save(content, file := folder / f"w{suffix}")
        return file, lambda: create_model("image", model_name="resnet10t", pretrained=str(file))

    return place


PLACES = {
    "codes": into_pt,
    "teacher": into_teacher,
    "timm .pth": into_timm(".pth"),
    "timm .bin": into_timm(".bin"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, place: Callable[[Path, Any], Placed]
) -> None:
    """`load_encoder` of such a file: see tests/encoders/test_published.py."""
    content = {"latent": torch.zeros(18, 512), "label": 0, "img_path": Evil(tmp_path / "ran")}
    file, load = place(tmp_path, content)
    with pytest.raises(ValueError, match=file.name):
        load()
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists(), "or the file was harmless"


class TestArchives:
    def bomb(self, folder: Path, line: bytes, megabytes: int) -> Path:
        """A zip of `megabytes` that take a thousandth of it."""
        with (
            zipfile.ZipFile(folder / "fer2013.zip", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("fer2013.csv", "w") as member,
        ):
            member.write(b"emotion,pixels,Usage\n")
            for _ in range(megabytes):
                member.write((line * (1_000_000 // len(line) + 1))[:1_000_000])
        return folder / "fer2013.zip"

    @pytest.mark.parametrize(
        ("line", "megabytes"), [(b"0", 40), (b"\n", 40)], ids=["one line", "many lines"]
    )
    def test_a_bomb_is_given_up_early(self, tmp_path: Path, line: bytes, megabytes: int) -> None:
        path = self.bomb(tmp_path, line, megabytes)
        assert path.stat().st_size < 100_000
        with pytest.raises(
            ValueError, match=r"fer2013\.zip: cannot be read .*a line has more than"
        ):
            load_faces(path, "train")

    def test_a_compressed_text_in_a_picture_is_a_damaged_picture(self, tmp_path: Path) -> None:
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        data = (tmp_path / "a.png").read_bytes()
        body = b"key\0\0" + zlib.compress(b"0" * 80_000_000)
        chunk = len(body).to_bytes(4) + b"zTXt" + body + zlib.crc32(b"zTXt" + body).to_bytes(4)
        (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
        with pytest.raises(ValueError, match=r"a\.png: not an image"):
            open_image(tmp_path / "a.png")

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_names_that_lead_out_are_never_written(self, tmp_path: Path, kind: str) -> None:
        inner, content = tmp_path / "inner", b"emotion,pixels,Usage\n"
        inner.mkdir()
        path = inner / f"fer2013.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("../../evil.csv", content)
                archive.writestr("/evil.csv", content)
        else:
            with tarfile.open(path, "w") as archive:
                link = tarfile.TarInfo("link.csv")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(link)
                member = tarfile.TarInfo("../../evil.csv")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        with pytest.raises(ValueError, match="no row with Usage 'Training'"):
            load_faces(path, "train")
        assert [p.name for p in tmp_path.rglob("*")] == ["inner", path.name]


def image_bomb(path: Path, side: int = 12_000) -> Path:
    """A PNG of a few hundred bytes whose header claims `side` × `side` pixels."""
    Image.new("L", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    path.write_bytes(data)
    return path


class TestImageBomb:
    def test_a_face(self, tmp_path: Path) -> None:
        for name in ("happy", "sad"):
            for split in ("train", "val"):
                (tmp_path / split / name).mkdir(parents=True)
                image_bomb(tmp_path / split / name / "0.png")
        with pytest.raises(OSError, match=r"happy/0\.png: .*100,000,000 pixels, got 12000x12000"):
            load_faces(tmp_path, "train")[0]

    @pytest.mark.parametrize("bomb", ["images", "masks"])
    def test_a_person(self, tmp_path: Path, bomb: str) -> None:
        for kind in ("images", "masks"):
            (tmp_path / "test" / kind).mkdir(parents=True)
            Image.new("L", (8, 8), 255).save(tmp_path / "test" / kind / "a.png")
        image_bomb(tmp_path / "test" / bomb / "a.png")
        with pytest.raises(OSError, match=rf"{bomb}/a\.png: .*pixels, got 12000x12000"):
            load_people(tmp_path, "test")[0]

    @pytest.mark.parametrize("side", [12_000, 60_000])
    def test_a_picture_to_read(self, tmp_path: Path, side: int) -> None:
        path = image_bomb(tmp_path / "a.png", side)
        with pytest.raises(ValueError, match=r"a\.png"):
            open_image(path)
        with pytest.raises(ValueError, match=r"b\.png: expected an image"):
            show_predictions(
                [{"name": "b.png", "content": path.read_bytes()}], lambda pictures: None
            )


class TestLinks:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        (tmp_path / "private" / "happy").mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8)).save(tmp_path / "private" / "happy" / f"{number}.png")
        return tmp_path / "private"

    @pytest.mark.parametrize("place", ["train", "train/happy", "train/happy/x.png"])
    def test_out_of_a_set_of_faces(self, tmp_path: Path, outside: Path, place: str) -> None:
        link = tmp_path / "faces" / place
        link.parent.mkdir(parents=True)
        link.symlink_to(outside / "/".join(["happy", "0.png"][: place.count("/")]))
        with pytest.raises(
            ValueError, match=rf"{place}: expected files within .*faces.*symbolic link"
        ):
            load_faces(tmp_path / "faces", "train")

    def test_the_folder_itself_and_links_within_it_are_fine(
        self, tmp_path: Path, outside: Path
    ) -> None:
        (tmp_path / "disk" / "train").mkdir(parents=True)
        (outside / "happy").rename(tmp_path / "disk" / "train" / "happy")
        (tmp_path / "disk" / "train" / "happy" / "again.png").symlink_to("0.png")
        (tmp_path / "faces").symlink_to(tmp_path / "disk")
        faces = load_faces(tmp_path / "faces", "train")
        assert len(faces) == 4 and faces[0][0].size == (8, 8)

    def test_out_of_a_set_of_people(self, tmp_path: Path, outside: Path) -> None:
        for kind in ("images", "masks"):
            (tmp_path / "people" / "test" / kind).mkdir(parents=True)
            (tmp_path / "people" / "test" / kind / "a.png").symlink_to(outside / "happy" / "0.png")
        with pytest.raises(ValueError, match=r"a\.png: expected files within"):
            load_people(tmp_path / "people", "test")

    def test_out_of_a_set_of_cocos_people(self, tmp_path: Path, outside: Path) -> None:
        (tmp_path / "coco" / "val2017").mkdir(parents=True)
        (tmp_path / "coco" / "val2017" / "a.png").symlink_to(outside / "happy" / "0.png")
        shape = {"image_id": 0, "category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 5]]}
        image = {"id": 0, "file_name": "a.png", "width": 8, "height": 8}
        content = {
            "images": [image],
            "annotations": [shape],
            "categories": [{"id": 1, "name": "person"}],
        }
        write_json(tmp_path / "coco" / "annotations" / "instances_val2017.json", content)
        with pytest.raises(ValueError, match=r"a\.png: expected files within"):
            load_people(tmp_path / "coco", "test")

    def test_out_of_a_folder_of_codes(self, tmp_path: Path) -> None:
        into_pt(tmp_path, {"latent": torch.zeros(18, 512), "label": 0, "img_path": "a"})
        (tmp_path / "elsewhere.pt").write_bytes(b"secret")
        (tmp_path / "pt" / "train" / "1.pt").symlink_to(tmp_path / "elsewhere.pt")
        with pytest.raises(ValueError, match=r"1\.pt: expected files within"):
            pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "store", faces=tmp_path)


class TestMarkup:
    """Names of files, classes and runs are anybody's text."""

    def test_in_the_table_of_a_reading(self) -> None:
        table = pd.DataFrame(
            {"emotion": [HTML], "confidence": [0.5], HTML + "2": [0.5]}, index=[HTML + "3"]
        )
        html = table_of_predictions(table).to_html()
        assert "<img" not in html
        assert html.count("&lt;img") == 3

    def test_in_the_index(self, tmp_path: Path) -> None:
        run = tmp_path / "e" / "train" / HTML.replace("/", "")
        write_json(
            run / "config.json", {"device": HTML, "parameters": {HTML: HTML}, "git_revision": HTML}
        )
        write_json(
            run / "result.json", {"approach": HTML, "strategy": HTML, "seed": 0, "synthetic": False}
        )
        html = write_index(tmp_path / "e").read_text()
        assert "<img" not in html and "&lt;img" in html

    def test_in_figures_and_outputs_of_a_page(self, tmp_path: Path) -> None:
        figures.use_theme()
        figure = figures.plot_class_counts(
            pd.DataFrame({"</script><script>alert(1)</script>": [3, 4]}, index=[HTML, "b"])
        )
        bundle = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
        frame = pd.DataFrame({"path": [HTML]}).to_html()
        cell = nbformat.v4.new_code_cell("1", execution_count=1)
        cell.outputs = [
            nbformat.v4.new_output("display_data", bundle),
            nbformat.v4.new_output("display_data", {"text/html": frame}),
            nbformat.v4.new_output("error", ename=HTML, evalue=HTML, traceback=[HTML]),
        ]
        (tmp_path / "x.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[cell])))
        html = write_page(tmp_path / "x.ipynb", tmp_path / "x.html").read_text()
        assert "<img src=x" not in html
        assert "<script>alert(1)" not in html


NASTY = "'; touch ran; $(touch ran) `touch ran` \"; open('ran', 'w')\n#{{wildcards}} {rule} \\' \\\" \u2028 %s"


class TestParametersAreData:
    def test_papermill_writes_literals(self) -> None:
        notebook = load_notebook_node(str(PROJECT_ROOT / "notebooks" / "02_train.ipynb"))
        given = {"experiment": NASTY, "model_name": NASTY[::-1], "lr": 0.1, "resume": False}
        cells = parameterize_notebook(
            notebook, given, kernel_name="python3", language="python"
        ).cells
        [cell] = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
        found = {}
        for node in ast.parse(cell.source).body:
            assert isinstance(node, ast.Assign)
            found[node.targets[0].id] = ast.literal_eval(node.value)
        assert found == given

    def test_the_shell_of_a_step_hands_them_on_as_they_are(self, tmp_path: Path) -> None:
        """Snakemake's own commands, with a printer in the place of what runs a notebook."""
        config = {
            "experiment": "tiny",
            "reports": str(tmp_path / "it's; touch ran"),
            "train": {"model_name": NASTY},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        done = plan(tmp_path / "c.yaml", "--printshellcmds")
        assert done.returncode == 0, done.stderr
        printed = done.stdout + done.stderr
        commands = re.findall(
            r"-m fervit_lib\.report run (.*?\}')$", printed, re.DOTALL | re.MULTILINE
        )
        assert len(commands) >= 4
        told = [shell_sees(command, tmp_path) for command in commands]
        assert all(
            len(arguments) == 3 and arguments[1].startswith(config["reports"]) for arguments in told
        )
        assert NASTY in [json.loads(parameters).get("model_name") for _, _, parameters in told]
        [index] = re.findall(r"-m fervit_lib\.report index (.*)", done.stdout + done.stderr)
        assert shell_sees(index, tmp_path) == [
            f"{config['reports']}/tiny",
            "--config",
            str(tmp_path / "c.yaml"),
        ]
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"experiment": "x; touch ran"}, "experiment: expected letters"),
            ({"train": {"approach": "../../up"}}, "train: expected letters"),
        ],
    )
    def test_names_of_folders_are_plain(self, tmp_path: Path, changes: dict, message: str) -> None:
        (tmp_path / "c.yaml").write_text(
            yaml.safe_dump({"experiment": "tiny", "reports": str(tmp_path)} | changes)
        )
        done = plan(tmp_path / "c.yaml")
        assert done.returncode != 0
        assert message in done.stdout + done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def shell_sees(arguments: str, folder: Path) -> list[str]:
    command = ["bash", "-c", f"printf '%s\\0' {arguments}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.split("\0")[
        :-1
    ]


def plan(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--nolock",
        "--configfile",
        str(config),
        "--dry-run",
    ]
    return subprocess.run(
        [*command, "--forceall", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True
    )


def test_the_lab_keeps_its_defaults_loopback_and_token() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    [recipe] = re.findall(r"^lab:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert re.fullmatch(r"\t\S*jupyter lab notebooks\n", recipe), (
        "no --ip, --port, token or password of ours"
    )
    assert ServerApp.ip.default_value == "localhost"
    assert not ServerApp.allow_remote_access.default_value


def test_every_package_of_the_lock_has_a_hash() -> None:
    lock = re.sub(r"\\\n", " ", (PROJECT_ROOT / "requirements.lock").read_text())
    packages = [
        line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(packages) > 100
    for line in packages:
        assert re.match(r"[\w.\[\], -]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line[:80]
        assert "://" not in line.split("--hash")[0], line[:80]
    assert "--require-hashes -r requirements.lock" in (PROJECT_ROOT / "Makefile").read_text()
