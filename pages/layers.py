"""Layers: which layers route alike, and is it more than chance?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from lens import cached, figures, tables
from lens.null import Chance, percentile
from lens.routers import RouterSet
from lens.similarity import LAYER_METRICS, LayerPair
from pages.parts import data_source, layout, links

HOW_TO_READ = """
**Heatmap.** One cell for each pair of layers; the diagonal is left out. Colours have the same
scale for every data set of a metric, so that figures compare; "fitted" spreads them over these
data. Grey or the middle of the scale is chance.

**The pair.** Cosines between the experts of the two layers. Outlined cells are the best
one-to-one matching; labels of experts mean nothing across layers, so the diagonal has no
special role. Principal angles say how much of the two routers' spaces coincides.

**Neighbours.** Similarity of each layer with the next, above the band that holds 95 % of
unrelated pairs. The rule |Δ| > 2σ is the classic marker of transitions; it marks about 4.6 % of
pairs in pure noise.

{metrics}
"""


def metrics_text() -> str:
    """Formula and reading of every metric."""
    return "\n".join(
        f"- **{metric.label}** `{metric.formula}`. {metric.reading}"
        for metric in LAYER_METRICS.values()
    )


def controls() -> tuple[str, str, str]:
    """Metric, order and colours."""
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
        order = links.choice(
            "order",
            "Order",
            ["layer", "clustered"],
            "layer",
            shown={"layer": "By layer", "clustered": "Clustered"}.__getitem__,
            widget="segments",
        )
        colours = links.choice(
            "colours",
            "Colours",
            ["fixed", "fitted"],
            "fixed",
            shown={"fixed": "Fixed scale", "fitted": "Fitted"}.__getitem__,
            widget="segments",
        )
    return metric, order, colours


def pick_pair(mark: Mapping[str, Any]) -> None:
    """A clicked cell becomes the pair shown."""
    links.choose(layer=int(mark["la"]), other=int(mark["lb"]))


def pair_selectors(routers: RouterSet) -> tuple[int, int]:
    """The two layers compared, by list."""
    first, second = st.columns(2)
    with first:
        layer = layout.layer_choice(routers)
    with second:
        other = layout.layer_choice(routers, "other", "Compared with", default=1)
    return layer, other


def heatmap(
    routers: RouterSet,
    view: str,
    metric: str,
    order: str,
    colours: str,
    chance: Chance | None,
    picked: tuple[int, int],
) -> None:
    """Similarity of all pairs of layers."""
    similarity = cached.layer_similarity(routers, metric, view)
    leaves = None
    if order == "clustered" and routers.n_layers > 2:
        leaves = cached.layer_tree(routers, metric, "average", view).order.tolist()
    domain = None
    if colours == "fitted":
        others = ~np.eye(len(similarity), dtype=bool)
        domain = figures.fitted_domain(similarity[others])
    labels = layout.layer_labels(routers)
    layout.figure(
        figures.layer_similarity_heatmap(
            similarity, leaves, labels, metric, chance, picked, domain=domain
        ),
        "layer_similarity_heatmap",
        routers,
        scale=0.93,
        words=(metric, view),
        table=lambda: tables.layer_similarity_csv(similarity, labels, metric),
        on_pick=pick_pair,
    )


def pair_detail(
    routers: RouterSet, view: str, metric: str, chance: Chance | None, layer: int, other: int
) -> None:
    """Two layers expert by expert, and where their similarity lies among chance."""
    name = LAYER_METRICS[metric].label
    value = float(cached.layer_similarity(routers, metric, view)[layer, other])
    pair = cached.layer_pair(routers, layer, other, view)
    labels_a, labels_b = (
        figures.expert_names(routers.label(row), routers.n_experts) for row in (layer, other)
    )
    st.markdown(
        f"**{routers.label(layer)} with {routers.label(other)}**: {name} **{value:.3f}**"
        + (f", {place_in_chance(routers, metric, view, value)}" if chance is not None else "")
    )
    for tab, place in links.tabs("pair", {"experts": "Experts", "angles": "Angles and chance"}):
        with place:
            if tab == "experts":
                matched = cached.chance_level("matched_cosine", routers, view)
                layout.figure(
                    figures.pair_matrix(pair, labels_a, labels_b, chance=matched),
                    "pair_matrix",
                    routers,
                    words=(routers.label(layer), routers.label(other), view),
                    table=lambda: tables.pair_csv(pair, labels_a, labels_b),
                )
            else:
                pair_in_chance(routers, view, metric, chance, value, pair)


def pair_in_chance(
    routers: RouterSet,
    view: str,
    metric: str,
    chance: Chance | None,
    value: float,
    pair: LayerPair,
) -> None:
    """A pair's similarity among those of unrelated layers, and its principal angles."""
    if chance is not None:
        samples = cached.chance_samples(metric, routers, view)
        layout.figure(
            figures.null_place(value, chance, name=LAYER_METRICS[metric].label, samples=samples),
            "null_place",
            routers,
            words=(metric, routers.label(pair.a), routers.label(pair.b)),
            table=lambda: tables.table_csv({"similarity of unrelated layers": samples}),
        )
    st.markdown("Cosines of the principal angles, largest first")
    st.code("  ".join(f"{angle:.3f}" for angle in pair.angles), language=None, wrap_lines=True)


def place_in_chance(routers: RouterSet, metric: str, view: str, value: float) -> str:
    """Where a similarity lies among those of unrelated layers, in words."""
    samples = cached.chance_samples(metric, routers, view)
    place = percentile(value, samples)
    if place >= 100:
        return f"above all {len(samples)} draws of unrelated layers"
    if place <= 0:
        return f"below all {len(samples)} draws of unrelated layers"
    return f"above {place:.0f} % of unrelated layers"


def neighbours(routers: RouterSet, view: str, metric: str, chance: Chance | None) -> None:
    """Each layer beside the next."""
    adjacent = cached.adjacent_layers(routers, metric, view)
    labels = layout.layer_labels(routers)
    names = {"similarity": "Similarity of neighbours", "change": "Change between neighbours"}
    for tab, place in links.tabs("next", names):
        with place:
            layout.figure(
                figures.adjacent_layer_similarity(adjacent, chance, labels, metric=metric)
                if tab == "similarity"
                else figures.layer_change(adjacent, labels),
                "adjacent_layer_similarity" if tab == "similarity" else "layer_change",
                routers,
                words=(metric, view),
                table=lambda: tables.adjacent_csv(adjacent, labels, metric),
                on_pick=pick_pair,
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
    )
    if routers.n_layers < 2:
        st.info("This router set has one layer, so there is nothing to compare it with.")
        return
    metric, order, colours = controls()
    chance = cached.chance_level(metric, routers, view)
    left, right = st.columns([11, 9], gap="medium")
    with right:
        layer, other = pair_selectors(routers)
        if layer == other:
            st.info("Choose two different layers, or click a cell of the heatmap.")
        else:
            pair_detail(routers, view, metric, chance, layer, other)
    with left:
        heatmap(routers, view, metric, order, colours, chance, (layer, other))
    neighbours(routers, view, metric, chance)
    layout.share(routers)


show()
