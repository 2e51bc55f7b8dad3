"""Many prompts, first of all: which experts take which kind of text, and one expert closely."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens.errors import LensError
from lens.figures.token_grid import bare
from lens.many_prompts import label_tests
from lens.many_prompts.expert_cards import ExpertCards, cards_of
from lens.many_prompts.label_tests import LabelTest
from lens.many_prompts.run_record import Run
from lens.many_prompts.run_words import Words
from lens.tables import expert_cards
from pages.expert_views import takes
from pages.guide import tables
from pages.live.many import words as many_words
from pages.live.many.traces import Many
from pages.shell import layout, links
from pages.shell.picks import pick_expert
from pages.shell.session_keys import selected_rows

SAID = 4  # words of a label's expert


def show(run: Run, many: Many, test: LabelTest, skip: int) -> tuple[int, int]:
    """The map of all experts, the chosen one, and each label's expert; returns the chosen one."""
    words: Words | None = None
    inside: Words | None = None
    try:
        words = many_words.counted(run, skip, "run")
        inside = many_words.counted(run, skip, "prompt")
    except LensError:
        pass  # no word occurs often enough
    cards = cards_of(many.folder, test, words, inside)
    first = cards.most_telling
    left, right = st.columns([3, 2], gap="medium")
    with right, st.container(border=True):
        one, two = st.columns(2)
        with one:
            layer = layout.layer_choice(many.labels, default=first[0])
        with two:
            expert = layout.expert_choice(many.folder.n_experts, default=first[1])
        name = f"{many.labels[layer]}·E{expert}"
        takes.show(cards, layer, expert, name, many_words.contexts_of(run, skip, layer, expert))
    with left:
        _map(many, cards, (layer, expert))
        _labels(many, cards)
    return layer, expert


def _map(many: Many, cards: ExpertCards, picked: tuple[int, int]) -> None:
    chance = "labels permuted over prompts"
    many.figure(
        takes.kinds_map(cards, many.labels, chance=chance, picked=picked),
        "label_map",
        stretch=True,
        on_pick=pick_expert,
        table=lambda: expert_cards.kinds_csv(cards, many.labels),
    )


def _labels(many: Many, cards: ExpertCards) -> None:
    """Each label with the expert that is most its own; a row opens that expert's card."""
    folder = many.folder
    over = cards.over
    places: list[tuple[int, int] | None] = []
    rows: list[dict[str, object]] = []
    effective = label_tests.effective_by_label(label_tests.load_by_label(folder))
    for group, label in enumerate(folder.labels):
        own = folder.label_of == group
        layer, expert = np.unravel_index(over[group].argmax(), over[group].shape)
        at = int(layer), int(expert)
        told = over[group][at] > 0
        places.append(at if told else None)
        said = list(map(bare, cards.said(*at)[:SAID])) if told else []
        rows.append(
            {
                "label": label,
                "its expert": f"{many.labels[at[0]]}·E{at[1]}" if told else "–",
                "takes of it": 100 * float(cards.share[group][at]) if told else None,
                "of the rest": 100 * float(cards.elsewhere[group][at]) if told else None,
                "words": ", ".join(said),
                "prompts": int(own.sum()),
                "tokens": int(folder.n_tokens[own].sum()),
                "effective experts": float(effective[group].mean()),
                "margin": float(folder.margins[own].mean()),
            }
        )

    def picked() -> None:
        chosen = selected_rows("many_label_experts")
        place = places[chosen[0]] if chosen else None
        if place is not None:
            links.choose(layer=place[0], expert=place[1])

    st.markdown("**Each label's expert**")
    tables.show(
        rows,
        key="many_label_experts",
        on_select=picked,
        selection_mode="single-row",
        column_config={
            "takes of it": st.column_config.NumberColumn(
                format="%.0f %%", help="Share of the label's tokens that the expert takes"
            ),
            "of the rest": st.column_config.NumberColumn(
                format="%.0f %%", help="Share of all other tokens that it takes"
            ),
            "effective experts": st.column_config.NumberColumn(
                format="%.2f", help="exp of the entropy of the label's load, mean over layers"
            ),
            "margin": st.column_config.NumberColumn(
                format="%.3f", help="Mean, in what the experts are chosen by: logits, or scores"
            ),
        },
    )
