"""One expert: its numbers, its nearest experts, its matches in the neighbouring layers."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import cached
from lens.experts.measures import ExpertMeasures
from lens.experts.nearest import NearExpert
from lens.routers.router_set import RouterSet
from lens.words import percent

NEAREST = 8


def show(
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    view: str,
    layer: int,
    expert: int,
) -> None:
    """One expert: its matches before and after, its nearest experts, then its weights."""
    st.markdown(matched_in_words(routers, view, layer, expert))
    nearest = cached.near_experts(routers, layer, expert, NEAREST, view)
    if nearest:
        names = ", ".join(
            f"{routers.label(near.layer, near.expert)} ({near.cosine:.2f})" for near in nearest[:3]
        )
        st.markdown(f"Nearest in other layers: {names}")
        with st.expander("Nearest experts, beside chance"):
            nearest_table(routers, nearest)
    with st.expander("Weights"):
        weights(measures, load, layer, expert)


def matched_in_words(routers: RouterSet, view: str, layer: int, expert: int) -> str:
    """The partners of an expert in the layers before and after."""
    matches = []
    for word, neighbour in (("before it", layer - 1), ("after it", layer + 1)):
        if 0 <= neighbour < routers.n_layers:
            pair = cached.layer_pair(routers, layer, neighbour, view)
            partner = routers.label(neighbour, int(pair.partner[expert]))
            matches.append(f"{word} {partner} ({pair.matched[expert]:.2f})")
    return "Matched by direction (cosine): " + ", ".join(matches) if matches else ""


def weights(measures: ExpertMeasures, load: np.ndarray | None, layer: int, expert: int) -> None:
    """Breadth, norm and the spread of the weights, beside what even ones have."""
    facts = [
        ("Breadth", f"{measures.breadth[layer, expert]:.3f}"),
        ("Norm", f"{measures.norm[layer, expert]:.3g}"),
        ("L1 / L2", f"{measures.l1_l2[layer, expert]:.3g}"),
    ]
    if load is not None:
        facts.append(("Load", percent(load[layer, expert], 1)))
    with st.container(horizontal=True, gap="small"):
        for name, value in facts:
            st.metric(name, value, width="content")
    st.caption(
        f"Even breadth {measures.baselines['breadth']:.3f}; L1 / L2 of Gaussian weights "
        f"{measures.baselines['l1_l2']:.3g}. Breadth is known by {measures.breadth_method}."
    )


def nearest_table(routers: RouterSet, nearest: list[NearExpert]) -> None:
    """The nearest experts of other layers, each with its place among what chance gives."""
    others = (routers.n_layers - 1) * routers.n_experts
    st.dataframe(
        {
            "expert": [routers.label(near.layer, near.expert) for near in nearest],
            "cosine": [near.cosine for near in nearest],
            "mixed": [near.mixed_percentile for near in nearest],
            "unrelated": [near.unrelated_percentile for near in nearest],
        },
        hide_index=True,
        column_config={
            "cosine": st.column_config.NumberColumn(format="%.3f"),
            "mixed": st.column_config.NumberColumn(
                "% of mixed",
                format="%.2f",
                help="Percentile among cosines of experts mixed within the same two layers, which "
                f"read the same directions. For the nearest of {others:,} experts "
                f"{100 * (1 - 1 / others):.2f} is usual",
            ),
            "unrelated": st.column_config.NumberColumn(
                "% of unrelated",
                format="%.2f",
                help="Percentile among cosines of unrelated directions",
            ),
        },
        key="nearest_experts",
    )
