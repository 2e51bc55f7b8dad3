"""The map of the kinds of text that experts take."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from lens.figures.traces.label_map import MOST, NO_KIND, OTHERS, label_map
from tests.lens.figures.figure_reading import first

LAYERS = ["L0", "L1", "L2"]


def drawn(main: np.ndarray, kinds: list[str]):
    share = np.full(main.shape, 0.5)
    return label_map(main, share, kinds, LAYERS, chance="shuffled", picked=(1, 2))


def test_each_cell_says_its_kind_and_a_cell_of_none_says_that():
    main = np.array([[0, 1, -1, 0], [1, 1, 1, 0], [-1, 0, 0, 1]])
    chart = drawn(main, ["German", "<b>"])
    rows = first(chart, "rect")["rows"]
    assert [row["kind"] for row in rows[:3]] == ["German", "<b>", NO_KIND]
    assert [row["short"] for row in rows[:3]] == ["Ge", "<b", ""]
    assert rows[2]["share"] is None and rows[0]["share"] == 0.5
    assert "10 of 12 take a kind more" in figures.alt_text(chart)


@pytest.mark.parametrize("n_kinds", [1, MOST, MOST + 4])
def test_the_kinds_of_most_experts_have_colours_of_their_own(n_kinds):
    kinds = [f"kind {i}" for i in range(n_kinds)]
    main = np.minimum(np.arange(36).reshape(3, 12), n_kinds - 1)
    colour = drawn(main, kinds).to_dict()["layer"][0]["encoding"]["color"]
    domain, colours = colour["scale"]["domain"], colour["scale"]["range"]
    assert len(domain) == len(colours) == len(set(colours)) == min(n_kinds, MOST + 1) + 1
    assert (OTHERS in domain) == (n_kinds > MOST)
    assert kinds[-1] in domain  # the one that most experts take
