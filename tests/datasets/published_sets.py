"""Published sets in miniature, written from the rules that their authors and users describe.

Each function writes one layout below `root` and returns the path to load. Numbers of classes are
written out here, not taken from the library.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from tests.datasets.conftest import FER_PLUS

RAF_DB = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")  # 1 to 7
AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
CK_PLUS = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
EMOTION_OF_CK = ("", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
EMOTION_OF_FER_PLUS = (
    "neutral",
    "happy",
    "surprise",
    "sad",
    "angry",
    "disgust",
    "fear",
    "contempt",
)
EXPW = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
JAFFE_SUBJECTS = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")


def picture(path: Path, size: tuple[int, int] = (24, 24), mode: str = "RGB") -> None:
    """Noise that depends on the name of the file alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(crc32(path.name.encode())).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)


def table(path: Path, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def raf_db(root: Path, train: int = 4, test: int = 2) -> Path:
    """`EmoLabel/list_patition_label.txt` and `Image/aligned`: `train`, `test` faces per class."""
    lines = []
    for split, digits, per_class in (("train", 5, train), ("test", 4, test)):
        for i in range(7 * per_class):
            stem = f"{split}_{i + 1:0{digits}d}"
            picture(root / "Image" / "aligned" / f"{stem}_aligned.jpg")
            lines.append(f"{stem}.jpg {i % 7 + 1}")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return root


def raf_db_copy(
    root: Path,
    train: int = 4,
    test: int = 2,
    splits: tuple[str, str] = ("train", "test"),
    first_number: int = 1,
    class_folders: bool = True,
) -> Path:
    """`DATASET/{train,test}/{1..7}` or flat, with `train_labels.csv` and `test_labels.csv`."""
    names = zip(("train", "test"), splits, (5, 4), (train, test), strict=True)
    for prefix, folder, digits, per_class in names:
        rows: list[tuple[object, ...]] = [("image", "label")]
        for i in range(7 * per_class):
            name = f"{prefix}_{i + 1:0{digits}d}_aligned.jpg"
            number = i % 7 + first_number
            inner = f"{number}/{name}" if class_folders else name
            picture(root / "DATASET" / folder / inner)
            rows.append((name, number))
        table(root / f"{folder.removesuffix('_set')}_labels.csv", rows)
    return root


def affectnet_arrays(root: Path, train: int = 4, val: int = 2) -> Path:
    """`{train,val}_set/{images/N.jpg,annotations/N_{exp,val,aro,lnd}.npy}`.

    The codes 0 to 7 as often as said, and 8, 9 and 10 once in train.
    """
    for folder, codes in (
        ("train_set", [*range(8)] * train + [8, 9, 10]),
        ("val_set", [*range(8)] * val),
    ):
        for number, code in enumerate(codes, start=7):
            picture(root / folder / "images" / f"{number}.jpg")
            annotations = root / folder / "annotations"
            annotations.mkdir(exist_ok=True)
            for kind, value in (
                ("exp", np.array(str(code))),
                ("val", np.array("-0.25")),
                ("aro", np.array("0.5")),
                ("lnd", np.zeros(136)),
            ):
                np.save(annotations / f"{number}_{kind}.npy", value)
    return root


def affectnet_tables(root: Path, train: int = 4, val: int = 2, header: bool = True) -> Path:
    """`training.csv`, `validation.csv` and `Manually_Annotated_Images`, 40x30 pixels.

    Beside the codes 0 to 7, train has 8, 9 and 10 once, a row with NULL as its box and one with a
    negative size. The face is the box 4, 2, 16, 20 (x, y, width, height).
    """
    columns = "subDirectory_filePath face_x face_y face_width face_height facial_landmarks "
    columns += "expression valence arousal"
    for name, codes, with_header in (
        ("training", [*range(8)] * train + [8, 9, 10], True),
        ("validation", [*range(8)] * val, header),
    ):
        rows: list[list[object]] = [columns.split()] if with_header else []
        for i, code in enumerate(codes):
            file = f"{i % 3 + 1}/{name}{i:04d}.{('jpg', 'bmp', 'tif')[i % 3]}"
            picture(root / "Manually_Annotated_Images" / file, (40, 30))
            rows.append([file, 4, 2, 16, 20, "1.5;2.5;3.5;4.5", code, -0.25, 0.5])
        if name == "training":
            for file, box in (("1/null.jpg", ["NULL"] * 4), ("1/less.jpg", [4, 2, -3, 20])):
                picture(root / "Manually_Annotated_Images" / file, (40, 30))
                rows.append([file, *box, "1.5;2.5", 1, -0.25, 0.5])
        table(root / f"{name}.csv", rows)
    return root


def affectnet_folders(root: Path, per_class: int = 5) -> Path:
    """Class folders without splits, and `labels.csv`, which gives every fifth another class."""
    names = ["anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    rows: list[tuple[object, ...]] = [("", "pth", "label", "relFCs")]
    for i in range(8 * per_class):
        folder = names[i % 8]
        file = f"{folder}/image{i:07d}.png"
        picture(root / file)
        rows.append((i, file, names[(i + 1) % 8] if i % 5 == 0 else folder, 0.75))
    table(root / "labels.csv", rows)
    return root


def ck_48(root: Path, subjects: int = 8) -> Path:
    """CK+48: three frames of one sequence of each of the seven classes, for every subject."""
    for subject in range(10, 10 + subjects):
        for sequence, name in enumerate(CK_PLUS[1:], start=1):
            for frame in (14, 15, 16):
                file = f"S{subject:03d}_{sequence:03d}_{frame:08d}.png"
                picture(root / name / file, (48, 48), "L")
    return root


def ck_sequences(root: Path, subjects: int = 8) -> Path:
    """`cohn-kanade-images/Sxxx/yyy` and `Emotion`: a label for the last frame.

    Every subject has a sequence of each of the seven classes, and two without a label: one whose
    folder in `Emotion` is empty, and one without a folder there.
    """
    for subject in range(10, 10 + subjects):
        for sequence in range(1, 10):
            folder = Path(f"S{subject:03d}") / f"{sequence:03d}"
            stem = f"S{subject:03d}_{sequence:03d}"
            for frame in (1, 4):
                picture(
                    root / "cohn-kanade-images" / folder / f"{stem}_{frame:08d}.png", (64, 49), "L"
                )
            if sequence <= 8:
                (root / "Emotion" / folder).mkdir(parents=True)
            if sequence <= 7:
                label = root / "Emotion" / folder / f"{stem}_{4:08d}_emotion.txt"
                label.write_text(f"   {sequence:.7e}\n")
    return root


def jaffe(root: Path, pictures: int = 2) -> Path:
    """`KA.AN1.39.tiff`: ten subjects, seven emotions, `pictures` of each."""
    serial = 0
    for subject in JAFFE_SUBJECTS:
        for emotion in ["AN", "DI", "FE", "HA", "NE", "SA", "SU"]:
            for number in range(1, pictures + 1):
                serial += 1
                picture(root / f"{subject}.{emotion}{number}.{serial}.tiff", (32, 32), "L")
    (root / "README_FIRST.txt").write_text("terms of use")
    return root


def expw(root: Path, pictures: int = 20) -> Path:
    """`label/label.lst` and `image/origin`, 40x30 pixels, two faces each of different classes.

    The first row is repeated.
    """
    rows = []
    for i in range(pictures):
        name = f"angry_actor_{i}.jpg"
        picture(root / "image" / "origin" / name, (40, 30))
        # image, face, top, left, right, bottom, confidence, label
        rows.append(f"{name} 0 5 2 12 25 22.9362 {i % 7}")
        rows.append(f"{name} 1 4 20 38 28 9.5 {(i + 1) % 7}")
    rows.append(rows[0])
    (root / "label").mkdir()
    (root / "label" / "label.lst").write_text("\n".join(rows) + "\n")
    return root


def sfew(root: Path, train: int = 4, val: int = 2, test: int = 3) -> Path:
    """`Train_Aligned_Faces`, `Val_Aligned_Faces_new`, and `Test_Aligned_Faces` without labels."""
    for folder, per_class in (("Train_Aligned_Faces", train), ("Val_Aligned_Faces_new", val)):
        for name in ["Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]:
            for i in range(per_class):
                picture(root / folder / name / f"Airheads_{folder[0]}{name}{i:09d}_00000005.png")
    for i in range(test):
        picture(root / "Test_Aligned_Faces" / f"{i:06d}.png")
    return root


def fer_plus(
    root: Path,
    train: int = 4,
    other: int = 2,
    box: bool = True,
    header: bool = False,
) -> Path:
    """`FER2013{Train,Valid,Test}` with `label.csv`: seven votes of ten for each class.

    In each folder one face has exactly half of the votes for one class, one is unknown, one is no
    face.
    """
    count = 0
    for folder, per_class in (
        ("FER2013Train", train),
        ("FER2013Valid", other),
        ("FER2013Test", other),
    ):
        votes = []
        for k in range(8):
            clear = [0] * 10
            clear[k], clear[(k + 1) % 8] = 7, 3
            votes += [clear] * per_class
        votes.append([5, 3, 2, 0, 0, 0, 0, 0, 0, 0])
        votes.append([2, 0, 0, 0, 0, 0, 0, 0, 8, 0])
        votes.append([0, 0, 0, 0, 0, 0, 0, 0, 0, 10])
        rows: list[list[object]] = []
        if header:
            rows.append(["Image name", *(["box"] if box else []), *FER_PLUS])
        for row in votes:
            name = f"fer{count:07d}.png"
            count += 1
            picture(root / folder / name, (48, 48), "L")
            rows.append([name, *(["(0, 0, 48, 48)"] if box else []), *row])
        table(root / folder / "label.csv", rows)
    return root


# For tests of what holds for every set. Each writes enough faces of each class to be dealt to
# train, val and test.
BUILDERS = {
    "raf-db": raf_db,
    "raf-db copy": raf_db_copy,
    "affectnet arrays": affectnet_arrays,
    "affectnet tables": affectnet_tables,
    "affectnet folders": affectnet_folders,
    "ck+48": ck_48,
    "ck+ sequences": ck_sequences,
    "jaffe": jaffe,
    "expw": expw,
    "fer+": fer_plus,
    "sfew": sfew,
}
