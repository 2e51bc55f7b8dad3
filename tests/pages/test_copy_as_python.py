"""The code that each figure of the routers' pages offers makes that figure again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import altair as alt
import pytest

from grok import BUNDLED_MODEL, trace_prompt
from lens import figures
from lens.figures import printing
from lens.figures.as_python import figure_program
from lens.figures.printing import Print, printed
from lens.recipe.steps import note
from lens.traces import routing
from tests.pages.copied_code import check, made_again

pytestmark = pytest.mark.usefixtures("few_drawn_sets")

ROOT = Path(__file__).resolve().parents[2]
VIEWS = [
    ("overview", {}),
    ("layers", {}),
    ("layers", {"colours": "z", "order": "clustered", "pair": "angles", "next": "change"}),
    ("layers", {"colours": "fixed", "metric": "matched_cosine", "pair": "angles"}),
    ("layers", {"view": "raw", "reference": "unrelated", "intervals": "without"}),
    ("experts", {"tab": "listens"}),
    ("experts", {"tab": "chains", "measure": "max_similarity"}),
    ("experts", {"tab": "within", "layer": "3"}),
    ("experts", {"tab": "within", "within": "correlation", "layer": "3"}),
    ("experts", {"tab": "within", "within": "mean", "view": "raw"}),
    ("experts", {"tab": "by_index"}),
    ("experts", {"tab": "classic"}),
    ("clustering", {"clusters": "4"}),
    ("clustering", {"linkage": "classic", "map": "pca", "colour": "groups"}),
]
Figures = dict[str, alt.TopLevelMixin]


@pytest.fixture
def figures_of(open_page, shown_figures) -> Callable[..., Figures]:
    """The figures that a page offers to save, by their keys."""

    def of(page: str, **query: str) -> Figures:
        app = open_page(page, draws="500", **query)
        assert not app.exception
        return shown_figures

    return of


@pytest.mark.parametrize("page, query", VIEWS)
def test_the_code_of_a_figure_makes_the_same_figure(figures_of, tmp_path, page, query):
    shown = figures_of(page, **query)
    for key in check(shown, set()):
        assert (tmp_path / f"{key}.pdf").exists()
    assert shown


def test_it_runs_as_pasted_where_the_project_is_at_hand(figures_of, tmp_path):
    chart = figures_of("layers")["layer_similarity_heatmap"]
    how = Print(width_mm=85, selection=True)
    code = figure_program(chart, "svg", how, file="figure.svg", note="from a page")
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "figure.svg").read_bytes() == printed(chart, "svg", how, "from a page")


@pytest.mark.parametrize(
    "query",
    [
        {"part": "load"},
        {"part": "pairs", "what": "entropy"},
        {"part": "order", "what": "top1"},
        {"part": "information"},
        {"part": "margins"},
        {"part": "prediction"},
        {"part": "paths"},
    ],
)
def test_the_code_of_a_routed_texts_figure_makes_the_same_figure(figures_of, query):
    shown = figures_of("live_routing", **query)
    codes = check(shown, {"token_strip", "token_layer_map", "cell_probabilities"})
    assert all('load_trace(BUNDLED_MODEL / "example_trace.npz")' in one for one in codes.values())


def test_the_code_of_a_prompt_that_was_run_here_runs_it_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(printing, "printed", lambda *_: b"")
    text = 'She said: "Guten Morgen"'
    trace = trace_prompt(BUNDLED_MODEL, text, "float32")
    note(trace, trace_prompt, str(BUNDLED_MODEL), text, "float32")
    labels = [f"L{layer}" for layer in range(trace.router_logits.shape[0])]
    chart = figures.load_by_layer(routing.load(trace), 0.1, 0.2, labels)
    code = figure_program(chart, "pdf", Print(), file="load.pdf")
    assert 'trace_prompt(BUNDLED_MODEL, \'She said: "Guten Morgen"\', "float32")' in code
    assert made_again(code).to_dict() == chart.to_dict()
