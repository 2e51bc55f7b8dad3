"""Two router sets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from lens.figures import theme

if TYPE_CHECKING:
    from lens.comparison import Comparison

COLOURS = {
    "unchanged": theme.MID_GREY,
    "relabelled": "#56B4E9",
    "changed": theme.ORANGE,
    "changed, relabelled": "#CC79A7",
    "unrelated": "#D55E00",
}


def layers_changed(found: Comparison, labels: Sequence[str]) -> alt.LayerChart:
    """CKA of each layer with its counterpart, and what became of it."""
    names = [labels[int(row)] for row in found.pairs[:, 0]]
    data = {
        "layer": names,
        "cka": found.cka,
        "lowest": found.cosine.min(axis=1),
        "verdict": [found.verdict(pair) for pair in range(len(names))],
        "q": found.q,
    }
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "layer:O",
            title="layer",
            sort=names,
            axis=theme.axis_labels(-90 if len(names) > 16 else 0),
        )
    )
    key = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("cka:Q", title="CKA", format=".4f"),
        alt.Tooltip("lowest:Q", title="weakest match (cosine)", format=".4f"),
        alt.Tooltip("q:Q", title="q", format=".2g"),
        alt.Tooltip("verdict:N"),
    ]
    line = base.mark_line(color=theme.BAND_GREY).encode(y=alt.Y("cka:Q", title="CKA"))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y="cka:Q",
        color=alt.Color("verdict:N", title=None, scale=key, legend=alt.Legend(orient="bottom")),
        tooltip=tooltip,
    )
    weakest = base.mark_tick(color=theme.MID_GREY).encode(y="lowest:Q")
    return theme.layered(line, weakest, points).properties(
        width=640,
        height=260,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Layers of A and of B",
            "points: CKA of the layers with the same number; ticks: cosine of the weakest match of "
            f"experts; unrelated: q > 0.05 ({found.draws:,} draws, seed {found.seed}).",
            width=640,
        ),
        description=theme.alt_description(
            f"CKA of {len(names)} layers of A with their counterparts in B",
            f"from {float(found.cka.min()):.3g} to {float(found.cka.max()):.3g}",
        ),
    )


def layers_across(
    found: Comparison, labels: Sequence[str], other_labels: Sequence[str]
) -> alt.LayerChart:
    """CKA of every layer of A with every layer of B; the best assignment outlined."""
    a, b = (grid.ravel() for grid in np.indices(found.all_cka.shape))
    data = {
        "a": np.asarray(labels)[a],
        "b": np.asarray(other_labels)[b],
        "value": found.all_cka[a, b],
        "q": found.all_q[a, b],
    }
    step = theme.cell_step(max(found.all_cka.shape), 480)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title="layer of B", sort=list(other_labels), axis=theme.axis_labels(-90)),
        y=alt.Y("a:O", title="layer of A", sort=list(labels), axis=theme.axis_labels()),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title="CKA", scale=theme.sequential((0, 1), bend=0.5)),
        tooltip=[
            alt.Tooltip("a:N", title="layer of A"),
            alt.Tooltip("b:N", title="layer of B"),
            alt.Tooltip("value:Q", title="CKA", format=".4f"),
            alt.Tooltip("q:Q", title="q (all pairs)", format=".2g"),
        ],
    )
    rows = np.flatnonzero(found.alignment >= 0)
    ring = {
        "a": [labels[int(row)] for row in rows],
        "b": [other_labels[int(found.alignment[row])] for row in rows],
    }
    beyond = int((found.all_q <= 0.05).sum())
    return theme.layered(cells, *theme.outlined(base, ring, step)).properties(
        width=alt.Step(step),
        height=alt.Step(step),
        autosize=theme.NATURAL,
        title=theme.title(
            "Every layer of A with every layer of B",
            f"CKA; {beyond} of {found.all_cka.size:,} pairs beyond chance (q ≤ 0.05; "
            f"{found.draws:,} draws, seed {found.seed}). Outlined: the best assignment.",
            width=step * found.all_cka.shape[1],
        ),
        description=theme.alt_description(
            f"CKA of {len(labels)} layers of A with {len(other_labels)} layers of B",
            f"{beyond} pairs are beyond chance",
        ),
    )
