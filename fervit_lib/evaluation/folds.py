"""Cross-validation: is each face tested once, by a model that was not trained on its subject?"""

from collections import Counter

from fervit_lib.evaluation.evaluate import Faces


def check_folds(faces: Faces) -> str:
    """Check the folds of a cross-validation, and describe them in a sentence.

    Raises:
        ValueError: a face is tested in two folds, or a subject is in two splits of a fold.
    """
    folds = faces.folds
    times = Counter(path for fold in folds for path in fold.stores["test"].paths)
    [(path, most)] = times.most_common(1)
    if most > 1:
        raise ValueError(
            f"{faces.latents}: expected each face in the test split of one fold, got {path} in "
            f"{most}; encode all folds again"
        )
    tested: set[str] = set()
    for fold in folds:
        train, val, test = (_subjects(fold, split) for split in fold.stores)
        if not test:
            return f"{len(folds)} folds, {len(times)} faces, each tested once; subjects are unknown"
        if shared := (train & val) | (train & test) | (val & test) | (tested & test):
            raise ValueError(
                f"{fold.latents}: expected each subject in one split, got {min(shared)} in "
                f"several; encode all folds again"
            )
        tested |= test
    return (
        f"{len(folds)} folds, {len(times)} faces of {len(tested)} subjects, each tested once by a "
        f"model that was not trained on the subject"
    )


def _subjects(faces: Faces, split: str) -> set[str]:
    subjects = faces.subjects(split)
    return set() if subjects is None else set(subjects)
