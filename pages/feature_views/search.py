"""Finding features: by an expert, a word, a next word, one's own notes; a row opens its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st

from lens.escaping import plain
from lens.features.card import feature_name
from lens.features.query import FeatureQuery
from lens.features.store import FeatureStore, FeatureTable
from lens.figures.token_grid import visible
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.words import counted
from pages.guide import tables
from pages.notes import kept_features
from pages.notes.kept_features import Own
from pages.shell import downloads, layout, links
from pages.shell.session_keys import SessionKey, SessionValue, selected_rows, widget

WORD = SessionValue[str](SessionKey.FEATURE_WORD)
WORD_BOX, TABLE, KEPT = "feature_word_box", "feature_table", "feature_kept"
LONGEST_WORD = 60
WAYS: Mapping[str, str] = {
    "all": "All",
    "expert": "Expert",
    "word": "Word",
    "next": "Next word",
    "text": "Your text",
    "yours": "Yours",
}
BY: Mapping[str, str] = {"excess": "where their tokens go", "push": "what they add"}
SORTS: Mapping[str, str] = {
    "excess": "beyond their words",
    "rate": "most active",
    "flips": "change most routes",
    "push": "push hardest",
    "by_token": "one word each",
    "feature": "number",
}
ROWS = 200
EVERY, PINNED = "All that you noted", "Pinned"


def show(
    store: FeatureStore,
    routers: RouterSet,
    notes: Own,
    by_text: Callable[[], tuple[int, int] | None],
) -> tuple[int, int] | None:
    """The search and what it found; returns group and number of the feature that is chosen.

    The first of those found is chosen until somebody chooses another.

    Args:
        store: the database.
        routers: that are shown.
        notes: the person's own, on features of this dictionary.
        by_text: draws the search by a text, which runs the model, and returns what `show` does.
    """
    ways = {name: text for name, text in WAYS.items()
            if name != "next" or "logits" in store.tables.names}  # fmt: skip
    way = links.segments("find", "Find features by", list(ways), "all", shown=ways.__getitem__)
    if way == "text":
        return by_text()
    query = of_notes(notes) if way == "yours" else asked(way, store, routers)
    if query is None:
        return chosen(store)
    found = store.find(replace(query, limit=ROWS))
    if not len(found):
        st.info("No feature is found so. Try another word, expert or layer.")
        return chosen(store)
    rows = list(
        zip(found.columns["group"].tolist(), found.columns["feature"].tolist(), strict=True)
    )
    columns = columns_of(store, found, query, kept_features.names(notes))
    if way == "yours":
        columns["tags"] = [plain(" ".join(notes[place].tags)) for place in rows]
        columns["note"] = [plain(notes[place].note) for place in rows]
    listed(store, rows, columns, found.found)
    return chosen(store) or rows[0]


def asked(way: str, store: FeatureStore, routers: RouterSet) -> FeatureQuery | None:
    """What is searched for; None until a word is typed, where one is needed."""
    if way == "expert":
        return of_expert(routers)
    if way in ("word", "next"):
        return of_word(store, way)
    summary = store.summary()
    one, two = st.columns(2)
    with one:
        layers = {"all": -1} | {str(layer): layer for layer in summary.layers}
        layer = links.choice(
            "of_layer",
            "Layer",
            layers,
            -1,
            shown=lambda row: "all layers" if row < 0 else f"L{row}",
        )
    with two:
        sort = links.choice("sort", "Order", list(SORTS), "excess", shown=SORTS.__getitem__)
    return FeatureQuery(layer=None if layer < 0 else layer, sort=sort, descending=sort != "feature")


def of_expert(routers: RouterSet) -> FeatureQuery:
    """Features that send tokens to an expert."""
    labels = layout.layer_labels(routers)
    one, two = st.columns(2)
    with one:
        row = layout.layer_choice(labels, default=min(5, len(labels) - 1))
    with two:
        expert = layout.expert_choice(routers.n_experts)
    by = links.segments(
        "by",
        "Ranked by",
        list(BY),
        "excess",
        shown=BY.__getitem__,
        help="Where their tokens go: how much oftener there than the same words in the same kinds "
        "of text, beyond chance. What they add: to the expert's logit, where active, with the "
        "norm's scale held; of layers before the expert's alone.",
    )
    return FeatureQuery(expert=(int(labels[row].removeprefix("L")), expert), by=by)


def of_notes(notes: Own) -> FeatureQuery | None:
    """Features that the person noted something on: all, those pinned, or those of a tag."""
    if not notes:
        st.info("Nothing is noted yet. Pin a feature, or add a note, on its card.")
        return None
    tags = sorted({tag for note in notes.values() for tag in note.tags})
    pinned = [PINNED] if any(note.pinned for note in notes.values()) else []
    options = [EVERY, *pinned, *(f"#{tag}" for tag in tags)]
    # Tags are a person's own words, so the address does not hold what is chosen.
    if widget(KEPT).get() not in options:
        widget(KEPT).drop()
    chosen = st.selectbox("Which", options, key=KEPT, format_func=plain)
    return FeatureQuery(
        among=tuple(
            place
            for place, note in notes.items()
            if chosen == EVERY or (note.pinned if chosen == PINNED else chosen[1:] in note.tags)
        ),
        dead=True,
    )


def of_word(store: FeatureStore, way: str) -> FeatureQuery | None:
    """Features that carry a word, or that make it likelier as the next one."""

    def typed() -> None:
        WORD.set(str(widget(WORD_BOX).get() or "")[:LONGEST_WORD])

    st.text_input(
        "Word or part of a word" if way == "word" else "Next word",
        value=WORD.get() or "",
        key=WORD_BOX,
        max_chars=LONGEST_WORD,
        placeholder="the",
        on_change=typed,
    )
    word = (WORD.get() or "").strip() or "the"
    if way == "word":
        token = token_of(store, word)
        return FeatureQuery(text=word) if token is None else FeatureQuery(token=token)
    token = token_of(store, word)
    if token is None:
        st.caption("The model has no token that is written so; try a shorter word.")
        return None
    return FeatureQuery(raises=token)


def token_of(store: FeatureStore, word: str) -> int | None:
    """The token that is this word, at the start of a word before inside one."""
    for piece in ("▁" + word, word):
        if piece in store.pieces:
            return store.pieces.index(piece)
    return None


def listed(
    store: FeatureStore,
    rows: Sequence[tuple[int, int]],
    columns: Mapping[str, Sequence[object] | np.ndarray],
    found: int,
    more: Mapping[str, Any] | None = None,
) -> None:
    """The features that were found, a row each; a row that is chosen opens its card.

    Args:
        store: the database.
        rows: group and number of each that is listed.
        columns: of the table.
        found: how many there are in all.
        more: settings of further columns.
    """

    def picked() -> None:
        at = selected_rows(TABLE)
        if at:
            links.refer("feature", f"{rows[at[0]][0]}-{rows[at[0]][1]}")

    tables.show(
        columns,
        height=min(len(rows), 12) * 35 + 38,
        key=TABLE,
        on_select=picked,
        selection_mode="single-row",
        column_config={
            "active": st.column_config.NumberColumn(format="percent"),
            "beyond its words": st.column_config.NumberColumn(
                format="percent",
                help="Largest share of its tokens that go to one expert beyond what the same words "
                "in the same kinds of text do",
            ),
            "flips": st.column_config.NumberColumn(
                format="percent",
                help="Share of its tokens that another expert would take without it",
            ),
            "pushes": st.column_config.NumberColumn(
                format="%.2f", help="Logits that it adds to the expert, on average where active"
            ),
        }
        | dict(more or {}),
    )
    few = "" if found <= len(rows) else f" The first {len(rows)} are listed."
    st.caption(f"{counted(found, 'feature')} found.{few} Choose a row to open its card.")
    downloads.row(
        TABLE,
        downloads.file_stem("features", store.summary().dictionary_sha256),
        table=lambda: csv_text.table_csv(columns),
    )


def columns_of(
    store: FeatureStore,
    found: FeatureTable,
    query: FeatureQuery,
    given: Mapping[tuple[int, int], str],
) -> dict[str, Sequence[object] | np.ndarray]:
    """The columns of the table: what each feature is of, and where its tokens go.

    Args:
        store: the database.
        found: the features.
        query: that found them.
        given: names that the person gave to some.
    """
    own, experts = found.columns, store.summary().experts
    names = [
        plain(feature_name(layer, feature, given.get((group, feature), "")))
        for group, layer, feature in zip(own["group"], own["layer"], own["feature"], strict=True)
    ]
    columns: dict[str, Sequence[object] | np.ndarray] = {
        "feature": names,
        "mostly on": [" ".join(visible(word) for word in words[:4]) for words in found.words],
    }
    if "explanation" in own:
        columns["says"] = [plain(str(text)) if text else "" for text in own["explanation"]]
    columns["active"] = own["rate"]
    if query.expert is not None:
        columns["pushes"] = own["to_push"]
        columns["beyond its words"] = own["to_excess"]
    else:
        columns["pushes to"] = [
            f"L{layer}·E{expert}" if 0 <= expert < experts else ""
            for layer, expert in zip(own["push_layer"], own["push_expert"], strict=True)
        ]
        columns["pushes"] = own["push"]
        columns["beyond its words"] = own["excess"]
    columns["flips"] = np.asarray(own["flips"])
    return columns


def chosen(store: FeatureStore) -> tuple[int, int] | None:
    """Group and number of the feature that somebody chose, if this database has it."""
    asked = links.reference("feature", "Feature", r"\d{1,4}-\d{1,7}")
    if asked is None:
        return None
    group, feature = (int(part) for part in asked.split("-"))
    summary = store.summary()
    if group < summary.groups and feature < summary.features:
        return group, feature
    links.refer("feature", None)
    return None
