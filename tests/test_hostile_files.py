"""Malicious files: loading one runs no code, fills no memory and reveals no other file."""

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
from fervit_lib.report.index import write_index
from fervit_lib.report.page import write_page
from fervit_lib.system.atomic import write_json
from fervit_lib.system.names import check_name
from fervit_lib.system.runtime import PROJECT_ROOT

HTML = "<img src=x onerror=alert(1)>"


class Evil:
    """Creates a folder when it is unpickled without `weights_only`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


Written = tuple[Path, Callable[[], Any]]  # a file, and a call that reads it


def write_pt(folder: Path, content: Any) -> Written:
    (folder / "pt" / "train").mkdir(parents=True)
    file = folder / "pt" / "train" / "0.pt"
    torch.save(content, file)
    return file, lambda: pt_codes.import_pt_folder(folder / "pt", folder / "store", faces=folder)


def write_teacher(folder: Path, content: Any) -> Written:
    file = folder / "t.pth"
    torch.save({"state_dict": content}, file)
    return file, lambda: load_teacher(file, "resnet18", "slim")


def write_timm(suffix: str) -> Callable[[Path, Any], Written]:
    def write(folder: Path, content: Any) -> Written:
        file = folder / f"w{suffix}"
        torch.save(content, file)
        return file, lambda: create_model("image", model_name="resnet10t", pretrained=str(file))

    return write


WRITERS = {
    "codes": write_pt,
    "teacher": write_teacher,
    "timm .pth": write_timm(".pth"),
    "timm .bin": write_timm(".bin"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, write: Callable[[Path, Any], Written]
) -> None:
    """`load_encoder` of such a file: see tests/encoders/test_published.py."""
    content = {"latent": torch.zeros(18, 512), "label": 0, "img_path": Evil(tmp_path / "ran")}
    file, load = write(tmp_path, content)
    with pytest.raises(ValueError, match=file.name):
        load()
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists(), "the file was harmless"


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_compressed_file_of_weights_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Any], Written]
) -> None:
    file, load = write(tmp_path, {"latent": torch.zeros(18, 512), "label": 0, "x": torch.zeros(10)})
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/9", bytes(40_000_000))
    monkeypatch.delattr(torch, "load")
    with pytest.raises(ValueError, match=rf"{file.name}: .*unpacked.*got 40,\d\d\d,\d\d\d"):
        load()


class TestArchives:
    def bomb(self, folder: Path, line: bytes, megabytes: int) -> Path:
        """A zip of `megabytes` that is a thousandth of that size."""
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
    def test_a_zip_bomb_is_refused_early(self, tmp_path: Path, line: bytes, megabytes: int) -> None:
        path = self.bomb(tmp_path, line, megabytes)
        assert path.stat().st_size < 100_000
        with pytest.raises(ValueError, match=r"fer2013\.zip: cannot be read"):
            load_faces(path, "train")

    def test_an_image_with_a_compressed_text_bomb_is_damaged(self, tmp_path: Path) -> None:
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        data = (tmp_path / "a.png").read_bytes()
        body = b"key\0\0" + zlib.compress(b"0" * 80_000_000)
        chunk = len(body).to_bytes(4) + b"zTXt" + body + zlib.crc32(b"zTXt" + body).to_bytes(4)
        (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
        with pytest.raises(ValueError, match=r"a\.png"):
            open_image(tmp_path / "a.png")

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_archive_members_are_never_written_to_disk(self, tmp_path: Path, kind: str) -> None:
        inner = tmp_path / "inner"
        content = b"emotion,pixels,Usage\n"
        inner.mkdir()
        path = inner / f"fer2013.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("../../evil.csv", content)
                archive.writestr("/evil.csv", content)
        else:
            with tarfile.open(path, "w") as archive:
                link = tarfile.TarInfo("link.csv")
                link.type = tarfile.SYMTYPE
                link.linkname = "/etc/passwd"
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
    def test_an_image_to_predict(self, tmp_path: Path, side: int) -> None:
        path = image_bomb(tmp_path / "a.png", side)
        with pytest.raises(ValueError, match=r"a\.png"):
            open_image(path)
        with pytest.raises(ValueError, match=r"b\.png"):
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

    @pytest.mark.parametrize(
        ("place", "target"),
        [("train", ""), ("train/happy", "happy"), ("train/happy/x.png", "happy/0.png")],
    )
    def test_in_a_set_of_faces(
        self, tmp_path: Path, outside: Path, place: str, target: str
    ) -> None:
        link = tmp_path / "faces" / place
        link.parent.mkdir(parents=True)
        link.symlink_to(outside / target)
        with pytest.raises(
            ValueError, match=rf"{place}: expected files within .*faces.*symbolic link"
        ):
            load_faces(tmp_path / "faces", "train")

    def test_the_folder_itself_may_be_a_link_and_contain_links(
        self, tmp_path: Path, outside: Path
    ) -> None:
        (tmp_path / "disk" / "train").mkdir(parents=True)
        (outside / "happy").rename(tmp_path / "disk" / "train" / "happy")
        (tmp_path / "disk" / "train" / "happy" / "again.png").symlink_to("0.png")
        (tmp_path / "faces").symlink_to(tmp_path / "disk")
        faces = load_faces(tmp_path / "faces", "train")
        assert len(faces) == 4 and faces[0][0].size == (8, 8)

    def test_in_a_set_of_people(self, tmp_path: Path, outside: Path) -> None:
        for kind in ("images", "masks"):
            (tmp_path / "people" / "test" / kind).mkdir(parents=True)
            (tmp_path / "people" / "test" / kind / "a.png").symlink_to(outside / "happy" / "0.png")
        with pytest.raises(ValueError, match=r"a\.png: expected files within"):
            load_people(tmp_path / "people", "test")

    def test_in_coco(self, tmp_path: Path, outside: Path) -> None:
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

    def test_in_a_folder_of_codes(self, tmp_path: Path) -> None:
        write_pt(tmp_path, {"latent": torch.zeros(18, 512), "label": 0, "img_path": "a"})
        (tmp_path / "elsewhere.pt").write_bytes(b"secret")
        (tmp_path / "pt" / "train" / "1.pt").symlink_to(tmp_path / "elsewhere.pt")
        with pytest.raises(ValueError, match=r"1\.pt: expected files within"):
            pt_codes.import_pt_folder(tmp_path / "pt", tmp_path / "store", faces=tmp_path)


class TestMarkup:
    """Names of files, classes and runs may contain any text."""

    def test_in_the_table_of_a_prediction(self) -> None:
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


NASTY = (
    "'; touch ran; $(touch ran) `touch ran` \"; open('ran', 'w')\n"
    "#{{wildcards}} {rule} \\' \\\" \u2028 %s"
)


class TestParametersAreData:
    def test_papermill_writes_literals(self) -> None:
        notebook = load_notebook_node(str(PROJECT_ROOT / "notebooks" / "02_train.ipynb"))
        parameters = {"experiment": NASTY, "model_name": NASTY[::-1], "lr": 0.1, "resume": False}
        cells = parameterize_notebook(
            notebook, parameters, kernel_name="python3", language="python"
        ).cells
        [cell] = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
        literals = {}
        for node in ast.parse(cell.source).body:
            assert isinstance(node, ast.Assign)
            literals[node.targets[0].id] = ast.literal_eval(node.value)
        assert literals == parameters

    def test_the_shell_command_of_a_step_passes_them_unchanged(self, tmp_path: Path) -> None:
        """Snakemake's own commands, printed instead of run."""
        config = {
            "experiment": "tiny",
            "reports": str(tmp_path / "it's; touch ran"),
            "train": {"model_name": NASTY},
        }
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        done = dry_run(tmp_path / "c.yaml")
        assert done.returncode == 0, done.stderr
        output = done.stdout + done.stderr
        commands = re.findall(
            r"-m fervit_lib\.report run (.*?\}') >&2$", output, re.DOTALL | re.MULTILINE
        )
        assert len(commands) >= 4
        # After the options: the notebook, its folder and its parameters.
        steps = [shell_arguments(command, tmp_path)[-3:] for command in commands]
        assert all(folder.startswith(config["reports"]) for _, folder, _ in steps)
        assert NASTY in [json.loads(parameters).get("model_name") for _, _, parameters in steps]
        [index] = re.findall(r"-m fervit_lib\.report index (.*)", output)
        assert shell_arguments(index, tmp_path) == [
            f"{config['reports']}/tiny",
            "--config",
            str(tmp_path / "c.yaml"),
        ]
        assert not (tmp_path / "ran").exists()


def shell_arguments(arguments: str, folder: Path) -> list[str]:
    """How a shell splits `arguments`."""
    command = ["bash", "-c", f"printf '%s\\0' {arguments}"]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    return output.split("\0")[:-1]


def dry_run(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", "--dry-run"]
    command += ["--configfile", str(config), "--forceall", "--printshellcmds"]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["x; touch ran", "../../up", "$(touch ran)"])
def test_a_name_with_shell_syntax_is_refused(name: str) -> None:
    """The Snakefile checks experiment and variants by this function."""
    with pytest.raises(ValueError, match="experiment: expected"):
        check_name("experiment", name)


def test_the_lab_keeps_jupyters_address_and_token() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    [recipe] = re.findall(r"^lab:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert re.fullmatch(r"\t\S*jupyter lab notebooks\n", recipe), (
        "--ip, --port, a token or a password changes Jupyter's safe defaults"
    )


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
