"""An expert's card: what it takes in the stored run, its chain, and the word that asks for it."""

from __future__ import annotations

import pytest

from lens.findings.of_experts import expert_takes
from lens.many_prompts.run_words import Occurrence
from pages.expert_views import contexts, stored_cards

pytestmark = pytest.mark.usefixtures("few_drawn_sets")


def bodies(app) -> str:
    return "\n".join(element.proto.body for element in app.get("html"))


def test_the_page_opens_on_the_expert_that_takes_one_kind_most(open_page, routers):
    app = open_page("experts")
    cards = stored_cards.cards_of(routers)
    shown = app.selectbox(key="layer").value, app.selectbox(key="expert").value
    assert shown == cards.most_telling
    finding = expert_takes(cards, *shown, routers.label(*shown))
    assert finding.found and finding.sentence in bodies(app)
    assert finding.detail in [element.value for element in app.markdown]  # behind "Numbers"
    assert app.selectbox(key="measure").value == "takes"
    first = contexts.bare(cards.pieces[cards.words(*shown)[0]])
    assert f"<span>{first}</span>" in bodies(app)
    assert f"<mark>{contexts.bare(cards.contexts(*shown)[0].piece)}</mark>" in bodies(app)


def test_a_word_leads_to_the_experts_that_take_it(open_page, routers):
    app = open_page("experts")
    cards = stored_cards.cards_of(routers)
    app.text_input(key="likes").input("und").run()
    assert not app.exception
    buttons = [button for button in app.button if str(button.key).startswith("likes_")]
    _, layer, expert = buttons[0].key.split("_")
    word = cards.pieces.index("▁und")
    assert f"{cards.taken[int(layer), int(expert), word]} of {cards.occurrences[word]}" in (
        buttons[0].label
    )
    buttons[0].click().run()
    assert app.selectbox(key="layer").value == int(layer)
    assert app.selectbox(key="expert").value == int(expert)


@pytest.mark.parametrize("typed", ["<b>$x$", "#99999", "Donaudampfschiff", "\u4e2d"])
def test_any_word_may_be_asked_for(open_page, typed):
    app = open_page("experts")
    app.text_input(key="likes").input(typed).run()
    assert not app.exception and not app.error


def test_a_step_of_the_chain_opens_that_expert(open_page, routers):
    app = open_page("experts", layer="4", expert="6")
    steps = [button for button in app.button if str(button.key).startswith("strip_")]
    assert [button.key for button in steps] == [f"strip_{layer}" for layer in range(2, 7)]
    assert steps[2].label.startswith("L4·E6")
    name = steps[3].label.split()[0]
    steps[3].click().run()
    shown = app.selectbox(key="layer").value, app.selectbox(key="expert").value
    assert routers.label(*shown) == name


def test_statistics_are_folded_until_they_are_asked_for(open_page):
    assert not open_page("experts").tabs
    assert open_page("experts", tab="within").tabs


def test_router_files_alone_say_what_words_would_need(open_page):
    from tests.pages.test_pages import small_set

    app = open_page("experts", state={"uploaded_routers": small_set(4)}, source="upload")
    assert not app.exception and not [box for box in app.text_input if box.key == "likes"]
    assert any("that needs the model" in element.value for element in app.caption)
    assert app.selectbox(key="measure").value == "breadth"


def test_contexts_are_text():
    one = Occurrence(0, 0, "<i>", 0, "▁<b>", 0.5, 0, ("▁a<u>",), ("\n",))
    shown = contexts.contexts_html([one], many_labels=True)
    assert "…&nbsp" not in shown and " a&lt;u&gt; <mark>&lt;b&gt;</mark>⏎…" in shown
    assert "&lt;i&gt;" in shown and "<b>" not in shown and "<u>" not in shown
