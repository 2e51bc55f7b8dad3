"""Experts of one layer against each other."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.experts.within_layers import EQUAL, UNRELATED
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.words import fixed
from pages.shell import layout, links
from pages.shell.null_settings import NullSettings

NULLS = {
    EQUAL: "Equal experts: the layer with its weights dealt to other experts, and experts mixed "
    "from all layers, which keep norm scales, outlier dimensions and the space that all layers "
    "read; the larger p counts. Unrelated columns vary by ± {sd}.",
    UNRELATED: "Unrelated columns: independent Gaussian weights (raw view). Norm scales or outlier "
    "dimensions alone make experts differ from them; the canonical view sets experts against "
    "equal ones.",
}


def show(routers: RouterSet, view: str, layer: int, settings: NullSettings) -> None:
    """Experts of one layer against each other."""
    scope = links.segments(
        "within",
        "Experts beside each other by",
        ["cosine", "correlation", "mean"],
        "cosine",
        shown={
            "cosine": "Cosine in the layer",
            "correlation": "Correlation in the layer",
            "mean": "Mean over layers (classic)",
        }.__getitem__,
    )
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    if scope == "cosine":
        with st.spinner("Drawing equal experts …"):
            found = cached.within_layers(routers, view, settings.draws, settings.seed)
        upper = np.triu_indices(routers.n_experts, 1)
        beyond = int((found.q[layer][upper] <= 0.05).sum())
        everywhere = int((found.q[:, upper[0], upper[1]] <= 0.05).any(axis=1).sum())
        st.markdown(
            f"**{beyond} of {len(upper[0]):,} pairs of {routers.label(layer)}** are other than "
            f"{found.null} ({fixed(found.baseline, 3)} ± {fixed(found.sd[layer], 3)}; "
            f"{found.draws:,} draws, "
            f"seed {found.seed}); {everywhere} of {routers.n_layers} layers have such pairs."
        )
        st.caption(NULLS[found.null].format(sd=fixed(found.unrelated_sd, 3)))
        layout.figure(
            figures.expert_cosines_against_chance(
                found.cosines[layer],
                found.q[layer],
                found.baseline,
                layer_label=routers.label(layer),
                null=found.null,
            ),
            "expert_correlation_matrix",
            routers,
            stretch=True,
            words=(scope, routers.label(layer), view),
            table=lambda: csv_text.table_csv(
                {
                    "expert": upper[0],
                    "with expert": upper[1],
                    "cosine (−1 to 1)": found.cosines[layer][upper],
                    f"p (two-sided; {found.null})": found.p[layer][upper],
                    "q (within the layer)": found.q[layer][upper],
                }
            ),
        )
        return
    matrix = cached.expert_correlation(routers, view)
    shown = matrix.mean(axis=0) if scope == "mean" else matrix[layer]
    label = None if scope == "mean" else routers.label(layer)
    layout.figure(
        figures.expert_correlation_matrix(shown, layer_label=label, measure="correlation"),
        "expert_correlation_matrix",
        routers,
        words=(scope, label or "all", view),
        table=lambda: csv_text.matrix_csv(shown, names, names, "expert"),
    )
