"""The words that an expert takes, on its card."""

from __future__ import annotations

import numpy as np

from lens.vocabulary.readout import TESTS
from pages.expert_views import stored_cards
from pages.vocabulary import chips


def test_pieces_are_text_and_a_blank_before_a_word_is_left_out():
    shown = chips.chips_html(["▁pour", "<b>", "▁"])
    assert "<span>pour</span>" in shown and "&lt;b&gt;" in shown and "<b>" not in shown
    assert "<span>·</span>" in shown


def test_without_a_stored_run_the_card_opens_on_the_expert_whose_words_stand_out_most(
    open_page, routers, monkeypatch
):
    monkeypatch.setattr(stored_cards, "cards_of", lambda routers: None)
    app = open_page("experts")
    shown = app.selectbox(key="layer").value, app.selectbox(key="expert").value
    words = chips.at_hand(routers, "canonical")
    assert words is not None
    assert shown == words.readout.most_telling
    p = words.readout.p[TESTS.index("top")]
    assert p[shown] == np.nanmin(p)
    label = routers.label(*shown)
    assert any(f"{label} is called most by" in element.value for element in app.markdown)
    first = words.source.piece(int(words.readout.top[shown][0])).removeprefix("▁")
    assert any(f"<span>{first}</span>" in element.proto.body for element in app.get("html"))
    assert any("From the token embedding alone" in element.value for element in app.caption)
