"""`make clean-codes`: remove the codes that no run uses any more.

Codes of other settings stand side by side, so that those of earlier settings stay. Codes that were
not made by 01_encode, and could not be made again, are kept.
"""

import shutil
from pathlib import Path

from fervit_lib.latents.store import RESULT, read_store
from fervit_lib.system.atomic import read_json
from fervit_lib.system.runtime import PROJECT_ROOT, display_path, resolve


def unused_stores(data: Path, reports: Path) -> list[Path]:
    """The complete stores of a data folder that no run below `reports` was trained on or made.

    A store whose run of 01_encode is elsewhere is in use while that run still names it.

    Raises:
        ValueError: a run's file is damaged: nothing can be said about what it uses.
    """
    configs = [read_json(path) for path in reports.rglob("config.json")]
    used = {config["codes"]["store"] for config in configs if config.get("codes")}
    used |= {read_json(path)["store"] for path in reports.rglob(RESULT)}
    unused = []
    for folder in sorted(path.parent for path in data.glob("latents/*/*/store.json")):
        made_by = read_store(folder)["made_by"]
        if "run" not in made_by or display_path(folder) in used:
            continue
        run = resolve(made_by["run"])
        if (run / RESULT).is_file():
            is_used = read_json(run / RESULT)["store"] == display_path(folder)
        else:
            is_used = (run / "config.json").is_file()  # it has not ended yet
        if not is_used:
            unused.append(folder)
    return unused


if __name__ == "__main__":
    for folder in unused_stores(PROJECT_ROOT / "data", PROJECT_ROOT / "reports"):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"remove {display_path(folder)}, {size / 1e6:.1f} MB")
        (folder / "store.json").unlink()  # incomplete from here on
        shutil.rmtree(folder)
