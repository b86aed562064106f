import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import plotly.utils
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_figures_evaluation import RUNS

from fervit_lib import runs
from fervit_lib.figures import evaluation as figures_evaluation
from fervit_lib.report import write_index, write_page
from fervit_lib.report.__main__ import main
from fervit_lib.runs import write_json

REMOTE = re.compile(r"""(?:src|href)\s*=\s*["']\s*(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""")


def ran(source: str, *outputs, number: int = 1):
    return new_code_cell(source, execution_count=number, outputs=list(outputs))


def figure_output():
    stored = figures_evaluation.plot_accuracy_intervals(RUNS, 0.3).to_plotly_json()
    data = json.loads(json.dumps(stored, cls=plotly.utils.PlotlyJSONEncoder))
    return new_output("display_data", {"application/vnd.plotly.v1+json": data, "text/plain": "Figure()"})


def write_notebook(folder: Path, *cells) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 02 · Train"), *cells]), path)
    return path


def page_of(folder: Path, *cells) -> str:
    page = write_page(write_notebook(folder, *cells), folder / "notebook.html")
    return page.read_text(encoding="utf-8")


def body(html: str) -> str:
    """What a reader sees: no scripts, no styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)


def tables(page: Path) -> list[pd.DataFrame]:
    found = []
    for table in BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find_all("table"):
        head, *rows = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in table("tr")]
        found.append(pd.DataFrame(rows, columns=head))
    return found


class TestPage:
    def test_a_figure_stands_in_the_page_with_its_library_and_nothing_is_fetched(self, tmp_path: Path) -> None:
        html = page_of(tmp_path, ran("plot()", figure_output()), ran("again()", figure_output()))
        assert html.count("Plotly.newPlot(") >= 2
        assert 1e6 < len(html) < 3e6  # plotly.js once, packed
        assert not REMOTE.search(body(html))

    def test_a_page_without_figures_is_light(self, tmp_path: Path) -> None:
        html = page_of(tmp_path, ran("print(1)", new_output("stream", text="1\n")))
        assert len(html) < 1e5
        assert "<title>02 · Train</title>" in html

    def test_of_a_large_picture_the_smaller_form_is_kept(self, tmp_path: Path) -> None:
        large, small = ({"image/png": "A" * n, "image/jpeg": "B" * 400, "text/plain": ""} for n in (200_000, 4_000))
        html = page_of(tmp_path, *(ran("show()", new_output("display_data", data)) for data in (large, small)))
        assert len(html) < 1e5
        assert html.count("data:image/jpeg;base64,BBBB") == html.count("data:image/png;base64,AAAA") == 1

    def test_cells_that_never_ran_are_counted(self, tmp_path: Path) -> None:
        assert "1 of 2 code cells have not run" in body(page_of(tmp_path, ran("train()"), new_code_cell("evaluate()")))

    def test_progress_bars_go_and_other_text_stays(self, tmp_path: Path) -> None:
        text = "encode:  50%|#####     | 5/10 [00:01<00:01]\nread 10 faces\n"
        html = page_of(tmp_path, ran("f()", new_output("stream", name="stderr", text=text)))
        assert "read 10 faces" in html
        assert "50%" not in html

    def test_warnings_of_libraries_go_and_ours_stay(self, tmp_path: Path) -> None:
        text = (
            "/venv/lib/python3.11/site-packages/torch/jit/_script.py:1491: FutureWarning: `torch.jit.script` is old\n"
            "  warnings.warn(\n/lab/fervit_lib/models/vit.py:3: UserWarning: mind this\n  warnings.warn(\n"
        )
        shown = body(page_of(tmp_path, ran("f()", new_output("stream", name="stderr", text=text))))
        assert "torch.jit" not in shown and "mind this" in shown

    def test_output_is_text_and_not_markup(self, tmp_path: Path) -> None:
        html = page_of(tmp_path, ran("f()", new_output("stream", text="<script>alert(1)</script>\n")))
        assert "<script>alert(1)" not in html

    def test_a_failure_is_said_first_and_marked_where_it_is(self, tmp_path: Path) -> None:
        error = new_output("error", ename="ValueError", evalue="lr: expected more", traceback=["\x1b[31mtrace\x1b[0m"])
        html = body(page_of(tmp_path, ran("train(lr=0)", error), new_code_cell("evaluate()")))
        assert html.index("lr: expected more") < html.index("02 · Train</h1>")
        assert "Cell 1 failed: ValueError: lr: expected more" in html

    @pytest.mark.parametrize("synthetic", [True, False])
    def test_synthetic_faces_are_said_above_the_title(self, tmp_path: Path, synthetic: bool) -> None:
        write_json(tmp_path / "result.json", {"synthetic": synthetic})
        html = body(page_of(tmp_path))
        assert ("synthetic toy faces" in html.split("<h1")[0]) == synthetic

    def test_how_it_was_made(self, tmp_path: Path) -> None:
        run = runs.start_run(
            tmp_path, "demo", "train", "a", parameters={"lr": 3e-4, "name": "<b>表情"}, seed=5, device="cpu of a test"
        )
        html = body(page_of(run.folder))
        for text in ("cpu of a test", "0.0003", "&lt;b&gt;表情", f"plotly {run.config['versions']['plotly']}"):
            assert text in html

    def test_a_file_that_is_no_notebook(self, tmp_path: Path) -> None:
        (tmp_path / "x.ipynb").write_text('{"cells": [')
        with pytest.raises(ValueError, match="x.ipynb: expected a Jupyter notebook"):
            write_page(tmp_path / "x.ipynb", tmp_path / "x.html")
        assert [path.name for path in tmp_path.iterdir()] == ["x.ipynb"]


class TestIndex:
    @pytest.fixture
    def experiment(self, tmp_path: Path) -> Path:
        """Three finished training runs, one on a part of the faces, their evaluation, and one that never ended."""
        rows = RUNS.assign(seed=0, macro_f1=0.5, train_seconds=75.0, num_test=800).to_dict("records")
        for row in rows:
            run = runs.start_run(tmp_path, "demo", "train", row["variant"], parameters={}, seed=0, device="cpu")
            run.write_result(synthetic=True, approach=row["approach"], strategy=row["strategy"], seed=0)
        write_page(write_notebook(run.folder), run.folder / "notebook.html")
        evaluate = runs.start_run(tmp_path, "demo", "evaluate", "all", parameters={}, seed=0, device="cpu")
        part = runs.start_run(tmp_path, "demo", "train", "part", parameters={}, seed=0, device="cpu")
        part.write_result(synthetic=True, approach="scratch", strategy="full", seed=0)
        evaluate.write_result(synthetic=True, majority_accuracy=0.25, runs=rows, on_parts=["part"])
        runs.start_run(tmp_path, "demo", "train", "killed", parameters={}, seed=0, device="cpu")
        return tmp_path / "demo"

    def test_it_shows_every_run_the_best_first(self, experiment: Path) -> None:
        html = write_index(experiment).read_text(encoding="utf-8")
        shown = body(html)
        table = tables(experiment / "index.html")[0]
        assert table["run"].tolist() == ["c", "a", "b"]
        assert table["accuracy"].tolist() == ["90.0%", "70.0%", "50.0%"]
        assert table["95% interval"][0] == "85.0% – 95.0%"
        assert table["above majority"][0] == "+65.0 points"
        assert table["training time"][0] == "1 min 15 s"
        assert "Highest accuracy: c with 90.0%" in shown
        assert "1 incomplete (train/killed)" in shown
        assert 'href="train/c/notebook.html"' in shown
        assert "synthetic toy faces" in shown.split("<h1")[0]
        assert html.count("Plotly.newPlot(") >= 2
        assert not REMOTE.search(shown)

    def test_several_seeds_are_summed_up(self, experiment: Path) -> None:
        result = runs.read_json(experiment / "evaluate" / "all" / "result.json")
        first = result["runs"][0]
        result["runs"][0] = first | {"variant": "scratch-full-seed0"}
        result["runs"].append(first | {"variant": "scratch-full-seed1", "seed": 1, "accuracy": 0.8})
        result["runs"].append(first | {"variant": "scratch-full-seed1-position=sinusoidal", "seed": 1, "accuracy": 0.2})
        write_json(experiment / "evaluate" / "all" / "result.json", result)
        write_index(experiment)
        seeds = tables(experiment / "index.html")[1]
        row = seeds[seeds["recipe"] == "scratch-full"].iloc[0]
        assert (row["seeds"], row["mean accuracy"], row["lowest – highest"]) == ("2", "75.0%", "70.0% – 80.0%")

    def test_an_experiment_that_has_not_begun(self, tmp_path: Path) -> None:
        assert "Nothing has run yet" in write_index(tmp_path).read_text(encoding="utf-8")
        with pytest.raises(NotADirectoryError, match="nowhere: no experiment there"):
            write_index(tmp_path / "nowhere")


def test_the_command_line(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "train" / "a")
    main(["page", str(notebook), str(notebook.with_suffix(".html"))])
    main(["index", str(tmp_path)])
    assert {path.name for path in tmp_path.rglob("*.html")} == {"notebook.html", "index.html"}
