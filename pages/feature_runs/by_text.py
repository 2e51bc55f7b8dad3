"""Try your text: which features are active on it, beside what is usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from lens import figures
from lens.escaping import plain
from lens.features.card import feature_name
from lens.features.in_text.active import Beside, TextFeatures, beside, text_features
from lens.features.store import FeatureStore
from lens.stats.p_values import monte_carlo_p
from lens.storage import csv_text
from lens.words import counted, fixed, p_value_text
from pages.access import limits
from pages.feature_runs.at_hand import AtHand, at_hand
from pages.feature_views import contexts, search
from pages.hosting import tabs
from pages.live.running import prompt_form
from pages.live.session import dictionaries, prompts
from pages.live.session.shared_models import OnWait
from pages.notes import kept_features
from pages.notes.kept_features import Own
from pages.shell import downloads, links
from pages.shell.session_keys import SessionKey, SessionValue, widget

if TYPE_CHECKING:
    from grok.dictionaries.kinds.dictionary import Dictionary
    from grok.serving.shared_model import SharedModel

STRETCHES = 24
MOST_KEPT = 4
LEVEL = 0.05  # of p, above which a text is not told from others
ORDERS = {"unusual": "most unusual", "strongest": "strongest", "tokens": "at most tokens"}
TOKEN = "feature_text_token"
ALL_TOKENS = -1
MODE = "features"  # of the form
HOW_TO_READ = """
**Your text.** A feature that is active at a third of all tokens is active in every text, so what is
active in yours stands beside two things. *Usual* is the number of tokens at its rate on the
database's own text; *unusual* is how much better its share here fits than that rate, in nats: the
log likelihood ratio, tokens · KL(share ‖ rate). Tokens of one text are alike, so features stay on
for whole passages, and any text has features far above their rate. So the model also reads
stretches of the database's held-out text, as long as yours: *as often in* counts those in which the
feature is active at as many tokens or more, and the most unusual feature of your text stands beside
the most unusual one of each stretch. Features are listed by that count, then by nats. The
stretches are of the texts that the database was made of; a text of another kind differs in kind.
"""


@dataclass(frozen=True, eq=False)
class Tried:
    """A text as a dictionary reads it.

    Attributes:
        pieces: of its tokens; ids: their ids.
        found: its features.
        beside: the same of stretches as long.
    """

    pieces: tuple[str, ...]
    ids: np.ndarray
    found: TextFeatures
    beside: Beside

    def most_unusual_first(self) -> np.ndarray:
        """Rows of its features: those of the fewest stretches, and of these by nats."""
        return np.lexsort((-self.found.unusual, self.beside.as_often))


TRIED = SessionValue[dict[str, Tried]](SessionKey.FEATURES_TRIED)


def tried(store: FeatureStore) -> Tried | None:
    """The text that was tried last with a database's dictionary, if any."""
    return TRIED.kept(dict).get(store.summary().dictionary_sha256)


def show(store: FeatureStore, notes: Own) -> tuple[int, int] | None:
    """The form and what it found; returns group and number of the feature that is chosen."""
    form(store)
    known = tried(store)
    if known is None or not len(known.found.n):
        if known is not None:
            st.info("No feature is active on this text.")
        return search.chosen(store)
    rows = ordered(known)
    place = search.chosen(store) or (
        int(known.found.group[rows[0]]),
        int(known.found.feature[rows[0]]),
    )
    said(store, known)
    coloured(store, known, place)
    table(store, known, notes)
    return place


def form(store: FeatureStore) -> None:
    """The prompt, what it costs, and its run."""
    here = at_hand(store, "Trying a text")
    if here is None:
        return
    label = "Prompt" if here.choice.has_tokenizer else "Token ids (this model has no tokenizer)"
    with st.form("feature_text", border=False):
        text = prompt_form.text_box(
            "prompt", label, placeholder="Type a text; Ctrl+Enter sends it."
        )
        submitted = st.form_submit_button(
            "Read it", type="primary", icon=":material/play_arrow:", help="Ctrl+Enter"
        )
        st.caption(
            f"Up to {prompts.prompt_limit():,} tokens. The model reads your text once and "
            f"{STRETCHES} stretches of the database's own text as long, so it counts as "
            f"{STRETCHES + 1} texts. {tabs.FOR_YOU_ALONE} It is in no link."
        )
    sha256 = store.summary().dictionary_sha256
    if submitted:
        found = run(store, here, text)
        if found is not None:
            dictionaries.put(TRIED.kept(dict), sha256, found, MOST_KEPT)
            prompt_form.is_of(MODE, found, text)
            widget(TOKEN).drop()
            links.refer("feature", None)  # the most unusual one comes first
            prompt_form.draw_again()  # as a whole, so that a reload finds it
    prompt_form.stale_note(MODE, tried(store), text)


def run(store: FeatureStore, here: AtHand, text: str) -> Tried | None:
    """Reads a text and stretches beside it; None after an error was shown."""

    def work(model: SharedModel, dictionary: Dictionary, on_wait: OnWait) -> Tried:
        from grok.dictionaries.attribution import feature_strengths

        ids = prompts.uncounted(model, here.choice, text)
        others = store.stretches(len(ids), STRETCHES)
        limits.charge(here.choice.person, (1 + len(others)) * len(ids))
        with model.turn(on_wait):
            read = feature_strengths(model.model, dictionary, [ids, *others])
        usual = store.summary().tokens
        own, *beside_it = (
            text_features(
                one, store.rates, usual_tokens=usual, skipped=min(dictionary.skipped, len(ids))
            )
            for one in read
        )
        return Tried(tuple(model.pieces(ids)), ids, own, beside(own, beside_it))

    return here.run("Reading the text and stretches beside it", work)


def ordered(known: Tried) -> np.ndarray:
    """Rows of the text's features in the order that is chosen."""
    found = known.found
    order = links.chosen("text_order", "unusual")
    if order == "strongest":
        return np.argsort(-found.largest, kind="stable")
    if order == "tokens":
        return np.argsort(-found.n, kind="stable")
    return known.most_unusual_first()


def name(store: FeatureStore, group: int, feature: int) -> str:
    """A feature as pages write it."""
    return feature_name(store.group_layers[group], feature)


def said(store: FeatureStore, known: Tried) -> None:
    """The most unusual feature beside its rate, the text beside other text, and the numbers."""
    found, others = known.found, known.beside
    row = int(known.most_unusual_first()[0])
    place = int(found.group[row]), int(found.feature[row])
    most = (
        f"Most unusual is **{name(store, *place)}**, active at {int(found.n[row])} of "
        f"{counted(found.tokens, 'token')}; its rate gives {fixed(float(found.expected[row]), 1)}."
    )
    if not others.stretches:
        st.markdown(most)
        st.caption(
            "Your text is longer than any stretch of the database's, so none stands beside it: a "
            "feature that stays on for a passage looks unusual by its rate alone."
        )
        return
    top = found.most_unusual
    beyond = int((others.most_unusual >= top).sum())
    p = float(monte_carlo_p(top, others.most_unusual))
    whole = (
        "As a whole the text is not told from the database's own: "
        if p > LEVEL
        else "As a whole the text is unlike the database's own: "
    )
    st.markdown(
        f"{most} {whole}{beyond} of {others.stretches} stretches as long have a feature as far "
        "above its rate."
    )
    low, middle, high = (fixed(float(v), 1) for v in np.quantile(others.most_unusual, (0, 0.5, 1)))
    with st.popover("Numbers", icon=":material/functions:"):
        st.markdown(
            f"How far the most unusual feature of a text is above its rate, in nats: "
            f"{fixed(top, 1)} in yours; {low} to {high} in the stretches, {middle} in the middle "
            f"one (as far with p {p_value_text(p, others.stretches)})."
        )
        rare = int((others.as_often <= others.as_often[row]).sum())
        st.markdown(
            f"{name(store, *place)} is active as often in {int(others.as_often[row])} of "
            f"{others.stretches} stretches. Of the {len(found.n):,} features that are active in "
            f"your text {rare:,} are as rare or rarer by that count, so a single one says little."
        )


def coloured(store: FeatureStore, known: Tried, place: tuple[int, int]) -> None:
    """The text, coloured by the strength of the chosen feature."""
    values = known.found.strengths(*place)
    largest = float(values.max(initial=0.0))
    st.html(contexts.text_html(known.pieces, values, largest))
    title = f"**{name(store, *place)}**"
    st.caption(
        f"Coloured by the strength of {title}, the darkest {fixed(largest, 2)}."
        if largest
        else f"{title} is not active in this text."
    )
    downloads.row(
        "feature_text",
        downloads.file_stem("feature_text", store.summary().dictionary_sha256),
        table=lambda: csv_text.table_csv(
            {"token": np.arange(len(values)), "piece": list(known.pieces), "strength": values}
        ),
    )


def table(store: FeatureStore, known: Tried, notes: Own) -> None:
    """The features that are active, of one layer or at one token where that is chosen."""
    layer, token = narrowed(store, known)
    found, rows = known.found, ordered(known)
    if layer >= 0:
        rows = rows[np.asarray(store.group_layers)[found.group[rows]] == layer]
    here = found.largest if token < 0 else found.at_token(token)
    rows = rows[here[rows] > 0]
    if not len(rows):
        st.info("No feature is active there. Choose another layer or token.")
        return
    few = rows[: search.ROWS]
    places = [(int(found.group[i]), int(found.feature[i])) for i in few]
    given, words = kept_features.names(notes), store.words_of(places)
    largest = store.largest_of(places)
    columns = {
        "feature": [
            plain(feature_name(store.group_layers[g], f, given.get((g, f), ""))) for g, f in places
        ],
        "usually on": [
            " ".join(figures.visible(word) for word in words.get(place, ())[:4]) for place in places
        ],
        "tokens": found.n[few],
        "usual": found.expected[few],
        "as often in": known.beside.as_often[few],
        "unusual": found.unusual[few],
        "strength": here[few],
        "of its largest": [
            float(here[i]) / largest[place] for i, place in zip(few, places, strict=True)
        ],
    }
    if not known.beside.stretches:
        del columns["as often in"]
    search.listed(store, places, columns, len(rows), heads(known.beside.stretches))


def narrowed(store: FeatureStore, known: Tried) -> tuple[int, int]:
    """The layer and the token of which features are listed, −1 for all; and their order."""
    one, two, three = st.columns(3)
    with one:
        layers = {"all": -1} | {str(layer): layer for layer in store.summary().layers}
        layer = links.choice(
            "of_layer", "Layer", layers, -1,
            shown=lambda row: "all layers" if row < 0 else f"L{row}",
        )  # fmt: skip
    with two:
        token = st.selectbox(
            "At",
            [ALL_TOKENS, *range(len(known.pieces))],
            key=TOKEN,
            format_func=lambda t: (
                "all tokens" if t < 0 else f"{t} {figures.visible(known.pieces[t])}"
            ),
        )
    with three:
        links.choice("text_order", "Order", list(ORDERS), "unusual", shown=ORDERS.__getitem__)
    return layer, int(token)


def heads(stretches: int) -> dict[str, object]:
    """What the heads of the table say."""
    number = st.column_config.NumberColumn
    return {
        "tokens": number(help="Tokens of your text at which it is active"),
        "usual": number(format="%.1f", help="As many by its rate on the database's text"),
        "as often in": number(
            help=f"Of {stretches} stretches of the database's text as long, those in which it is "
            "active at as many tokens or more"
        ),
        "unusual": number(format="%.1f", help="Nats by which its share here fits better"),
        "strength": number(format="%.2f"),
        "of its largest": number(
            format="percent", help="Of its largest strength on the database's text"
        ),
    }
