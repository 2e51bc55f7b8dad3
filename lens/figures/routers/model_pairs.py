"""Two router sets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from lens.errors import LensError
from lens.figures import theme
from lens.layers.similarity import LAYER_METRICS
from lens.words import p_value_text, significant

if TYPE_CHECKING:
    from lens.model_pairs.comparison import Comparison
    from lens.model_pairs.depth_profiles import Profile

COLOURS = {
    "unchanged": theme.MID_GREY,
    "relabelled": "#56B4E9",
    "changed": theme.ORANGE,
    "changed, relabelled": "#CC79A7",
    "unrelated": "#C2185B",
}
SHAPES = ["circle", "diamond", "circle", "diamond", "cross"]
EXPERT_KINDS = ("beyond chance", "no counterpart beyond chance")


def layers_changed(found: Comparison, labels: Sequence[str]) -> alt.LayerChart:
    """Similarity of each layer with its counterpart, and what became of it."""
    name = LAYER_METRICS[found.metric].label
    names = [labels[int(row)] for row in found.pairs[:, 0]]
    data = {
        "layer": names,
        "value": found.similarity,
        "low": found.low,
        "high": found.high,
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
        alt.Tooltip("value:Q", title=name, format=".4f"),
        alt.Tooltip("low:Q", title="low (2.5 %)", format=".4f"),
        alt.Tooltip("high:Q", title="high (97.5 %)", format=".4f"),
        alt.Tooltip("lowest:Q", title="weakest match (cosine)", format=".4f"),
        alt.Tooltip("q:Q", title="q", format=".2g"),
        alt.Tooltip("verdict:N"),
    ]
    line = base.mark_line(color=theme.BAND_GREY).encode(y=alt.Y("value:Q", title=name))
    bars = base.mark_rule(color=theme.BAND_GREY, strokeWidth=2).encode(y="low:Q", y2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y="value:Q",
        color=alt.Color("verdict:N", title=None, scale=key, legend=alt.Legend(orient="bottom")),
        shape=alt.Shape(
            "verdict:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=SHAPES)
        ),
        tooltip=tooltip,
    )
    weakest = base.mark_tick(color=theme.MID_GREY).encode(y="lowest:Q")
    return theme.layered(line, bars, weakest, points).properties(
        width=640,
        height=260,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Layers of A and of B",
            f"points: {name} of the layers with the same number, bars its 95 % bootstrap interval "
            f"({found.bootstrap_draws:,} draws); ticks: cosine of the weakest match of experts; "
            f"unrelated: q > 0.05 ({found.draws:,} draws, seed {found.seed}).",
            width=640,
        ),
        description=theme.alt_description(
            f"{name} of {len(names)} layers of A with their counterparts in B",
            f"from {found.similarity.min():.3g} to {found.similarity.max():.3g}",
        ),
    )


def layers_across(
    found: Comparison, labels: Sequence[str], other_labels: Sequence[str]
) -> alt.LayerChart:
    """Similarity of every layer of A with every layer of B; the best assignment outlined.

    Raises:
        LensError: too many pairs to be drawn one by one.
    """
    shape = found.all_similarity.shape
    if max(shape) > theme.most_cells_a_side():
        raise LensError(
            f"{shape[0]} × {shape[1]} pairs of layers are too many for a figure; at most "
            f"{theme.most_cells_a_side()} layers a side are drawn."
        )
    metric = LAYER_METRICS[found.metric]
    a, b = (grid.ravel() for grid in np.indices(shape))
    data = {
        "a": np.asarray(labels)[a],
        "b": np.asarray(other_labels)[b],
        "value": found.all_similarity[a, b],
        "q": found.all_q[a, b],
    }
    if metric.domain[0] < 0:
        scale = theme.diverging((-1, 1), 0, constant=0.1)
    else:
        scale = theme.sequential((0, 1), bend=0.5)
    step = theme.cell_step(max(shape), 480)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title="layer of B", sort=list(other_labels), axis=theme.axis_labels(-90)),
        y=alt.Y("a:O", title="layer of A", sort=list(labels), axis=theme.axis_labels()),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=metric.label, scale=scale),
        tooltip=[
            alt.Tooltip("a:N", title="layer of A"),
            alt.Tooltip("b:N", title="layer of B"),
            alt.Tooltip("value:Q", title=metric.label, format=".4f"),
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
            f"{metric.label}; {beyond:,} of {found.all_similarity.size:,} pairs beyond chance "
            f"(q ≤ 0.05; {found.draws:,} draws, seed {found.seed}). Outlined: the best assignment.",
            width=step * shape[1],
        ),
        description=theme.alt_description(
            f"{metric.label} of {len(labels)} layers of A with {len(other_labels)} layers of B",
            f"{beyond} pairs are beyond chance",
        ),
    )


def experts_changed(found: Comparison, labels: Sequence[str]) -> alt.Chart:
    """Angle between each expert of A and its match in B, layer by layer.

    Args:
        labels: of the layers of A.

    Raises:
        LensError: too many experts to be drawn one by one.
    """
    if found.cosine.size > theme.MAX_MARKS:
        raise LensError(
            f"{found.cosine.size:,} experts are too many for a figure; at most "
            f"{theme.MAX_MARKS:,} are drawn."
        )
    names = [labels[int(row)] for row in found.pairs[:, 0]]
    pair, expert = (grid.ravel() for grid in np.indices(found.cosine.shape))
    beyond = int((found.expert_q <= 0.05).sum())
    angle = found.angle
    data = {
        "layer": np.asarray(names)[pair],
        "name": [f"{names[p]}·E{e}" for p, e in zip(pair, expert, strict=True)],
        "match": found.partner[pair, expert],
        "angle": angle[pair, expert],
        "cosine": found.cosine[pair, expert],
        "q": found.expert_q[pair, expert],
        "kind": np.where(found.expert_q[pair, expert] <= 0.05, *EXPERT_KINDS),
    }
    return (
        alt.Chart(theme.embed(data))
        .mark_point(size=45, opacity=0.85, filled=True)
        .encode(
            x=alt.X(
                "layer:O",
                title="layer",
                sort=names,
                axis=theme.axis_labels(-90 if len(names) > 16 else 0),
            ),
            y=alt.Y("angle:Q", title="angle (degrees)", scale=alt.Scale(domainMin=0)),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=list(EXPERT_KINDS), range=[theme.BLUE, "#D55E00"]),
                legend=alt.Legend(orient="bottom"),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="expert of A"),
                alt.Tooltip("match:Q", title="index in B"),
                alt.Tooltip("angle:Q", format=".2f"),
                alt.Tooltip("cosine:Q", format=".4f"),
                alt.Tooltip("q:Q", format=".2g"),
            ],
        )
        .properties(
            width=640,
            height=260,
            autosize=theme.FLEXIBLE,
            title=theme.title(
                "Experts of A and of B",
                "angle between the directions of matched experts, 90° for unrelated ones; "
                f"{beyond:,} of {found.cosine.size:,} matches beat chance (q ≤ 0.05; layers "
                f"turned at random and matched anew, {found.expert_draws:,} draws of all experts "
                f"of a layer, seed {found.seed}).",
                width=640,
            ),
            description=theme.alt_description(
                f"Angles of {found.cosine.size} experts of A to their matches in B",
                f"from {angle.min():.3g} to {angle.max():.3g} degrees",
            ),
        )
    )


def profiles_over_depth(profiles: Sequence[Profile]) -> alt.VConcatChart:
    """Quantities of the layers of A and of B, over relative depth."""
    panels = []
    for profile in profiles:
        depth = [np.linspace(0, 1, len(values)) for values in (profile.a, profile.b)]
        data = {
            "set": ["A"] * len(profile.a) + ["B"] * len(profile.b),
            "depth": np.concatenate(depth),
            "value": np.concatenate([profile.a, profile.b]),
        }
        told = "not asked: too few layers, or the same in all of them"
        if np.isfinite(profile.correlation):
            told = (
                f"correlation {significant(profile.correlation)}, q {p_value_text(profile.q)} "
                "against shuffled layers"
            )
        panels.append(
            alt.Chart(theme.embed(data))
            .mark_line(point=alt.OverlayMarkDef(size=22))
            .encode(
                x=alt.X("depth:Q", title="relative depth (0: first layer, 1: last)"),
                y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
                color=alt.Color(
                    "set:N",
                    title=None,
                    scale=alt.Scale(domain=["A", "B"], range=[theme.BLUE, theme.ORANGE]),
                ),
                tooltip=[
                    alt.Tooltip("set:N"),
                    alt.Tooltip("depth:Q", format=".2f"),
                    alt.Tooltip("value:Q", format=".4g"),
                ],
            )
            .properties(width=560, height=110, title=theme.title(profile.name, told, width=560))
        )
    first = profiles[0]
    return alt.vconcat(*panels, spacing=14).properties(
        autosize=theme.NATURAL,
        title=theme.title(
            "The course of A and of B over depth",
            f"null: layers of B shuffled, {first.draws:,} draws, seed {first.seed}; q over "
            f"{len(profiles)} quantities (Benjamini–Hochberg)",
            width=560,
        ),
        description=theme.alt_description(
            f"{len(profiles)} quantities of {len(first.a)} layers of A and {len(first.b)} of B"
        ),
    )
