"""Train, val and test: how a protocol deals the faces of a source to them."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fervit_lib.datasets.class_names import EIGHT_EMOTIONS, SCHEMES, emotion_of, rename_classes
from fervit_lib.datasets.face_dataset import FaceDataset, stratified_mask
from fervit_lib.datasets.skipped import LEFT_OUT, NOT_USED, Skipped
from fervit_lib.system.names import check_choice, check_range

SPLITS = ("train", "val", "test")
# What published sets and copies of them call a split, in lower case. PublicTest is the val of
# FER2013's field: models are chosen on it and reported on PrivateTest.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "publictest"),
    "test": ("test", "testing", "privatetest"),
}
_SPLIT_OF = {name: split for split, names in _SPLIT_NAMES.items() for name in names}
_VAL_FRACTION = 1 / 8
_VAL_SEED = 2013  # fixed: a validation image must never become a training image in another run
# How subjects, or the faces of each class, are dealt one after the other if a set has no splits of
# its own: 7 of 10 are train. Three subjects are enough.
_MADE = ("test", "val", "train", "train", "train", "test", "train", "train", "train", "train")
_MADE_VAL = ("val", *["train"] * 7)


@dataclass(frozen=True)
class Protocol:
    """Which faces of a source are train, val and test, and of which classes.

    Raises:
        ValueError: a value is unknown or out of range.
    """

    # emotions: the eight names of `class_names`; own: as the source has them; else a scheme of
    # `class_names.SCHEMES` for classes that are numbers.
    class_names: str = "emotions"
    # public: the set's own val, or an eighth of train where it has none; split_of_train: always an
    # eighth of train. The set's own val is then its test, or if it has one, not used at all.
    val: str = "public"
    leave_out: str = ""  # classes to leave out, separated by commas
    folds: int = 0  # cross-validation by subject: the number of folds; 0: the splits of the set
    fold: int = 0  # the fold that is test; the next one is val

    def __post_init__(self) -> None:
        check_choice("class_names", self.class_names, ("emotions", "own", *SCHEMES))
        check_choice("val", self.val, ("public", "split_of_train"))
        if self.folds and self.folds < 3:
            raise ValueError(
                f"folds: expected 0 or at least 3 (test, val and train), got {self.folds}"
            )
        if self.fold and not self.folds:
            raise ValueError(f"fold: got {self.fold} without folds; set folds, the number of them")
        check_range("fold", self.fold, 0, max(self.folds, 1))


def split_of(name: str) -> str | None:
    """The split that a folder or a value of a table means, in any case; None if it is unknown."""
    # SFEW calls them `Train_Aligned_Faces` and `Val_Aligned_Faces_new`.
    name = re.sub("[ _-]+(set|aligned[ _-]+faces([ _-]+new)?)$", "", name.strip().lower())
    return _SPLIT_OF.get(name)


def deal(faces: FaceDataset, protocol: Protocol) -> dict[str, FaceDataset]:
    """The splits of all `faces` of a source: those of train, val and test that it has.

    Splits are, in this order of preference: folds by subject, if the protocol has some; those that
    the set publishes; else made ones, by subject where subjects are known.

    Raises:
        ValueError: a class is unknown, no training face of it is left, or the faces cannot be dealt
            as the protocol says.
    """
    faces = _name_classes(faces, protocol)
    if protocol.folds:
        places = _folds(faces, protocol)
    elif faces.published is not None and faces.published.astype(bool).any():
        places = _published(faces, faces.published.astype("<U5"), protocol)
    else:
        places = _made(faces)
    faces = faces.without(places == "", NOT_USED)
    places = places[places != ""]
    sets = {}
    for split in SPLITS:
        if (places == split).any() or split == "train":
            skipped = tuple(face for face in faces.skipped if _place_of(face) == split)
            dealt = replace(faces.subset(places == split), skipped=skipped)
            counts = np.bincount(dealt.labels, minlength=len(faces.classes))
            missing = [name for name, n in zip(faces.classes, counts, strict=True) if n == 0]
            # Splits by subject may lack a class in val or test: CK+'s tenth fold has no fear.
            by_subject = protocol.folds or faces.subjects is not None
            if missing and (split == "train" or not by_subject):
                raise ValueError(
                    f"{faces.source}: expected images of every class in {split}, found none of "
                    f"{', '.join(missing)}; add some (3, if the set has not all splits), or leave "
                    f"the class out with leave_out"
                )
            sets[split] = dealt
    return sets


def _place_of(face: Skipped) -> str:
    """The split to list a skipped face with: by a folder in its path, else train."""
    return next(filter(None, map(split_of, face.path.split("/")[:-1])), "train")


def _name_classes(faces: FaceDataset, protocol: Protocol) -> FaceDataset:
    """The faces with the class names of the protocol, without the classes that it leaves out."""
    left_out = set(map(_emotion_or_own, protocol.leave_out.split(","))) - {""}
    # Classes that are left out need no known name.
    own_names = [name for name in faces.classes if _emotion_or_own(name) not in left_out]
    names = rename_classes(own_names, protocol.class_names, str(faces.source))
    classes = tuple(sorted(set(names) - left_out))
    unknown = left_out - {*map(_emotion_or_own, faces.classes), *names, *EIGHT_EMOTIONS}
    if unknown or not classes:
        raise ValueError(
            f"leave_out: expected some of the classes of {faces.source}, which are "
            f"{', '.join(faces.classes)}, got {protocol.leave_out}"
        )
    new_name = dict(zip(own_names, names, strict=True))
    # (classes of the source,) the new label of each; -1: left out
    positions = {name: position for position, name in enumerate(classes)}
    new_label = np.array([positions.get(new_name.get(name, ""), -1) for name in faces.classes])
    labels = new_label[faces.labels].astype(np.int64)
    return replace(faces, classes=classes, labels=labels).without(labels < 0, LEFT_OUT)


def _emotion_or_own(name: str) -> str:
    return emotion_of(name) or name.strip()


def _folds(faces: FaceDataset, protocol: Protocol) -> np.ndarray:
    """(N,) split of each face: subjects by ascending ID, every k-th is in the same fold."""
    subjects = np.array([]) if faces.subjects is None else faces.subjects[faces.subjects != ""]
    if len(subjects) < len(faces):
        raise ValueError(
            f"folds: expected faces whose subjects are known, got {len(faces) - len(subjects)} of "
            f"{len(faces)} in {faces.source} without one; put each class's faces into one folder "
            f"per subject, or add a column 'subject' to the table"
        )
    if protocol.folds > (num_subjects := len(set(subjects))):
        raise ValueError(
            f"folds: expected at most {num_subjects}, the number of subjects in {faces.source}, "
            f"got {protocol.folds}"
        )
    pattern = ["train"] * protocol.folds
    pattern[protocol.fold] = "test"
    pattern[(protocol.fold + 1) % protocol.folds] = "val"
    return _deal_subjects(faces, pattern)


def _published(faces: FaceDataset, places: np.ndarray, protocol: Protocol) -> np.ndarray:
    """(N,) split of each face, from those that the set publishes; "" for one that is not used."""
    if protocol.val == "split_of_train":
        places[places == "val"] = "" if (places == "test").any() else "test"
    if not (places == "val").any():
        train = faces.subset(places == "train")
        if train.subjects is None or not train.subjects.astype(bool).any():
            places[places == "train"] = np.where(val_mask(train.labels), "val", "train")
        else:
            places[places == "train"] = _deal_subjects(train, _MADE_VAL)
    return places


def _made(faces: FaceDataset) -> np.ndarray:
    """(N,) split of each face of a set that publishes none."""
    if faces.subjects is not None:
        return _deal_subjects(faces, _MADE)
    places = np.empty(len(faces), "<U5")
    # In the order of a hash, so that no split holds the first pictures of a film or a camera.
    hashes = [hashlib.blake2b(os.fsencode(path), digest_size=8).digest() for path in faces.paths]
    order = np.array(sorted(range(len(faces)), key=hashes.__getitem__), int)
    for label in range(len(faces.classes)):
        members = order[faces.labels[order] == label]
        places[members] = np.resize(_MADE, len(members))
    return places


def _deal_subjects(faces: FaceDataset, pattern: Sequence[str]) -> np.ndarray:
    """(N,) split of each face: its subject's place in ascending order, modulo `pattern`.

    A face whose subject is unknown is one of its own.
    """
    subjects = np.asarray(faces.subjects)
    groups = np.where(subjects == "", faces.paths, subjects).tolist()
    # Sorted twice: 01 and 1 are equal as numbers, and the order of a set changes with the process.
    names = sorted(sorted(set(groups)), key=_as_numbers)
    split = {name: pattern[i % len(pattern)] for i, name in enumerate(names)}
    return np.array([split[name] for name in groups], "<U5")


def _as_numbers(name: str) -> list[str | int]:
    """A sort key by which subject 10 comes after subject 9."""
    # Parts of odd index are the numbers.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def val_mask(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: the stratified eighth of training faces that is val if a set has no val split."""
    return stratified_mask(labels, _VAL_FRACTION, _VAL_SEED)


def describe_splits(sets: Mapping[str, FaceDataset], protocol: Protocol) -> str:
    """Whose splits `deal` returned, in a few words."""
    if protocol.folds:
        return f"fold {protocol.fold} of {protocol.folds}, by subject"
    source = {s: "" if f.published is None else f.published[0] for s, f in sets.items()}
    if "" in source.values():
        return "made here" + ("" if sets["train"].subjects is None else ", by subject")
    taken = [f"{split} from its {name}" for split, name in source.items() if name != split]
    return ", ".join(["those of the set", *taken])


def move_to_train(
    sets: Mapping[str, FaceDataset], share: float, seed: int
) -> dict[str, FaceDataset]:
    """Move a stratified `share` of val's faces, in [0, 1), to train; val keeps the others.

    Raises:
        ValueError: `share` is out of range, or so large that val would lose a class.
    """
    check_range("val_to_train", share, 0, 1)
    if not share:
        return dict(sets)
    val = sets["val"]
    moved = stratified_mask(val.labels, share, seed)
    if lost := set(val.labels) - set(val.labels[~moved]):
        raise ValueError(
            f"val_to_train: {share} leaves no face of {val.classes[min(lost)]} in val, which "
            f"chooses the best epoch; take a smaller share"
        )
    train = sets["train"].joined(val.subset(moved))
    return {**sets, "train": train, "val": val.subset(~moved)}
