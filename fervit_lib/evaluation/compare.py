"""Which training runs of an experiment can be compared."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fervit_lib.evaluation.evaluate import RESULT_KEYS
from fervit_lib.latents import LatentStore
from fervit_lib.models import load_model
from fervit_lib.runs import Run
from fervit_lib.system.runtime import resolve


@dataclass(frozen=True)
class Comparison:
    """The runs that can be compared, all on the same faces, and why the others cannot."""

    latents: Path
    runs: list[Run]
    skipped: dict[str, str]  # reason by variant

    @property
    def full_runs(self) -> list[Run]:
        """Runs trained on all faces; all runs if there is none."""
        return [run for run in self.runs if not _on_subset(run)] or self.runs

    @property
    def subset_runs(self) -> list[Run]:
        """Runs trained on a subset of the faces: the points of the learning curves."""
        return [run for run in self.runs if _on_subset(run)]


def _on_subset(run: Run) -> bool:
    parameters = run.config["parameters"]
    return parameters.get("data_fraction", 1) < 1 or parameters.get("shots", 0) > 0


def runs_to_compare(reports: Path, experiment: str, trust_code: bool = False) -> Comparison:
    """The finished training runs of an experiment that share their codes and classes.

    If runs were trained on different codes, those trained on the most common ones are compared.

    Args:
        trust_code: run the code that is saved with models of own classes; False: skip such runs.

    Raises:
        FileNotFoundError: there is no finished training run.
    """
    folder = reports / experiment / "train"
    runs: list[Run] = []
    skipped: dict[str, str] = {}
    for path in sorted(folder.glob("[!.]*/")):
        run = Run(reports, experiment, "train", path.name, trust_code=trust_code)
        if reason := _reason_to_skip(run):
            skipped[run.variant] = reason
        else:
            runs.append(run)
    if not runs:
        reasons = "".join(f"; {variant}: {reason}" for variant, reason in skipped.items())
        raise FileNotFoundError(
            f"{folder}: expected a finished training run, found none; run 02_train first{reasons}"
        )
    used = {run.variant: run.config["parameters"]["latents"] for run in runs}
    # By path, not by content: two stores of the same faces may have been encoded differently.
    common = Counter(used.values()).most_common(1)[0][0]
    for variant, latents in used.items():
        if latents != common:
            skipped[variant] = f"trained on other codes, {latents}; most runs used {common}"
    return Comparison(resolve(common), [run for run in runs if run.variant not in skipped], skipped)


def _reason_to_skip(run: Run) -> str:
    """Why a run cannot be compared; empty if it can."""
    for name in ("config.json", "result.json"):
        if not (run.folder / name).is_file():
            return f"not finished: it has no {name}"
    try:
        result = run.result
        _, classes = load_model(run.best_checkpoint, run.trust_code)
        store = LatentStore.open(resolve(run.config["parameters"]["latents"]), "test")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        return str(error).split("\n")[0]
    if missing := [name for name in RESULT_KEYS if name not in result]:
        return f"result.json has no {', '.join(missing)}; train it again"
    if store.classes != classes:
        return (
            f"trained on the classes {', '.join(classes)}, but its codes now have "
            f"{', '.join(store.classes)}; train it again"
        )
    return ""
