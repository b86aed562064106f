import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import plotly.graph_objects as go
import plotly.utils
import pytest
from bs4 import BeautifulSoup
from evaluation_runs import RUNS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fervit_lib import runs
from fervit_lib.figures import evaluation as figures_evaluation
from fervit_lib.report.__main__ import main
from fervit_lib.report.failures import describe_failure, describe_failures
from fervit_lib.report.html import figure_div
from fervit_lib.report.index import write_index
from fervit_lib.report.page import write_page
from fervit_lib.system import atomic
from fervit_lib.system.atomic import write_json

REMOTE = re.compile(
    r"""(?:src|href)\s*=\s*["']\s*(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//"""
)


def ran(source: str, *outputs, number: int = 1):
    return new_code_cell(source, execution_count=number, outputs=list(outputs))


def figure_output():
    stored = figures_evaluation.plot_accuracy_intervals(RUNS, 0.3).to_plotly_json()
    data = json.loads(json.dumps(stored, cls=plotly.utils.PlotlyJSONEncoder))
    return new_output(
        "display_data", {"application/vnd.plotly.v1+json": data, "text/plain": "Figure()"}
    )


def write_notebook(folder: Path, *cells) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 02 · Train"), *cells]), path)
    return path


def page_of(folder: Path, *cells) -> str:
    page = write_page(write_notebook(folder, *cells), folder / "notebook.html")
    return page.read_text(encoding="utf-8")


def body(html: str) -> str:
    """The page without scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)


def tables(page: Path) -> list[pd.DataFrame]:
    frames = []
    for table in BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find_all("table"):
        head, *rows = [
            [cell.get_text(strip=True) for cell in row.find_all(["th", "td"])]
            for row in table("tr")
        ]
        frames.append(pd.DataFrame(rows, columns=head))
    return frames


class TestPage:
    def test_a_figure_is_drawn_without_the_network(self, tmp_path: Path) -> None:
        html = page_of(tmp_path, ran("plot()", figure_output()), ran("again()", figure_output()))
        assert html.count("Plotly.newPlot(") >= 2
        assert 1e6 < len(html) < 3e6  # plotly.js once, packed
        assert not REMOTE.search(body(html))

    def test_a_page_without_figures_has_no_plotly(self, tmp_path: Path) -> None:
        html = page_of(tmp_path, ran("print(1)", new_output("stream", text="1\n")))
        assert len(html) < 1e5
        assert "<title>02 · Train</title>" in html

    def test_a_large_image_is_stored_once_in_the_smaller_format(self, tmp_path: Path) -> None:
        large, small = (
            {"image/png": "A" * n, "image/jpeg": "B" * 400, "text/plain": ""}
            for n in (200_000, 4_000)
        )
        html = page_of(
            tmp_path, *(ran("show()", new_output("display_data", data)) for data in (large, small))
        )
        assert len(html) < 1e5
        assert (
            html.count("data:image/jpeg;base64,BBBB")
            == html.count("data:image/png;base64,AAAA")
            == 1
        )

    def test_cells_that_were_not_executed_are_counted(self, tmp_path: Path) -> None:
        assert "1 of 2 code cells were not executed" in body(
            page_of(tmp_path, ran("train()"), new_code_cell("evaluate()"))
        )

    def test_progress_bars_are_removed_and_other_text_stays(self, tmp_path: Path) -> None:
        text = "encode:  50%|#####     | 5/10 [00:01<00:01]\nread 10 faces\n"
        html = page_of(tmp_path, ran("f()", new_output("stream", name="stderr", text=text)))
        assert "read 10 faces" in html
        assert "50%" not in html

    def test_warnings_of_libraries_are_removed_and_ours_stay(self, tmp_path: Path) -> None:
        text = (
            "/venv/lib/python3.11/site-packages/torch/jit/_script.py:1491: FutureWarning: old\n"
            "  torch.jit.script(\n"
            "/lab/fervit_lib/models/vit.py:3: UserWarning: mind this\n  warnings.warn(\n"
        )
        shown = body(page_of(tmp_path, ran("f()", new_output("stream", name="stderr", text=text))))
        assert "torch.jit" not in shown and "mind this" in shown

    def test_output_is_text_and_not_markup(self, tmp_path: Path) -> None:
        html = page_of(
            tmp_path, ran("f()", new_output("stream", text="<script>alert(1)</script>\n"))
        )
        assert "<script>alert(1)" not in html

    def test_a_failure_is_reported_at_the_top_and_at_its_cell(self, tmp_path: Path) -> None:
        error = new_output(
            "error",
            ename="ValueError",
            evalue="lr: expected more",
            traceback=["\x1b[31mtrace\x1b[0m"],
        )
        html = body(page_of(tmp_path, ran("train(lr=0)", error), new_code_cell("evaluate()")))
        assert html.index("lr: expected more") < html.index("02 · Train</h1>")
        assert "Cell 1 failed: ValueError: lr: expected more" in html

    @pytest.mark.parametrize("synthetic", [True, False])
    def test_synthetic_data_is_reported_above_the_title(
        self, tmp_path: Path, synthetic: bool
    ) -> None:
        write_json(tmp_path / "result.json", {"synthetic": synthetic})
        html = body(page_of(tmp_path))
        assert ("synthetic toy faces" in html.split("<h1")[0]) == synthetic

    def test_provenance(self, tmp_path: Path) -> None:
        run = runs.start_run(
            tmp_path,
            "demo",
            "train",
            "a",
            parameters={"lr": 3e-4, "name": "<b>表情"},
            seed=5,
            device="cpu of a test",
        )
        html = body(page_of(run.folder))
        for text in (
            "cpu of a test",
            "0.0003",
            "&lt;b&gt;表情",
            f"plotly {run.config['versions']['plotly']}",
        ):
            assert text in html

    def test_a_file_that_is_not_a_notebook(self, tmp_path: Path) -> None:
        (tmp_path / "x.ipynb").write_text('{"cells": [')
        with pytest.raises(ValueError, match="x.ipynb: expected a Jupyter notebook"):
            write_page(tmp_path / "x.ipynb", tmp_path / "x.html")
        assert [path.name for path in tmp_path.iterdir()] == ["x.ipynb"]


class TestIndex:
    @pytest.fixture
    def experiment(self, tmp_path: Path) -> Path:
        """Three training runs and their evaluation, one run on part of the faces, one killed."""
        rows = RUNS.assign(seed=0, macro_f1=0.5, train_seconds=75.0, num_test=800).to_dict(
            "records"
        )
        for row in rows:
            run = runs.start_run(
                tmp_path, "demo", "train", row["variant"], parameters={}, seed=0, device="cpu"
            )
            run.write_result(
                synthetic=True, approach=row["approach"], strategy=row["strategy"], seed=0
            )
        write_page(write_notebook(run.folder), run.folder / "notebook.html")
        evaluate = runs.start_run(
            tmp_path, "demo", "evaluate", "all", parameters={}, seed=0, device="cpu"
        )
        part = runs.start_run(
            tmp_path, "demo", "train", "part", parameters={}, seed=0, device="cpu"
        )
        part.write_result(synthetic=True, approach="scratch", strategy="full", seed=0)
        evaluate.write_result(synthetic=True, majority_accuracy=0.25, runs=rows, on_parts=["part"])
        runs.start_run(tmp_path, "demo", "train", "killed", parameters={}, seed=0, device="cpu")
        return tmp_path / "demo"

    def test_it_shows_every_run_best_first(self, experiment: Path) -> None:
        html = write_index(experiment).read_text(encoding="utf-8")
        shown = body(html)
        table = tables(experiment / "index.html")[0]
        assert table["run"].tolist() == ["c", "a", "b"]
        assert table["accuracy"].tolist() == ["90.0%", "70.0%", "50.0%"]
        assert table["95% CI"][0] == "85.0% – 95.0%"
        assert table["above majority (points)"][0] == "+65.0"
        assert table["training time (h:mm:ss)"][0] == "0:01:15"
        assert "Highest test accuracy: c with 90.0%" in shown
        assert "1 incomplete (train/killed)" in shown
        assert "Training runs: 5, pages: 6" in shown
        assert 'href="train/c/notebook.html"' in shown
        assert "synthetic toy faces" in shown.split("<h1")[0]
        assert html.count("Plotly.newPlot(") >= 2
        assert not REMOTE.search(shown)

    def test_recipes_of_several_seeds_have_a_mean(self, experiment: Path) -> None:
        recipe = {"recipe": "full", "seeds": 2, "accuracy": 0.75, "accuracy_sd": 0.05}
        recipes = [recipe | {"macro_f1": 0.7, "macro_f1_sd": 0.1}, {"recipe": "one", "seeds": 1}]
        path = experiment / "evaluate" / "all" / "evaluation_results.json"
        write_json(path, {"over_seeds": recipes})
        write_index(experiment)
        means = tables(experiment / "index.html")[1]
        assert means["recipe"].tolist() == ["full"]
        assert means["accuracy (mean ± SD)"][0] == "75.0% ± 5.0%"

    def test_it_shows_the_main_figures(self, experiment: Path) -> None:
        curve = {
            "kind": "fraction",
            "faces": 10,
            "runs": 1,
            "seen_faces": 20,
            "mean": 0.5,
            "low": 0.4,
            "high": 0.6,
        }
        curves = [curve | {"recipe": "<b>r", "share": share} for share in (0.1, 1.0)]
        write_json(experiment / "evaluate" / "all" / "evaluation_results.json", {"curves": curves})
        explain = runs.start_run(
            experiment.parent, "demo", "explain", "all", parameters={}, seed=0, device="cpu"
        )
        lost = {f"accuracy_lost{end}": [0.1] * 18 for end in ("", "_low", "_high")}
        explain.write_result(synthetic=True, runs=["<b>r"], num_faces=10, **lost)
        html = write_index(experiment).read_text(encoding="utf-8")
        for title in (
            "Accuracy on 800 test faces",
            "trained parameters",
            "fewer training faces",
            "without a layer",
        ):
            assert title in html
        assert html.count("Plotly.newPlot(") >= 4

    def test_its_question_and_provenance(self, experiment: Path, tmp_path: Path) -> None:
        config = tmp_path / "mine.yaml"
        config.write_text("experiment: demo\nquestion: Do <b>glasses matter?\n")
        shown = body(write_index(experiment, config).read_text(encoding="utf-8"))
        assert shown.index("Do &lt;b&gt;glasses matter?") < shown.index("All runs")
        made = shown.split("How this report was made")[1]
        version = atomic.read_json(experiment / "train" / "c" / "config.json")["versions"]["torch"]
        assert f"torch {version}" in made and "cpu" in made and "sum over all runs" in made
        again = body(
            write_index(experiment).read_text(encoding="utf-8")
        )  # the configuration stayed with it
        assert "Do &lt;b&gt;glasses matter?" in again and "question: Do" in again

    def test_runs_that_the_configuration_does_not_name_are_listed_apart(
        self, experiment: Path, tmp_path: Path
    ) -> None:
        config = tmp_path / "mine.yaml"
        config.write_text("experiment: demo\ntrain: {approach: scratch, seed: [0, 1]}\n")
        for variant in ("scratch-full-seed0", "part"):
            run = runs.start_run(
                tmp_path, "demo", "train", variant, parameters={}, seed=0, device="cpu"
            )
            run.write_result(synthetic=True, approach="scratch", strategy="full", seed=0)
        shown = body(write_index(experiment, config).read_text(encoding="utf-8"))
        assert tables(experiment / "index.html")[0]["run"].tolist() == ["scratch-full-seed0"]
        assert "Training runs: 1, pages: 2" in shown  # and the evaluation, which is a default
        for variant in ("a", "b", "c", "part", "killed"):
            assert re.search(rf"rm -r \S+/demo/train/{variant}<", shown)

    def test_a_damaged_configuration_is_named(self, experiment: Path) -> None:
        for content in (b"question: [", b"\xff\xfe", b"- a list", b"trian: {}\nexperiment: demo"):
            (experiment / "config.yaml").write_bytes(content)
            shown = body(write_index(experiment).read_text(encoding="utf-8"))
            assert "config.yaml: damaged" in shown and "All runs" in shown

    def test_an_experiment_without_runs(self, tmp_path: Path) -> None:
        assert "No runs yet" in write_index(tmp_path).read_text(encoding="utf-8")
        with pytest.raises(NotADirectoryError, match="nowhere: no experiment there"):
            write_index(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("layout", "names", "wide"),
    [
        ({}, ["a"], False),
        ({"xaxis": {"domain": [0, 0.4]}, "xaxis2": {"domain": [0.6, 1]}}, ["a"], True),
        ({"updatemenus": [{"buttons": []}]}, ["a"], True),
        ({}, list("abcde"), True),
        ({"title": {"subtitle": {"text": "s" * 80}}}, ["a"], True),
    ],
)
def test_a_figure_too_wide_for_a_phone_can_be_scrolled(
    layout: dict, names: list[str], wide: bool
) -> None:
    figure = go.Figure([go.Bar(y=[1], name=name) for name in names], layout)
    assert figure_div(figure).startswith(
        '<div class="figure wide">' if wide else '<div class="figure">'
    )


class TestFailures:
    def fail(self, folder: Path, reason: str = "lr: expected more") -> None:
        error = new_output("error", ename="ValueError", evalue=reason, traceback=["trace"])
        path = write_notebook(folder, ran("import torch"), ran("train(lr=0)", error, number=2))
        content = nbformat.read(path, as_version=4)
        content.metadata["papermill"] = {"input_path": "notebooks/02_train.ipynb"}
        nbformat.write(content, path)
        (folder / "notebook.html").touch()
        (folder / "log.txt").write_text("trace\nValueError: lr: expected more\n")

    def test_the_message_names_cell_reason_page_and_steps_that_wait(self, tmp_path: Path) -> None:
        self.fail(tmp_path / "train" / "a")
        message = describe_failures(tmp_path, ["train/a"], ["evaluate/all", "explain/all"])
        first, second, third = message.splitlines()
        assert (
            first
            == "train/a failed in cell 2 of notebooks/02_train.ipynb: ValueError: lr: expected more"
        )
        assert second == f"  See {tmp_path}/train/a/notebook.html"
        assert third == "Not run yet: evaluate/all, explain/all"
        assert describe_failures(tmp_path, [], ["evaluate/all"]) == ""

    def test_a_step_that_ran_no_cell_reports_the_end_of_its_log(self, tmp_path: Path) -> None:
        folder = tmp_path / "train" / "a"
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("\nNo such kernel named python3\n\n")
        message = describe_failures(tmp_path, ["train/a"], [])
        assert message.splitlines()[0].endswith(
            "before its first cell: No such kernel named python3"
        )
        assert message.splitlines()[1] == f"  See {folder / 'log.txt'}"

    def test_a_torn_notebook_was_stopped_from_outside(self, tmp_path: Path) -> None:
        self.fail(tmp_path)
        notebook = tmp_path / "notebook.ipynb"
        notebook.write_text(notebook.read_text()[:100])
        (tmp_path / "log.txt").write_text("")
        assert describe_failure(tmp_path).startswith("stopped from outside")

    def test_fastais_prefix_is_removed(self, tmp_path: Path) -> None:
        self.fail(
            tmp_path,
            "Exception occured in `StopOnNan` when calling event `after_loss`:\n\tloss is nan",
        )
        assert describe_failure(tmp_path).endswith("ValueError: loss is nan")


@pytest.mark.notebooks
def test_a_step_writes_its_notebook_page_and_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.ipynb"
    cells = [new_code_cell("word = 'none'  # one", metadata={"tags": ["parameters"]})]
    cells.append(
        new_code_cell("import os\nos.write(2, b'written to stderr')\nassert word == 'right', word")
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), source)
    assert main(["run", str(source), str(tmp_path / "good"), '{"word": "right"}']) == 0
    assert describe_failure(tmp_path / "good").startswith("stopped from outside")  # no cell failed
    assert capfd.readouterr().err == ""
    assert main(["run", str(source), str(tmp_path / "bad"), '{"word": "wrong"}']) == 1
    assert "written to stderr" in (tmp_path / "bad" / "log.txt").read_text()
    assert "AssertionError: wrong" in (tmp_path / "bad" / "notebook.html").read_text()
    message = capfd.readouterr().err
    assert re.search(
        r"bad failed in cell 3 of .*source.ipynb: AssertionError: wrong\n  See ", message
    )


def test_the_command_line(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "train" / "a")
    write_page(notebook, notebook.with_suffix(".html"))
    main(["index", str(tmp_path)])
    assert {path.name for path in tmp_path.rglob("*.html")} == {"notebook.html", "index.html"}
