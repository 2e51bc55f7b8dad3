"""Figures of interventions hold the numbers they are given, beside those of the control."""

from __future__ import annotations

import numpy as np
import pytest

from lens.figures import theme
from lens.figures.prompt_pairs import interventions as drawn
from lens.figures.prompt_pairs import sweeps
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

LABELS = ["L0", "L4", "L8"]
PIECES = ["▁the", "\n", "cat", '"', "мир"]
RNG = np.random.default_rng(0)


def test_the_map_shows_the_share_of_experts_exchanged():
    overlap = RNG.choice([0.0, 0.5, 1.0], size=(3, 5))
    chart = drawn.moved_map(overlap, PIECES, LABELS, layer=1, picked=(2, 1))
    cells = rows(first(chart, "rect"))
    assert len(cells) == 15
    for cell in cells:
        assert cell["value"] == 1 - overlap[cell["layer"], cell["token"]]
    assert selection(chart)["fields"] == ["token", "layer"]
    assert f"{100 * np.mean(overlap < 1):.1f}\u00a0% of all cells moved" in title_text(chart)
    assert rows(first(chart, "tick")) == [{"y": "L4"}]
    assert sum(mark(view) == "rect" for view in views(chart.to_dict())) == 3  # cells, two rings


def test_a_long_text_is_drawn_in_part_and_says_so():
    n = 8000
    chart = drawn.moved_map(np.ones((3, n)), ["a"] * n, LABELS, layer=0, picked=(7000, 0))
    assert marks(chart) <= theme.MAX_MARKS
    assert "of 8000" in title_text(chart)
    assert any(cell["token"] == 7000 for cell in rows(first(chart, "rect")))
    bars = drawn.change_by_token(np.ones(n), np.ones((7, n)), ["a"] * n, name="L0·E1")
    assert marks(bars) <= 2 * theme.MAX_MARKS and "of 8000" in title_text(bars)


def test_change_stands_beside_that_of_the_other_experts():
    kl, others = RNG.random(5), RNG.random((7, 5))
    chart = drawn.change_by_token(kl, others, PIECES, name="L4·E2", picked=3)
    assert [row["value"] for row in rows(first(chart, "bar"))] == pytest.approx(kl, rel=1e-5)
    grey = rows(first(chart, "rule"))
    assert [row["value"] for row in grey] == pytest.approx(others.mean(axis=0), rel=1e-5)
    assert [row["high"] for row in grey] == pytest.approx(others.max(axis=0), rel=1e-5)
    assert selection(chart)["fields"] == ["token"]
    assert "L4·E2" in title_text(chart) and "nats" in title_text(chart)


def test_routing_downstream_stands_in_the_range_of_the_others():
    moved, others = RNG.random(3), RNG.random((7, 3))
    chart = drawn.moved_by_layer(moved, others, LABELS, name="L4·E2")
    band = rows(first(chart, "area"))
    assert [row["value"] for row in band] == pytest.approx(others.min(axis=0), rel=1e-5)
    assert [row["high"] for row in band] == pytest.approx(others.max(axis=0), rel=1e-5)
    assert [row["value"] for row in rows(first(chart, "point"))] == pytest.approx(moved, rel=1e-5)


def test_effects_of_a_layer_stand_against_use_with_the_same_tokens_beside():
    use, effect = RNG.random(4), RNG.random(4)
    chart = drawn.effects_in_layer([2, 0, 1, 3], use, effect, "L4", own=2, instead=0.25)
    dots = rows(first(chart, "circle"))
    assert [d["unit"] for d in dots] == ["L4·E2", "L4·E0", "L4·E1", "L4·E3"]
    assert [d["value"] for d in dots] == pytest.approx(effect, rel=1e-5)
    assert [d["own"] for d in dots] == [True, False, False, False]
    beside = rows(first(chart, "point"))
    assert beside == [{"use": pytest.approx(use[0], rel=1e-5), "value": 0.25}]
    assert selection(chart)["fields"] == ["expert"]
    assert "lose their other expert" in title_text(chart)
    alone = drawn.effects_in_layer([2, 0, 1, 3], use, effect, "L4", own=2)
    assert "lose" not in title_text(alone)


def test_next_tokens_show_both_runs_and_the_change():
    before, after = np.array([0.5, 0.2]), np.array([0.1, 0.6])
    chart = drawn.next_tokens_changed(["▁a", "<b>"], before, after, following="x")
    dots = rows(first(chart, "point"))
    assert [(d["run"], d["value"]) for d in dots] == [
        ("as it is", 0.5), ("as it is", 0.2), ("changed", 0.1), ("changed", 0.6)
    ]  # fmt: skip
    assert [d["change"] for d in dots[:2]] == pytest.approx([-0.4, 0.4])


def test_the_sweep_marks_experts_that_no_token_uses():
    effect, used = RNG.random((3, 8)), RNG.random((3, 8)) < 0.5
    chart = sweeps.expert_effects(effect, used, LABELS, unit="nats", what="ban it", picked=(1, 2))
    cells = rows(first(chart, "rect"))
    assert [c["value"] for c in cells] == pytest.approx(effect.ravel(), rel=1e-5)
    assert [c["used"] for c in cells] == used.ravel().tolist()
    dots = first(chart, "text")
    assert dots["transform"] == [{"filter": "!datum.used"}] and dots["mark"]["text"] == "·"
    assert selection(chart)["fields"] == ["layer", "expert"]
    top = np.unravel_index(effect.argmax(), effect.shape)
    assert f"{LABELS[top[0]]}·E{top[1]}" in chart.description


@pytest.mark.parametrize("n_experts", [8, 64, 128, 256])
def test_the_effects_of_hundreds_of_experts_fit_a_page(n_experts):
    effect = RNG.random((3, n_experts))
    chart = sweeps.expert_effects(effect, effect > 0.5, LABELS, unit="nats", what="ban it")
    step = chart.to_dict()["width"]["step"]
    assert step >= 3 and step * n_experts < 850
    assert first(chart, "text")["mark"]["fontSize"] <= max(7, 2.5 * step)


def test_effects_of_both_signs_get_diverging_colours_about_zero():
    def scale(effect):
        chart = sweeps.expert_effects(effect, effect != 9, LABELS, unit="p", what="")
        return first(chart, "rect")["encoding"]["color"]["scale"]

    effect = RNG.standard_normal((3, 8))
    both = scale(effect)
    assert both["domainMid"] == 0 and both["domain"][0] == -both["domain"][1]
    assert scale(np.abs(effect))["domain"][0] == 0
    assert scale(np.zeros((3, 8)))["domain"] == [0, 1]


def test_effect_against_use_draws_every_expert_and_rings_the_chosen():
    effect, weight = RNG.random((3, 8)), RNG.random((3, 8))
    chart = sweeps.effects_against_use(effect, weight, LABELS, unit="nats", picked=(2, 5))
    dots = rows(first(chart, "circle"))
    assert len(dots) == 24 and dots[13]["unit"] == "L4·E5"
    ring = rows(first(chart, "point"))[0]
    assert ring["value"] == pytest.approx(effect[2, 5], rel=1e-5)
    assert rows(first(chart, "rule"))[0]["weight"] == pytest.approx(1 / 8)


def test_a_patch_map_is_centred_on_nothing_recovered():
    share = RNG.uniform(-0.5, 1.2, (3, 2))
    chart = sweeps.patch_map(
        share, np.array([1, 4]), ["a | b", "c"], LABELS, title="Recovered", subtitle="stream"
    )
    cells = first(chart, "rect")
    assert [c["value"] for c in rows(cells)] == pytest.approx(share.ravel(), rel=1e-5)
    assert cells["encoding"]["color"]["scale"]["domain"] == [-1, 1]
    assert {c["x"] for c in rows(cells)} == {"1 a | b", "4 c"}
    assert f"{share.max():.2f}" in chart.description
