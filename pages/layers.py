"""Layers: likeness of layers, beside chance."""

from __future__ import annotations

from collections.abc import Hashable

import altair as alt
import numpy as np
import streamlit as st

from lens import cached, figures
from lens.layers.pair_null import LayerNull
from lens.layers.similarity import LAYER_METRICS, LayerPair
from lens.routers.router_set import RouterSet
from lens.stats.chance import Chance, chance_of, percentile
from lens.storage import csv_text
from lens.tables import routers as router_tables
from lens.words import p_value_text
from pages.shell import data_source, layout, links, null_settings
from pages.shell.null_settings import NullSettings
from pages.shell.picks import pick_layers
from pages.shell.session_keys import SessionKey, SessionValue

HOW_TO_READ = """
**Heatmap.** One cell for each pair of layers; the diagonal is left out. Colours have the same
scale for every data set of a metric, so that figures compare; "fitted" spreads them over these
data. Against chance, the colour is `z = (s − mean) / sd` of the pair's own null.

**Null: turned layers** (the default). Each layer is turned by a random rotation of its own: its
spectrum and the angles between its experts stay, how it lies to other layers becomes arbitrary.
**Null: shuffled coordinates.** Each layer's coordinates are put into a random order, the same for
all its columns: this also keeps how unevenly its weight is spread over them. A draw costs a new
product of all columns, so there are few, and all pairs are pooled.

**p** is the share of draws at least as alike; far out, where no draw reaches, it is read off a
Pearson type III curve through the draws. **q** is p adjusted for all pairs (Benjamini–Hochberg):
of the pairs with q ≤ 0.05 at most one in twenty is expected to be there by chance.

**The pair.** Cosines between the experts of the two layers. Outlined cells are the best
one-to-one matching; labels of experts mean nothing across layers, so the diagonal has no
special role. Principal angles say how much of the two routers' spaces coincides. The **interval**
takes the d coordinates anew with replacement, 2s − 2m + quantiles of s*, m their mean: how far the
value depends on which coordinates are looked at. It is corrected for what resampling adds, about
the chance level, and so may lie below the value.

**Neighbours.** Similarity of each layer with the next above its null band. A **transition** changes
by more than 2σ of the series, and by more than the largest change anywhere in 95 % of series of
unrelated layers (max-statistic). The first rule alone marks 2.8 of 62 pairs in pure noise.

**Effective dimension** `(tr S)² / tr S²`, S the second moment of all columns: a few shared
directions that carry most of the weight make it small, and make unrelated layers look alike.

{metrics}
"""

COLOURS = {"fixed": "Fixed scale", "fitted": "Fitted", "z": "Against chance", "beyond": "Beyond it"}
NULLS = {"rotation": "Turned layers", "permutation": "Shuffled coordinates"}
MOST_ANGLES = 32
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


def controls() -> tuple[str, str, str, str]:
    """Metric, order, colours and null."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        metric = links.choice(
            "metric",
            "Metric",
            list(LAYER_METRICS),
            "cka",
            width=260,
            shown=lambda name: LAYER_METRICS[name].label,
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
        colours = links.segments(
            "colours",
            "Colours",
            list(COLOURS),
            "fixed",
            shown=COLOURS.__getitem__,
        )
        null = links.segments(
            "null",
            "Null",
            list(NULLS),
            "rotation",
            shown=NULLS.__getitem__,
            help="What unrelated layers are. Turned layers are fast; shuffled coordinates cost a "
            "product of all columns a draw.",
        )
    return metric, order, colours, null


def pair_selectors(routers: RouterSet) -> tuple[int, int]:
    """The two layers compared, by list."""
    labels = layout.layer_labels(routers)
    first, second = st.columns(2)
    with first:
        layer = layout.layer_choice(labels)
    with second:
        other = layout.layer_choice(labels, "other", "Compared with", default=1)
    return layer, other


def layer_null(
    routers: RouterSet, view: str, metric: str, kind: str, settings: NullSettings
) -> LayerNull:
    """The null of all pairs; the rotation null until the permutation null was run."""
    with st.spinner("Turning the layers at random …"):
        rotation = cached.layer_null_of(routers, metric, view, settings.draws, settings.seed)
    if kind == "rotation":
        return rotation
    with st.container(horizontal=True, vertical_alignment="bottom"):
        draws = links.segments(
            "permutations",
            "Shuffles",
            PERMUTATIONS,
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
                f"{found.draws} of {draws} shuffles: {found.found()} pairs beyond chance so far",
            )
            kept[run] = found
        slot.empty()
        for old in list(kept)[:-8]:
            del kept[old]
    if run not in kept:
        st.caption("Not run yet with these settings; until then the figures use turned layers.")
        return rotation
    return kept[run]


def pairs_in_words(routers: RouterSet, null: LayerNull, view: str) -> None:
    """Number of pairs beyond chance, and the effective dimension beside it."""
    pairs = routers.n_layers * (routers.n_layers - 1) // 2
    dimension = cached.effective_dimension(routers, view)
    columns = routers.n_layers * routers.n_experts
    st.markdown(
        f"**{null.found()} of {pairs:,} pairs of layers are more alike than chance** at a false "
        f"discovery rate of 5 % ({null.method}; {null.draws:,} draws, seed {null.seed}). "
        f"Effective dimension {dimension:,.0f} of {columns:,} columns."
    )


def heatmap(
    routers: RouterSet,
    view: str,
    metric: str,
    order: str,
    colours: str,
    chance: Chance | None,
    null: LayerNull,
    picked: tuple[int, int],
) -> None:
    """Similarity of all pairs of layers."""
    similarity = cached.layer_similarity(routers, metric, view)
    leaves = None
    if order == "clustered" and routers.n_layers > 2:
        leaves = cached.layer_tree(routers, metric, "average", view).order.tolist()
    labels = layout.layer_labels(routers)
    if colours in ("z", "beyond"):
        chart: alt.TopLevelMixin = figures.layer_null_heatmap(
            null, similarity, leaves, labels, picked, only_beyond=colours == "beyond"
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
        words=(metric, view) + ((colours,) if colours in ("z", "beyond") else ()),
        table=lambda: router_tables.layer_null_csv(null, similarity, labels),
        on_pick=pick_layers,
    )
    other = cached.layer_similarity(routers, metric, "raw" if view == "canonical" else "canonical")
    upper = np.triu_indices(routers.n_layers, 1)
    layout.ranking_note(similarity[upper], other[upper], "pairs of layers")


def pair_detail(
    routers: RouterSet,
    view: str,
    metric: str,
    null: LayerNull,
    settings: NullSettings,
    layer: int,
    other: int,
) -> None:
    """Two layers expert by expert, and where their similarity lies among chance."""
    name = LAYER_METRICS[metric].label
    value = float(cached.layer_similarity(routers, metric, view)[layer, other])
    pair = cached.layer_pair(routers, layer, other, view)
    labels_a, labels_b = (
        figures.expert_names(routers.label(row), routers.n_experts) for row in (layer, other)
    )
    with st.spinner("Drawing the coordinates anew …"):
        interval = cached.pair_interval(
            routers, layer, other, metric, view, settings.draws, settings.seed
        )
    p, q = null.p[layer, other], null.q[layer, other]
    verdict = "more alike than chance" if q <= 0.05 else "not distinguishable from chance"
    st.markdown(
        f"**{routers.label(layer)} with {routers.label(other)}**: {name} **{value:.3f}** "
        f"(95 % of coordinates drawn anew {interval.low:.3f} to {interval.high:.3f}), "
        f"z {null.z[layer, other]:.1f}, p {p_value_text(p)}, q {p_value_text(q)}: {verdict}."
    )
    for tab, container in links.tabs("pair", {"experts": "Experts", "angles": "Angles and chance"}):
        with container:
            if tab == "experts":
                matched = cached.chance_level("matched_cosine", routers, view)
                layout.figure(
                    figures.pair_matrix(pair, labels_a, labels_b, chance=matched),
                    "pair_matrix",
                    routers,
                    scale=0.85,
                    words=(routers.label(layer), routers.label(other), view),
                    table=lambda: router_tables.pair_csv(pair, labels_a, labels_b),
                )
            else:
                pair_in_chance(routers, view, metric, settings, value, pair)


def pair_in_chance(
    routers: RouterSet,
    view: str,
    metric: str,
    settings: NullSettings,
    value: float,
    pair: LayerPair,
) -> None:
    """A pair's similarity among those of the same two layers turned at random, and its angles."""
    samples = cached.null_of_pair(
        routers, pair.a, pair.b, metric, view, settings.draws, settings.seed
    )
    chance = chance_of(samples, settings.seed, "the two layers turned at random")
    layout.figure(
        figures.value_against_null(
            value, chance, name=LAYER_METRICS[metric].label, samples=samples
        ),
        "null_place",
        routers,
        stretch=True,
        words=(metric, routers.label(pair.a), routers.label(pair.b)),
        table=lambda: csv_text.table_csv(
            {"similarity of the two layers turned at random": samples}
        ),
    )
    rank = percentile(value, samples)
    st.caption(f"The value lies above {rank:.1f} % of {len(samples):,} draws.")
    st.markdown("Cosines of the principal angles, largest first")
    shown = pair.angles[:MOST_ANGLES]
    st.code("  ".join(f"{angle:.3f}" for angle in shown), language=None, wrap_lines=True)
    if len(shown) < len(pair.angles):
        st.caption(f"The {len(shown)} largest of {len(pair.angles)}.")


def neighbours(routers: RouterSet, view: str, metric: str, settings: NullSettings) -> None:
    """Each layer beside the next."""
    labels = layout.layer_labels(routers)
    with st.spinner("Comparing neighbours with unrelated layers …"):
        adjacent = cached.adjacent_layers(routers, metric, view)
        found = cached.transitions(routers, metric, view, settings.draws, settings.seed)
    names = {"similarity": "Similarity of neighbours", "change": "Change between neighbours"}
    for tab, container in links.tabs("next", names):
        with container:
            if tab == "similarity":
                chart: alt.TopLevelMixin = figures.adjacent_against_chance(
                    adjacent,
                    cached.adjacent_null(routers, metric, view, settings.draws, settings.seed),
                    found,
                    labels,
                    metric,
                    cached.adjacent_intervals(routers, metric, view, settings.draws, settings.seed),
                )
            else:
                chart = figures.layer_change(adjacent, labels)
            layout.figure(
                chart,
                "adjacent_layer_similarity" if tab == "similarity" else "layer_change",
                routers,
                words=(metric, view),
                table=lambda: router_tables.adjacent_csv(adjacent, labels, metric, found),
                on_pick=pick_layers,
            )


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    view = data_source.current_view()
    layout.heading(
        "Layers",
        layout.finding(routers, "/layers"),
        HOW_TO_READ.format(metrics=metrics_text()),
        routers,
        view=view,
        chance=True,
    )
    if routers.n_layers < 2:
        st.info("This router set has one layer, so there is nothing to compare it with.")
        return
    metric, order, colours, kind = controls()
    settings = null_settings.current()
    chance = cached.chance_level(metric, routers, view)
    null = layer_null(routers, view, metric, kind, settings)
    pairs_in_words(routers, null, view)
    left, right = st.columns([11, 9], gap="medium")
    with right:
        layer, other = pair_selectors(routers)
        if layer == other:
            st.info("Choose two different layers, or click a cell of the heatmap.")
        else:
            pair_detail(routers, view, metric, null, settings, layer, other)
    with left:
        heatmap(routers, view, metric, order, colours, chance, null, (layer, other))
    neighbours(routers, view, metric, settings)
    layout.share(routers)


show()
