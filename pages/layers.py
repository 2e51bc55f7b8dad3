"""Layers: likeness of layers, beside what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens import cached, figures
from lens.layers.pair_null import LayerNull, pairs_finding
from lens.layers.similarity import LAYER_METRICS, most_alike
from lens.recipe.steps import note
from lens.routers.router_set import RouterSet
from lens.stats.chance import Chance
from lens.tables import routers as router_tables
from lens.words import fixed
from pages.access import limits
from pages.layer_views import neighbours, pair
from pages.shell import data_source, finding_block, layout, links, null_settings, parts
from pages.shell.null_settings import NullSettings
from pages.shell.picks import pick_layers
from pages.shell.reference_choice import ReferenceChoice, reference_choice
from pages.shell.session_keys import SessionKey, SessionValue

HOW_TO_READ = """
**Heatmap.** One cell for each pair of layers; the diagonal is left out. Colours are spread over
these data; the fixed scale is the same for every data set of a metric, so that figures compare.
"Distance from chance" colours by `z = (s − mean) / sd` of the null; "beyond chance" leaves grey
what does not beat it.

**Against what.** All layers of a model read a few common directions, which alone make any two of
them alike.
- *Directions that all layers share* (the default): layers mixed at random from all columns of all
  layers. Every direction that they read stays, with norm scales and outlier dimensions; which layer
  reads which is lost. The largest directions can be taken away before, in data and null alike: by
  rule the fewest of 0, 1, 3 and 10 after which none carries more than a tenth of what is left.
  Matched experts are set against experts mixed within the two layers.
- *Unrelated directions*: each layer turned by a random rotation of its own. Its spectrum and the
  angles between its experts stay, how it lies to other layers becomes arbitrary: the absolute zero.
- *Shuffled coordinates*: each layer's coordinates in a random order, the same for all its columns.
  This also keeps how unevenly its weight is spread over them. A draw costs a new product of all
  columns, so there are few, and all pairs are pooled.

**p** is the share of draws at least as alike; where few of them reach it, their tail is continued
as an exponential one. **q** is p adjusted for all pairs (Benjamini–Hochberg): of the pairs with
q ≤ 0.05 at most one in twenty is expected to be there by chance. A pair's **place** among all other
pairs needs no null.

**The pair.** Cosines between the experts of the two layers. Outlined cells are the best
one-to-one matching; labels of experts mean nothing across layers, so the diagonal has no
special role. Principal angles say how much of the two routers' spaces coincides. The **interval**
takes the d coordinates anew with replacement, 2s − 2m + quantiles of s*, m their mean: how far the
value depends on which coordinates are looked at. It is corrected for what resampling adds, about
the chance level, and so may lie below the value.

**Neighbours.** Similarity of each layer with the next beside the same reference. A **transition**
changes by more than 2σ of the series, and by more than the largest change anywhere in 95 % of drawn
series (max-statistic). The first rule alone marks 2.8 of 62 pairs in pure noise.

**Effective dimension** `(tr S)² / tr S²`, S the second moment of all columns, from pairs of columns
of different layers: the model's width if all directions are read alike; small where a few shared
directions carry most of the weight.

{metrics}
"""

COLOURS = {
    "fitted": "Similarity",
    "beyond": "Beyond chance",
    "z": "Distance from chance",
    "fixed": "Similarity, fixed scale",
}
PERMUTATIONS = (10, 20, 50, 100)
PERMUTATION_NULLS = SessionValue[dict[tuple[Hashable, ...], LayerNull]](
    SessionKey.PERMUTATION_NULLS
)


def metrics_text() -> str:
    """Formula and reading of every metric."""
    return "\n".join(
        f"- **{metric.label}** `{metric.formula}`. {metric.reading}"
        for metric in LAYER_METRICS.values()
    )


@dataclass(frozen=True)
class Controls:
    """What the page shows.

    Attributes:
        metric: of the similarity of layers.
        order: of the layers in the heatmap.
        colours: of the heatmap, one of `COLOURS`.
        against: what pairs are set against.
    """

    metric: str
    order: str
    colours: str
    against: ReferenceChoice


def controls(routers: RouterSet, view: str) -> Controls:
    """The colours in sight, all else behind a button."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colours = links.segments(
            "colours", "Colour by", list(COLOURS), "fitted", shown=COLOURS.__getitem__
        )
        options = st.popover("Options", icon=":material/tune:")
    with options:
        metric = layout.metric_choice(
            help="What makes two layers alike. CKA, matched cosine and principal angles do not "
            "depend on how experts are numbered.",
        )
        order = links.segments(
            "order",
            "Order",
            ["layer", "clustered"],
            "layer",
            shown={"layer": "By layer", "clustered": "Clustered"}.__getitem__,
        )
        against = reference_choice(routers, view)
    return Controls(metric, order, colours, against)


def pair_selectors(routers: RouterSet, metric: str, view: str) -> tuple[int, int]:
    """The two layers compared, by list; at first the two that are most alike."""
    labels = layout.layer_labels(routers)
    a, b = most_alike(cached.layer_similarity(routers, metric, view))
    first, second = st.columns(2)
    with first:
        layer = layout.layer_choice(labels, default=a)
    with second:
        other = layout.layer_choice(labels, "other", "Compared with", default=b)
    return layer, other


def layer_null(
    routers: RouterSet, view: str, metric: str, against: ReferenceChoice, settings: NullSettings
) -> LayerNull:
    """The null of all pairs; unrelated directions until the coordinates were shuffled."""
    if against.reference != "shuffled":
        with st.spinner("Setting all pairs against their reference …"):
            return cached.layer_null_of(
                routers, metric, view, *against, settings.draws, settings.seed
            )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        draws = links.segments(
            "permutations",
            "Shuffles",
            limits.affordable(PERMUTATIONS, 20),
            20,
            shown=str,
        )
        start = st.button("Shuffle", type="primary", icon=":material/play_arrow:")
    run = (routers.key, view, metric, draws, settings.seed)
    kept = PERMUTATION_NULLS.kept(dict)
    if start:
        slot = st.empty()
        for found in cached.permutation_null(
            routers, metric, view, draws, settings.draws, settings.seed
        ):
            slot.progress(
                found.draws / draws,
                f"{found.draws} of {draws} shuffles: {found.found()} pairs beyond them so far",
            )
            shown = (routers, metric, view, found.draws, settings.draws, settings.seed)
            note(found, cached.shuffled_null, *shown)
            kept[run] = found
        slot.empty()
        for old in list(kept)[:-8]:
            del kept[old]
    if run not in kept:
        st.caption("Not shuffled yet with these settings; until then: unrelated directions.")
        return cached.layer_null_of(
            routers, metric, view, "unrelated", None, settings.draws, settings.seed
        )
    return kept[run]


def known_null(routers: RouterSet, view: str, shown: Controls, settings: NullSettings) -> LayerNull:
    """The null as `layer_null` gives it, without a word on the page.

    Unrelated directions stand for shuffled coordinates.
    """
    reference, directions = shown.against
    if reference == "shuffled":
        reference, directions = "unrelated", None
    return cached.layer_null_of(
        routers, shown.metric, view, reference, directions, settings.draws, settings.seed
    )


def pairs_in_words(routers: RouterSet, null: LayerNull, view: str) -> None:
    """Number of pairs that beat the reference; the null and the effective dimension behind it."""
    found, dimension = pairs_finding(null), cached.unbiased_dimension(routers, view)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(found.sentence, width="content")
        with finding_block.behind():
            st.markdown(
                f"{found.detail} Effective dimension {fixed(dimension, 0)} of {routers.d_model:,}."
            )


def heatmap(
    routers: RouterSet,
    view: str,
    shown: Controls,
    chance: Chance | None,
    null: Callable[[], LayerNull],
    saved: Callable[[], LayerNull],
    picked: tuple[int, int],
) -> None:
    """Similarity of all pairs of layers; the null is asked for only where it is drawn.

    `saved` gives the null for the table, whose button may be pressed before it is on the page.
    """
    metric, colours = shown.metric, shown.colours
    similarity = cached.layer_similarity(routers, metric, view)
    leaves = None
    if shown.order == "clustered" and routers.n_layers > 2:
        leaves = cached.layer_tree(routers, metric, "average", view).order.tolist()
    labels = layout.layer_labels(routers)
    if colours in ("z", "beyond"):
        chart: alt.TopLevelMixin = figures.layer_null_heatmap(
            null(), similarity, leaves, labels, picked, only_beyond=colours == "beyond"
        )
    else:
        domain = None
        if colours == "fitted":
            others = ~np.eye(len(similarity), dtype=bool)
            domain = figures.fitted_domain(similarity[others])
        chart = figures.layer_similarity_heatmap(
            similarity, leaves, labels, metric, chance, picked, domain=domain
        )
    layout.figure(
        chart,
        "layer_similarity_heatmap",
        routers,
        scale=0.85,
        stretch=True,
        words=(metric, view) + ((colours,) if colours in ("z", "beyond") else ()),
        table=lambda: router_tables.layer_null_csv(saved(), similarity, labels),
        on_pick=pick_layers,
    )
    other = cached.layer_similarity(routers, metric, "raw" if view == "canonical" else "canonical")
    upper = np.triu_indices(routers.n_layers, 1)
    layout.ranking_note(similarity[upper], other[upper], "pairs of layers")


@parts.part(key=neighbours.PAIR)
def pair_part(
    routers: RouterSet,
    view: str,
    shown: Controls,
    settings: NullSettings,
    null: Callable[[], LayerNull],
    found: Sequence[LayerNull],
) -> tuple[DeltaGenerator, int, int] | None:
    """The heatmap beside two of its layers: drawn alone when others are chosen.

    Args:
        routers: the set.
        view: "canonical" or "raw".
        shown: the page's choices.
        settings: of the null.
        null: gives it.
        found: holds it once it is known.

    Returns:
        Where the two layers are to be drawn, and which; None where they are.
    """
    left, right = st.columns([11, 9], gap="medium")
    with right:
        chosen = pair_selectors(routers, shown.metric, view)
        slot = st.container()
    with left:
        chance = cached.chance_level(shown.metric, routers, view)

        def saved() -> LayerNull:
            return found[0] if found else known_null(routers, view, shown, settings)

        heatmap(routers, view, shown, chance, null, saved, chosen)
    missing = None
    with slot:
        if chosen[0] == chosen[1]:
            st.info("Choose two different layers, or click a cell of the heatmap.")
        elif found:
            pair.show(routers, view, shown.metric, found[0], settings, *chosen)
        else:
            missing = slot, *chosen
    parts.drawn()
    return missing


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    view = data_source.current_view()
    layout.heading(
        "Layers",
        lambda: layout.findings(routers, "/layers"),
        HOW_TO_READ.format(metrics=metrics_text()),
        routers,
        view=view,
        chance=True,
    )
    if routers.n_layers < 2:
        st.info("This router set has one layer, so there is nothing to compare it with.")
        return
    shown = controls(routers, view)
    metric, against = shown.metric, shown.against
    settings = null_settings.current()
    said = st.container()
    found: list[LayerNull] = []

    def null() -> LayerNull:
        if not found:
            with said:
                found.append(layer_null(routers, view, metric, against, settings))
        return found[0]

    place = pair_part(routers, view, shown, settings, null, found)
    with said:
        pairs_in_words(routers, null(), view)
    if place is not None:  # the heatmap is there before its null
        with place[0]:
            pair.show(routers, view, metric, null(), settings, *place[1:])
    neighbours.show(routers, view, metric, against, settings)
    layout.share(routers)


show()
