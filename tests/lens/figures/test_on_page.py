"""Figures as a page shows them: another cell changes their rows and nothing else."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lens import figures

PIECES = [f"▁word{t}" for t in range(12)]
LABELS = ["L0", "L4", "L9"]
RANDOM = np.random.default_rng(0)
EXPERTS = RANDOM.integers(0, 8, (3, 12, 2))
VALUES, GATES = RANDOM.random((3, 12)), RANDOM.dirichlet(np.ones(8), 12)

OF_A_TOKEN = {
    "strip": lambda t: figures.token_strip(
        PIECES, figures.StripColours(VALUES[1]), experts=EXPERTS[1], picked=t
    ),
    "map": lambda t: figures.token_layer_map(
        VALUES, "margin", PIECES, LABELS, (t, 1), experts=EXPERTS
    ),
    "gates": lambda t: figures.cell_probabilities(
        GATES[t], EXPERTS[1, t], label="L4", piece=PIECES[t]
    ),
    "pushes": lambda t: figures.push_ticks(
        VALUES[0], VALUES[t % 3] + t, PIECES, token=t, label="L4"
    ),
    "course": lambda t: figures.logit_lens_by_layer(
        PIECES[t : t + 3], VALUES[:, t], VALUES[:, t], LABELS, layer=1, usual=VALUES[:, 0], after=""
    ),
    "candidates": lambda t: figures.candidate_bars(
        PIECES[t : t + 5], VALUES[0, t : t + 5], after=PIECES[t], chosen=t % 5
    ),
}


def table(stream: bytes) -> list[dict[str, object]]:
    return pa.ipc.open_stream(stream).read_all().to_pylist()


@pytest.mark.parametrize("make", OF_A_TOKEN.values(), ids=OF_A_TOKEN)
def test_another_token_leaves_the_specification_as_it_is(make):
    one, other = (figures.on_page(make(t)) for t in (2, 5))
    assert json.dumps(one.spec) == json.dumps(other.spec)
    assert one.rows != other.rows


@pytest.mark.parametrize("make", OF_A_TOKEN.values(), ids=OF_A_TOKEN)
def test_a_page_gets_the_rows_that_the_files_have(make):
    whole = make(3).to_dict()["datasets"]
    shown = figures.on_page(make(3)).rows
    assert [table(stream) for stream in shown.values()] == [list(rows) for rows in whole.values()]


def test_cells_of_a_page_are_scaled_and_left_to_the_width_there_is():
    chart = OF_A_TOKEN["map"](3)
    step = chart.to_dict()["height"]["step"]
    spec = figures.on_page(chart, stretch=True, scale=0.5).spec
    assert spec["height"] == {"step": max(3, round(step * 0.5))} and "width" not in spec
    assert "title" not in spec and "description" not in spec
