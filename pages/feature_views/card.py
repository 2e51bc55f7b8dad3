"""The card of one feature: what it is, where it is active, where its tokens go."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st

from lens.escaping import as_markdown
from lens.features.card import FeatureCard, feature_name
from lens.features.store import FeatureStore
from lens.figures.features import feature_routes, strength_histogram
from lens.figures.token_grid import visible
from lens.storage import csv_text
from lens.storage.feature_notes import FeatureNote
from lens.words import counted, fixed, percent
from pages.feature_views import contexts
from pages.guide import tables
from pages.notes import card as note_card
from pages.notes import kept_features
from pages.notes.kept_features import Own
from pages.shell import layout, links
from pages.shell.layout import Provenance
from pages.shell.picks import Mark

TABS = {
    "where": "Where it is active",
    "experts": "Experts",
    "next": "Next words",
    "like": "Alike",
    "strength": "Strength",
}
KINDS = {
    "top": "Strongest",
    "quarter 4": "Strongest quarter",
    "quarter 3": "Second quarter",
    "quarter 2": "Third quarter",
    "quarter 1": "Weakest quarter",
}


def show(store: FeatureStore, card: FeatureCard, origin: Provenance, notes: Own) -> None:
    """The card, with what is told of the feature in tabs.

    Args:
        store: the database.
        card: of the feature.
        origin: of its figures.
        notes: the person's own, on features of this dictionary.
    """
    st.subheader(card.title, anchor=False)
    own = FeatureNote(store.summary().dictionary_sha256, card.group, card.feature)
    note_card.show_feature(notes.get((card.group, card.feature), own), card.title)
    if not card.n:
        st.markdown("It was never active in the text that was read: a dead feature.")
        return
    st.markdown(in_words(card))
    if card.explanation is not None:
        told(card)
    tabs = {
        name: text for name, text in TABS.items() if name != "next" or card.raised or card.lowered
    }
    for tab, container in links.tabs("about", tabs):
        with container:
            if tab == "where":
                where(card)
            elif tab == "experts":
                experts(card, origin)
            elif tab == "next":
                next_words(card)
            elif tab == "like":
                alike(store, card, kept_features.names(notes))
            else:
                strength(card, origin)


def in_words(card: FeatureCard) -> str:
    """What the feature is on, and the expert that it goes with beyond its words, in a sentence."""
    words = ", ".join(f"“{as_markdown(visible(piece))}”" for _, piece, _ in card.words[:3])
    on = f"Mostly on {words}; active" if words else "Active"
    sentence = f"{on} at {percent(card.rate, 2)} of tokens."
    rows = card.strongest_routes()
    sent = np.flatnonzero(rows["found"] & (rows["excess"] > 0))
    if not len(sent):
        return sentence + " It goes with no expert oftener than its words and kinds of text do."
    name = f"L{int(rows['layer'][sent[0]])}·E{int(rows['expert'][sent[0]])}"
    share, excess = float(rows["share"][sent[0]]), float(rows["excess"][sent[0]])
    return (
        f"{sentence} {percent(share)} of its tokens go to {name}, where the same words in the same "
        f"kinds of text go at {percent(share - excess)}."
    )


def told(card: FeatureCard) -> None:
    """A sentence on when it is active, and how well that tells held-out contexts apart."""
    one = card.explanation
    assert one is not None
    st.markdown(f":material/label: Active on: {as_markdown(one.text)}")
    beats = one.low > 0.5
    if not np.isfinite(one.detection):
        st.caption(f"By {as_markdown(one.explainer)}. Too few held-out contexts to judge it by.")
        return
    st.badge(
        "tells it apart" if beats else "not beyond guessing",
        icon=":material/check:" if beats else None,
        color="green" if beats else "gray",
    )
    st.caption(
        f"By {as_markdown(one.explainer)}. On {counted(one.contexts, 'held-out context')} it says "
        f"rightly whether the feature is active in {percent(one.detection)} (95 % interval "
        f"{percent(one.low)} to {percent(one.high)}; guessing gives 50 %), and at which token in "
        f"{percent(one.fuzzing)}."
    )


def where(card: FeatureCard) -> None:
    """Contexts by strength, and how much the word alone explains."""
    kinds = [kind for kind in KINDS if card.of_kind(kind)]
    for kind in kinds:
        found = card.of_kind(kind)
        if kind == "top":
            st.html(contexts.html(found, card.largest))
            continue
        with st.expander(KINDS[kind]):
            st.html(contexts.html(found, card.largest))
    parts = card.explained
    st.caption(
        f"Of its strength's variance the kind of text explains {percent(parts['domain'])}, the "
        f"token's id {percent(parts['token'])}, it and the one before {percent(parts['pair'])}. "
        "Where a single word explains nearly all, the feature is a detector of that word."
    )


def experts(card: FeatureCard, origin: Provenance) -> None:
    """Where its tokens go, what it adds to each expert's logit, and what happens without it."""
    rows = card.strongest_routes()
    if not len(rows["layer"]):
        st.info("It goes with no expert more than chance gives.")
        return
    layout.figure(
        feature_routes(card),
        "feature_routes",
        origin,
        words=(card.title,),
        table=lambda: csv_text.table_csv(rows),
        on_pick=to_expert,
        stretch=True,
    )
    tables.show(
        {
            "expert": [f"L{a}·E{e}" for a, e in zip(rows["layer"], rows["expert"], strict=True)],
            "goes there": rows["share"],
            "all tokens": rows["base"],
            "beyond its words": rows["excess"],
            "q": 10.0 ** rows["log10_q"],
            "adds": rows["push"],
            "flips": rows["flips"],
        },
        key="feature_experts",
        column_config={
            name: st.column_config.NumberColumn(format="percent")
            for name in ("goes there", "all tokens", "beyond its words", "flips")
        }
        | {
            "adds": st.column_config.NumberColumn(
                format="%.3f",
                help="Logits that it adds there, on average where it is active, with the norm's "
                "scale held; empty for layers before the one it writes",
            )
        },
    )
    st.caption(
        f"Without it, {percent(max(card.flips, 0.0), 1)} of its tokens would choose another expert "
        f"at L{card.flips_layer}, where it changes most."
        if card.flips_layer >= 0
        else "It changes no route directly."
    )


def to_expert(mark: Mark) -> None:
    """A clicked expert is searched by."""
    links.choose(find="expert", layer=int(mark["layer"]), expert=int(mark["expert"]))


def next_words(card: FeatureCard) -> None:
    """Next tokens that it makes likelier and less likely, directly."""
    for title, rows in (("Likelier", card.raised), ("Less likely", card.lowered)):
        st.markdown(f"**{title}**")
        tables.show(
            {
                "next token": [visible(piece) for _, piece, _ in rows],
                "logit": [value for _, _, value in rows],
            },
            key=f"feature_{title}",
            column_config={"logit": st.column_config.NumberColumn(format="%.3f")},
        )
    st.caption(
        "What it adds to the logits directly, for a strength of 1 over the stream's root mean "
        "square; what later layers make of it is not in it."
    )


def alike(store: FeatureStore, card: FeatureCard, given: Mapping[tuple[int, int], str]) -> None:
    """Features that write alike, and features that are active together; a click opens one."""
    layers = dict(enumerate(store.group_layers))

    def button(group: int, feature: int, text: str, key: str) -> None:
        name = feature_name(layers.get(group, -1), feature, given.get((group, feature), ""))
        st.button(
            f"{as_markdown(name)} · {text}",
            key=f"{key}_{group}_{feature}",
            on_click=links.refer,
            args=("feature", f"{group}-{feature}"),
        )

    st.markdown("**Writes alike** (cosine)")
    with st.container(horizontal=True, gap="small"):
        for group, feature, cosine in card.near:
            button(group, feature, fixed(cosine, 2), "near")
    st.markdown("**Active at the same tokens** (share of both)")
    with st.container(horizontal=True, gap="small"):
        for group, feature, _, jaccard in card.together:
            button(group, feature, percent(jaccard), "together")


def strength(card: FeatureCard, origin: Provenance) -> None:
    """The histogram of its strength, and how often it is active in each kind of text."""
    layout.figure(
        strength_histogram(card),
        "feature_strength",
        origin,
        words=(card.title,),
        table=lambda: csv_text.table_csv(
            {"from": card.edges[:-1], "to": card.edges[1:], "tokens": card.counts}
        ),
        stretch=True,
    )
    tables.show(
        {
            "kind of text": [visible(label) for label in card.label_rates],
            "active": list(card.label_rates.values()),
        },
        key="feature_labels",
        column_config={"active": st.column_config.NumberColumn(format="percent")},
    )
