"""Figures of chains and of experts within a layer mark what beats their null, and say it."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from lens.experts.chains import SignificantChains, significant_chains
from lens.experts.within_layers import within_layers
from lens.layers.similarity import layer_pair
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

LABELS = [f"L{i}" for i in (2, 3, 5, 9)]


@pytest.fixture(scope="module")
def found() -> SignificantChains:
    """Two experts that go on through all layers under changing numbers; the others are noise."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 400, 5)).astype(np.float32)
    kept = rng.normal(size=(2, 400))
    for layer in range(4):
        for i in range(2):
            weights[layer, :, (layer + 2 * i) % 5] = kept[i] + 0.3 * weights[layer, :, i]
    return significant_chains(router_gram(RouterSet(weights)), draws=99, seed=3)


def test_each_link_beats_mixed_experts_and_bears_its_cosine_and_names(found):
    chart = figures.expert_chains(found, LABELS)
    drawn = {row["name"]: row["score"] for row in rows(first(chart, "rule"))}
    expected = {}
    for link, expert in np.argwhere(found.links.q <= found.level):
        to = found.links.partner[link, expert]
        name = f"{LABELS[link]}·E{expert} → {LABELS[link + 1]}·E{to}"
        expected[name] = found.links.score[link, expert]
    assert len(expected) >= 6
    assert drawn == pytest.approx(expected, rel=1e-5)


def test_a_lane_is_a_chain_with_its_experts_under_their_layers(found):
    chart = figures.expert_chains(found, LABELS)
    spots = rows(first(chart, "circle"))
    chains = [chain for chain in found.chains if len(chain) > 1]
    for lane, chain in enumerate(chains):
        own = [row for row in spots if row["lane"] == lane]
        assert [row["layer"] for row in own] == list(range(chain.first, chain.last + 1))
        assert [row["expert"] for row in own] == list(chain.experts)
        assert [row["x"] for row in own] == [LABELS[row["layer"]] for row in own]
    assert selection(chart)["fields"] == ["layer", "expert"]


def test_the_chosen_expert_is_ringed_in_its_lane(found):
    chain = found.chains[0]
    chart = figures.expert_chains(found, LABELS, (chain.first, chain.experts[0]))
    ring = [view for view in views(chart.to_dict()) if mark(view) == "point"]
    assert [rows(view) for view in ring] == [[{"lane": 0, "x": LABELS[chain.first]}]]


def test_chains_say_links_chance_draws_and_seed(found):
    chart = figures.expert_chains(found, LABELS)
    assert f"{found.n_beyond} of 15" in title_text(chart)
    assert "99 draws a link, seed 3" in title_text(chart)
    assert "changes from layer to layer" in title_text(chart)
    assert f"through {len(found.chains[0])} layers" in figures.alt_text(chart)


def test_no_more_lanes_than_asked_and_the_rest_is_counted(found):
    more = sum(len(chain) > 1 for chain in found.chains) - 1
    chart = figures.expert_chains(found, LABELS, lanes=1)
    assert {row["lane"] for row in rows(first(chart, "circle"))} == {0}
    assert f"{more} shorter ones are in the table" in title_text(chart)


def test_cosines_of_a_layer_mark_the_pairs_beyond_chance():
    weights = np.random.default_rng(4).normal(size=(1, 300, 6)).astype(np.float32)
    weights[0, :, 4] = weights[0, :, 1] + 0.5 * weights[0, :, 4]
    within = within_layers(router_gram(RouterSet(weights), "raw"), draws=99)
    chart = figures.expert_cosines_against_chance(
        within.cosines[0], within.q[0], within.baseline, layer_label="L9"
    )
    cells = first(chart, "rect")
    assert cells["encoding"]["color"]["scale"]["domainMid"] == pytest.approx(within.baseline)
    assert {(c["ea"], c["eb"]) for c in rows(cells)} == {
        (a, b) for a in range(6) for b in range(6) if a != b
    }
    for cell in rows(cells):
        at = cell["ea"], cell["eb"]
        assert cell["value"] == pytest.approx(within.cosines[0][at], rel=1e-5)
        assert cell["mark"] == ("•" if within.q[0][at] <= 0.05 else "")
    assert {(c["ea"], c["eb"]) for c in rows(cells) if c["mark"]} >= {(1, 4), (4, 1)}
    count = int((within.q[0] <= 0.05).sum()) // 2
    assert f"{count} of 15 pairs" in title_text(chart)
    assert "L9" in title_text(chart)
    assert selection(chart)["fields"] == ["ea", "eb"]
    assert f"{count} of 15 pairs" in figures.alt_text(chart)


def test_cosines_of_256_experts_draw_those_furthest_from_chance():
    cosines = np.random.default_rng(5).uniform(-0.1, 0.1, (256, 256))
    cosines = (cosines + cosines.T) / 2
    cosines[3, 250] = cosines[250, 3] = 0.9
    chart = figures.expert_cosines_against_chance(
        cosines, np.ones((256, 256)), 0.0, layer_label="L0"
    )
    cells = rows(first(chart, "rect"))
    assert len(cells) <= 20_000
    assert [(c["a"], c["b"]) for c in cells if c["value"] > 0.5] == [
        ("E3", "E250"),
        ("E250", "E3"),
    ]
    assert "of 256 experts" in title_text(chart)
    assert "0 of 32640 pairs" in title_text(chart)


def test_pairs_of_layers_of_256_experts_draw_the_best_matched():
    weights = np.random.default_rng(6).normal(size=(2, 300, 256)).astype(np.float32)
    weights[1, :, 7] = weights[0, :, 255]
    pair = layer_pair(router_gram(RouterSet(weights)), 0, 1)
    names = figures.expert_names("L0", 256), figures.expert_names("L1", 256)
    chart = figures.pair_matrix(pair, *names)
    assert marks(chart) <= 20_500  # cells, and two outlines for each match
    cells = rows(first(chart, "rect"))
    assert len(cells) <= 20_000
    best = max(cells, key=lambda cell: cell["value"])
    assert (best["a"], best["b"], best["ea"], best["eb"]) == ("L0·E255", "L1·E7", 255, 7)
    ring = [view for view in views(chart.to_dict()) if mark(view) == "rect"][1]
    drawn = {cell["a"] for cell in cells}
    assert {row["a"] for row in rows(ring)} == drawn
    order = np.argsort(-pair.matched, kind="stable")
    assert drawn == {f"L0·E{k}" for k in order[: len(drawn)]}
    assert "best matched of 256" in title_text(chart)
