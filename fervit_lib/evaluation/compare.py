"""Which training runs of an experiment can be compared."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fervit_lib.evaluation.evaluate import costs_of
from fervit_lib.evaluation.predict import check_encoding, codes_of
from fervit_lib.latents import LatentStore, store_identity
from fervit_lib.models import load_model, trained_on
from fervit_lib.pipeline import without_fold
from fervit_lib.runs import Run
from fervit_lib.system.names import split_names
from fervit_lib.system.runtime import display_path


@dataclass(frozen=True)
class Comparison:
    """The runs that can be compared, all on the same test faces, and why the others cannot.

    Of a cross-validation, `runs` has the run of the first fold, and `further_folds` the others.
    """

    stores: tuple[Path, ...]  # codes of the test faces: one store, or one per fold
    runs: list[Run]
    skipped: dict[str, str]  # reason by variant
    further_folds: dict[str, tuple[Run, ...]]  # by first variant
    on_other_faces: list[Run]  # finished, but tested on other faces

    @property
    def full_runs(self) -> list[Run]:
        """Runs trained on all faces; all runs if there is none."""
        return [run for run in self.runs if not _on_subset(run)] or self.runs

    @property
    def subset_runs(self) -> list[Run]:
        """Runs trained on a subset of the faces: the points of the learning curves."""
        return [run for run in self.runs if _on_subset(run)]

    @property
    def single_runs(self) -> list[Run]:
        """Runs trained on all faces of any data set, without those of a cross-validation."""
        others = [run for run in self.on_other_faces if not _on_subset(run)]
        return [run for run in self.full_runs if not self.folds_of(run)] + others

    @property
    def pooled(self) -> list[str]:
        """The runs of cross-validations, whose predictions become one row."""
        others = (run.variant for folds in self.further_folds.values() for run in folds)
        return [*self.further_folds, *others]

    def folds_of(self, run: Run) -> tuple[Run, ...]:
        """The further folds of a run; none without cross-validation."""
        return self.further_folds.get(run.variant, ())


def _on_subset(run: Run) -> bool:
    parameters = run.config["parameters"]
    return parameters["data_fraction"] < 1 or parameters["shots"] > 0


def runs_to_compare(
    reports: Path, experiment: str, trained: str = "", trust_code: bool = False
) -> Comparison:
    """The finished training runs of an experiment that are tested on the same faces.

    Runs on different codes of the same faces are compared. If runs are tested on different faces,
    those on the most common ones are. The runs of a cross-validation, one per fold, count as one.

    Args:
        trained: names of training runs, separated by commas; empty: all of the experiment. Others,
            such as those of an earlier configuration, are not looked at.
        trust_code: run the code that is saved with models of own classes; False: skip such runs.

    Raises:
        FileNotFoundError: there is no finished training run.
    """
    folder = reports / experiment / "train"
    runs = []
    skipped = {}
    names = split_names(trained) or sorted(path.name for path in folder.glob("[!.]*/"))
    for name in names:
        run = Run(reports, experiment, "train", name, trust_code=trust_code)
        if reason := _reason_to_skip(run):
            skipped[run.variant] = reason
        else:
            runs.append(run)
    stores = {latents: LatentStore.open(latents, "test") for latents in set(map(codes_of, runs))}
    recipes = _join_folds(runs, stores, skipped)
    if not recipes:
        reasons = "".join(f"; {variant}: {reason}" for variant, reason in skipped.items())
        raise FileNotFoundError(
            f"{folder}: expected a finished training run, found none; run 02_train first{reasons}"
        )
    tested = {
        name: tuple(_tested_faces(codes_of(run)) for run in folds)
        for name, folds in recipes.items()
    }
    common = Counter(tested.values()).most_common(1)[0][0]
    compared = [folds for name, folds in recipes.items() if tested[name] == common]
    others = [folds for name, folds in recipes.items() if tested[name] != common]
    latents = tuple(map(codes_of, compared[0]))
    for run in (run for folds in others for run in folds):
        skipped[run.variant] = (
            f"tested on other faces, those of {display_path(codes_of(run))}; most runs are tested "
            f"on those of {display_path(latents[0])}; test_on compares both"
        )
    return Comparison(
        stores=latents,
        runs=[folds[0] for folds in compared],
        skipped=skipped,
        further_folds={folds[0].variant: folds[1:] for folds in compared if len(folds) > 1},
        on_other_faces=[folds[0] for folds in others if len(folds) == 1],
    )


def _join_folds(
    runs: list[Run], stores: Mapping[Path, LatentStore], skipped: dict[str, str]
) -> dict[str, tuple[Run, ...]]:
    """By name, the run, or the runs of all folds; incomplete ones are added to `skipped`."""
    recipes: dict[str, dict[int, Run]] = {}
    for run in runs:
        fold = stores[codes_of(run)].protocol.get("fold", 0)
        name = without_fold(run.variant)
        # A single fold that a config names is a run like any other.
        recipes.setdefault(name, {})[fold if name != run.variant else 0] = run
    complete = {}
    for name, by_fold in recipes.items():
        first = next(iter(by_fold.values()))
        is_fold = first.variant != name
        expected = stores[codes_of(first)].protocol.get("folds", 0) if is_fold else 1
        if missing := set(range(expected)) - set(by_fold):
            numbers = ", ".join(map(str, sorted(missing)))
            reason = f"fold {numbers} of {expected} is missing: each face is tested once; train it"
            skipped |= {run.variant: reason for run in by_fold.values()}
        else:
            complete[name] = tuple(by_fold[fold] for fold in sorted(by_fold))
    return complete


def _tested_faces(latents: Path) -> tuple[str, str]:
    """Identifies the test faces of a store and their labels, whatever their encoding."""
    identity = store_identity(latents)
    return identity["faces"]["test"], identity["labels"]["test"]


def _reason_to_skip(run: Run) -> str:
    """Why a run cannot be compared; empty if it can."""
    for name in ("config.json", "result.json"):
        if not (run.folder / name).is_file():
            return f"not finished: it has no {name}"
    try:
        model, classes = load_model(run.best_checkpoint, run.trust_code)
        store = LatentStore.open(codes_of(run), "test")
        if model.reads != "pixels":
            check_encoding(run.best_checkpoint, codes_of(run))
        costs_of(run)
        trained, now = trained_on(run.best_checkpoint), store_identity(codes_of(run))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        return str(error).split("\n")[0]
    if store.classes != classes:
        return (
            f"trained on the classes {', '.join(classes)}, but its codes now have "
            f"{', '.join(store.classes)}; train it again"
        )
    # Else it may be tested on faces that it learned from.
    parts = [(part, split) for part in ("faces", "labels") for split in ("train", "val")]
    if any(trained[part].get(split) != now[part].get(split) for part, split in parts):
        return "the faces or labels that it learned from have changed since; train it again"
    return ""
