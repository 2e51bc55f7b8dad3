"""One expert: its numbers, its nearest experts, its matches in the neighbouring layers."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import cached
from lens.experts.measures import ExpertMeasures
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
    """One expert: its numbers, its nearest experts, its matches in the neighbouring layers."""
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
        f"{measures.baselines['l1_l2']:.3g}. Breadth {measures.breadth_method}."
    )
    nearest = cached.near_experts(routers, layer, expert, NEAREST, view)
    others = (routers.n_layers - 1) * routers.n_experts
    if nearest:
        st.markdown("Nearest experts of other layers")
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
                    "percentile, mixed experts",
                    format="%.2f",
                    help="Among cosines of experts mixed within the same two layers, which read "
                    f"the same directions. For the nearest of {others:,} experts "
                    f"{100 * (1 - 1 / others):.2f} is usual",
                ),
                "unrelated": st.column_config.NumberColumn(
                    "percentile, unrelated directions",
                    format="%.2f",
                    help="Among cosines of unrelated directions",
                ),
            },
            key="nearest_experts",
        )
    matches = []
    for neighbour in (layer - 1, layer + 1):
        if 0 <= neighbour < routers.n_layers:
            pair = cached.layer_pair(routers, layer, neighbour, view)
            partner = routers.label(neighbour, int(pair.partner[expert]))
            matches.append(f"{partner} (cosine {pair.matched[expert]:.3f})")
    if matches:
        st.markdown("Matched in the neighbouring layers: " + ", ".join(matches))
