"""The routed sentence of the first page is the bundled model's own, and is shown as text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok import load
from lens import figures
from lens.finding import Finding
from lens.traces.contrast import first_choice_contrast
from lens.traces.trace import Trace, load_trace
from pages.overview_views import hero
from pages.shell import data_source
from tests.lens.figures.figure_reading import first, rows


@pytest.fixture(scope="module")
def stored() -> Trace:
    return load_trace(hero.example_file())


def test_the_stored_routing_is_what_the_bundled_model_does(stored, routers):
    assert stored.model_sha256 == routers.sha256
    text = "".join(stored.pieces.tolist()).replace("▁", " ").strip()
    again = load(data_source.bundled_checkpoint()).trace_routing(text)
    assert again.pieces.tolist() == stored.pieces.tolist()
    np.testing.assert_array_equal(again.experts, stored.experts)


def test_every_token_has_a_box_in_the_colour_of_its_first_expert(stored):
    shown = hero.routed_html(stored, 3)
    assert shown.count("<span") == stored.n_tokens
    for expert in set(stored.experts[3, :, 0].tolist()):
        boxes = shown.count(f"<i>E{expert}</i>")
        assert boxes == (stored.experts[3, :, 0] == expert).sum()
        assert shown.count(f"background:{figures.expert_colour(expert)[0]}") == boxes


def test_a_token_is_text_and_never_markup(stored):
    pieces = stored.pieces.astype("<U20")
    pieces[0] = "<img src=x>"
    assert "<img" not in hero.routed_html(replace(stored, pieces=pieces), 0)


def test_the_sentence_counts_first_choices(stored):
    german = np.arange(stored.n_tokens) >= stored.pieces.tolist().index("▁Sie")
    found = first_choice_contrast(stored, ~german, 8)
    first_ones = stored.experts[8, :, 0]
    assert found.inside == (first_ones[~german] == found.expert).sum()
    assert found.outside == (first_ones[german] == found.expert).sum()
    assert f"{found.inside} of {found.n_inside} English tokens" in hero.in_words(stored, 8)


def test_the_first_page_shows_a_routed_sentence_before_any_click(open_page):
    app = open_page()
    assert not app.exception
    assert app.select_slider(key="hero_layer").value == hero.BEST_LAYER
    app.select_slider(key="hero_layer").set_value(0).run()
    assert not app.exception
    assert any("of L0." in caption.value for caption in app.caption)


def test_an_effect_is_a_dot_beside_the_band_of_chance():
    finding = Finding("x", "found", effect=0.3, null_low=0.1, null_high=0.2)
    chart = figures.effect_on_chance(finding)
    assert rows(first(chart, "bar"))[0] == {"x": 0.1, "x2": 0.2}
    assert rows(first(chart, "circle"))[0]["x"] == 0.3
    low, high = first(chart, "circle")["encoding"]["x"]["scale"]["domain"]
    assert low < 0.1 and high > 0.3
