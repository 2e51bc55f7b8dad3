"""Features: what in a token sends it to its expert, from a dictionary that was learned."""

from __future__ import annotations

import streamlit as st

from lens.errors import LensError
from lens.features.headline import sending
from lens.features.store import FeatureStore
from lens.figures.features import feature_map
from lens.finding import Finding
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from pages.access.messages import told
from pages.feature_runs import by_text, turning
from pages.feature_views import card, search, source
from pages.hosting import tabs
from pages.notes import kept_features
from pages.shell import data_source, layout, links, parts
from pages.shell.picks import Mark

PART = "feature_search_and_card"
HOW_TO_READ = """
A **feature** is a direction of the residual stream that a dictionary learned: at each token few of
them are active, each with a strength, and their sum gives back most of what the model has there.
*What routers read* takes the stream before each router apart, *what experts add* what a layer's
experts write into it, *across layers* the same for several layers at once.

**A feature is not a part of the model**: another dictionary, of another seed, has others. The
dictionary's own card says how much is left over, how many features a second seed finds again, and
what principal axes and the experts' neurons do as well with.

**Where its tokens go**: the share of tokens at which the feature is active that choose an expert.
It is set beside the same words in the same kinds of text, since an expert that takes a word takes
every feature that is on that word. Neighbouring tokens are alike, so an excess counts by how far
windows of text agree on it; q is adjusted over all features and experts (Benjamini–Hochberg). Going
with an expert is no cause: *flips* is the share of tokens that would choose otherwise with the
feature taken out of the stream, the norm's scale held.

**What it says**: a short rule, found on one half of the contexts and judged on held-out ones, among
them contexts of similar features. Guessing gets half of them right.
"""
HOW_TO_READ += by_text.HOW_TO_READ + turning.HOW_TO_READ
NONE = """
No dictionary of features is at hand for these routers. The bundled model has some; for a model of
your own, train one and make its database:

    python -m grok.dictionaries.train grok/dictionaries/recipes/sae.toml --model FOLDER \\
        --text TEXTS --output DICTIONARY
    python -m grok.dictionaries.index DICTIONARY --model FOLDER --text TEXTS --output FEATURES
    streamlit run app.py -- --checkpoint FOLDER --features FEATURES
"""


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    stores, problems = source.of_routers(routers)
    name = at_hand(stores)
    layout.heading(
        "Features",
        lambda: headline(stores.get(name) if name else None),
        HOW_TO_READ,
        routers,
    )
    for problem in problems:
        st.warning(told(problem), icon=":material/warning:", title="A database was left out")
    if not name:
        st.markdown(NONE)
    else:
        if len(stores) > 1:
            links.segments(
                "dictionary",
                "Dictionary",
                list(stores),
                next(iter(stores)),
                shown=lambda one: source.name_of(stores[one].summary()),
            )
        found_and_card(routers, stores[name])
        everything(routers, stores[name])
    layout.share(routers, tabs.controls)


def at_hand(stores: dict[str, FeatureStore]) -> str:
    """Id of the database that is chosen, "" where there is none."""
    chosen = links.pending("dictionary") or links.chosen("dictionary", "")
    return str(chosen) if chosen in stores else next(iter(stores), "")


def headline(store: FeatureStore | None) -> list[Finding] | str:
    """What all features say of routes."""
    if store is None:
        return "Learned features say what in a token sends it to its expert."
    return [sending(store)]


@parts.part(key=PART)
def found_and_card(routers: RouterSet, store: FeatureStore) -> None:
    """The search at the left, the feature at the right: drawn alone when another is chosen."""
    notes = kept_features.own(store.summary().dictionary_sha256)
    left, right = st.columns([1, 1], gap="medium")
    try:
        with left:
            picked = search.show(store, routers, notes, lambda: by_text.show(store, notes))
        if picked is not None:
            with right, st.container(border=True, key="feature_card"):
                one, origin = store.card(*picked), layout.of_routers(routers)
                card.show(store, one, origin, notes)
                turning.show(store, one, origin)
    except LensError as error:
        st.error(told(error), icon=":material/error:")
    parts.drawn()


def everything(routers: RouterSet, store: FeatureStore) -> None:
    """The map of all features, folded."""
    if not store.has_map:
        return
    fold = parts.fold("Map of all features", "feature_map_fold", icon=":material/scatter_plot:")
    if not fold.open:
        return
    with fold:
        found = store.map()
        given = kept_features.names(kept_features.own(store.summary().dictionary_sha256))
        layout.figure(
            feature_map(found, store.summary().labels, search.chosen(store), given or None),
            "feature_map",
            routers,
            table=lambda: csv_text.table_csv(
                {"group": found.group, "feature": found.feature, "x": found.x, "y": found.y}
            ),
            on_pick=pick_feature,
            stretch=True,
        )


def pick_feature(mark: Mark) -> None:
    """A clicked feature becomes the one shown."""
    links.refer("feature", f"{int(mark['group'])}-{int(mark['feature'])}")


show()
