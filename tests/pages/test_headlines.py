"""The first line of every page of routers is plain, whatever the routers."""

from __future__ import annotations

import numpy as np
import pytest

from lens.routers.router_set import RouterSet
from pages.shell.finding_block import NUMBERS
from tests.headline_words import faults

PAGES = ("overview", "layers", "experts", "clustering")


def made(n_layers: int, n_experts: int = 6, top_k: int = 2) -> RouterSet:
    weights = np.random.default_rng(7).standard_normal((n_layers, 48, n_experts))
    return RouterSet(weights.astype(np.float32), top_k=top_k, source="made for a test")


SETS = {"bundled": None, "noise": made(9), "one layer": made(1), "three layers": made(3)}


@pytest.mark.parametrize("name", [*PAGES, "features"])
@pytest.mark.parametrize("kind", SETS)
def test_a_headline_is_short_and_has_no_symbol_and_no_p_value(open_page, name, kind):
    routers = SETS[kind]
    state, query = ({"uploaded_routers": routers}, {"source": "upload"}) if routers else ({}, {})
    app = open_page(name, state=state, draws="500", **query)
    assert not app.exception
    for line in app.subheader:
        assert not faults(line.value), line.value


@pytest.mark.parametrize("name", PAGES)
def test_the_numbers_behind_a_headline_are_a_click_away(open_page, name):
    app = open_page(name)
    popovers = [block for block in app.get("popover") if block.proto.popover.label == NUMBERS]
    assert popovers
    assert any("95 % of" in element.value for element in popovers[0].markdown)


@pytest.mark.parametrize(
    "bad", ["", "p 0.03 for it", "a = b", "|Δ| > 2σ of it", "CKA is large", " ".join(["word"] * 26)]
)
def test_a_headline_with_a_formula_or_too_many_words_is_seen(bad):
    assert faults(bad)
