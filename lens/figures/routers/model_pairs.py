"""Figures of two router sets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from lens.errors import LensError
from lens.figures import marks, theme
from lens.layers.similarity import LAYER_METRICS
from lens.recipe.steps import remembered
from lens.words import counted, p_value_text, significant

if TYPE_CHECKING:
    from lens.model_pairs.comparison import Comparison
    from lens.model_pairs.depth_profiles import Profile

COLOURS = {
    "unchanged": theme.MID_GREY,
    "relabelled": "#56B4E9",
    "changed": theme.ORANGE,
    "changed, relabelled": "#CC79A7",
    "shared directions only": "#8C6D31",
    "unrelated": "#C2185B",
}
SHAPES = ["circle", "diamond", "circle", "diamond", "triangle-up", "cross"]
LEVEL = 0.05
EXPERT_KINDS = ("nearer than mixed experts", "no nearer than mixed experts")


@remembered
def layers_changed(found: Comparison, labels: Sequence[str]) -> alt.LayerChart:
    """Similarity of each layer with its counterpart, and what became of it.

    Args:
        found: of the sets A and B.
        labels: of the layers of A.
    """
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
        "zero": found.unrelated_q,
    }
    base = marks.chart(data, x=_layer_x(names))
    kinds = list(COLOURS)
    key = alt.Scale(domain=kinds, range=list(COLOURS.values()))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=alt.Y("value:Q"),
        color=alt.Color("verdict:N", title=None, scale=key, legend=alt.Legend(orient="bottom")),
        shape=alt.Shape("verdict:N", title=None, scale=alt.Scale(domain=kinds, range=SHAPES)),
        tooltip=marks.tooltip(
            ("layer:N",),
            ("value:Q", name, ".4f"),
            ("low:Q", "low (2.5 %)", ".4f"),
            ("high:Q", "high (97.5 %)", ".4f"),
            ("lowest:Q", "weakest match (cosine)", ".4f"),
            ("q:Q", "q", ".2g"),
            ("zero:Q", "q, unrelated directions", ".2g"),
            ("verdict:N",),
        ),
    )
    return marks.plot_figure(
        [
            base.mark_line(color=theme.BAND_GREY).encode(y=alt.Y("value:Q", title=name)),
            base.mark_rule(color=theme.BAND_GREY, strokeWidth=2).encode(
                y=alt.Y("low:Q"), y2=alt.Y2("high:Q")
            ),
            base.mark_tick(color=theme.MID_GREY).encode(y=alt.Y("lowest:Q")),
            points,
        ],
        (640, 260),
        theme.title(
            "Layers of A and of B",
            f"points: {name} of the layers with the same number, bars its 95 % bootstrap interval "
            f"({found.bootstrap_draws:,} draws); ticks: cosine of the weakest match of experts; "
            f"changed: more alike than {found.null}; unrelated: no more than layers turned at "
            f"random (q > 0.05; {found.unrelated_draws:,} draws, seed {found.seed}).",
            width=640,
        ),
        theme.alt_description(
            f"{name} of {len(names)} layers of A with their counterparts in B",
            f"from {significant(found.similarity.min())} to {significant(found.similarity.max())}",
        ),
    )


@remembered
def layers_across(
    found: Comparison, labels: Sequence[str], other_labels: Sequence[str]
) -> alt.LayerChart:
    """Similarity of every layer of A with every layer of B; the best assignment outlined.

    Args:
        found: of the sets A and B.
        labels: of the layers of A.
        other_labels: of those of B.

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
    a, b = marks.grid(shape)
    data = {
        "a": np.asarray(labels)[a],
        "b": np.asarray(other_labels)[b],
        "value": found.all_similarity[a, b],
        "q": found.all_q[a, b],
    }
    base = marks.chart(
        data,
        x=alt.X("b:O", title="layer of B", sort=list(other_labels), axis=marks.axis_labels(-90)),
        y=alt.Y("a:O", title="layer of A", sort=list(labels), axis=marks.axis_labels()),
    )
    tips: list[marks.Tip] = [
        ("a:N", "layer of A"),
        ("b:N", "layer of B"),
        ("value:Q", metric.label, ".4f"),
        ("q:Q", "q (all pairs)", ".2g"),
    ]
    scale = theme.sequential((0, 1), bend=0.5)
    if metric.domain[0] < 0:
        scale = theme.diverging((-1, 1), 0, constant=0.1)
    rows = np.flatnonzero(found.alignment >= 0)
    assigned = {
        "a": [labels[int(row)] for row in rows],
        "b": [other_labels[int(found.alignment[row])] for row in rows],
    }
    step = theme.cell_step(max(shape), 480)
    cells = marks.cells(base, alt.Color("value:Q", title=metric.label, scale=scale), tips)
    beyond = int((found.all_q <= LEVEL).sum())
    return marks.cell_figure(
        [cells, *marks.outlined(base, assigned, step, chosen=False)],
        (step, step),
        theme.title(
            "Every layer of A with every layer of B",
            f"{metric.label}; {beyond:,} of {found.all_similarity.size:,} pairs are more alike "
            f"than {found.null} (q ≤ 0.05; seed {found.seed}). Outlined: the best assignment.",
            width=step * shape[1],
        ),
        theme.alt_description(
            f"{metric.label} of {len(labels)} layers of A with {len(other_labels)} layers of B",
            f"More alike than {found.null}: {counted(beyond, 'pair')}",
        ),
    )


@remembered
def experts_changed(found: Comparison, labels: Sequence[str]) -> alt.Chart:
    """Angle between each expert of A and its match in B, layer by layer.

    Args:
        found: of the sets A and B.
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
    pair, expert = marks.grid(found.cosine.shape)
    beyond = found.expert_q <= LEVEL
    data = {
        "layer": np.asarray(names)[pair],
        "name": theme.unit_names(names, pair, expert),
        "match": found.partner.ravel(),
        "angle": found.angle.ravel(),
        "cosine": found.cosine.ravel(),
        "q": found.expert_q.ravel(),
        "kind": np.where(beyond.ravel(), *EXPERT_KINDS),
    }
    kinds = alt.Scale(domain=list(EXPERT_KINDS), range=[theme.BLUE, "#D55E00"])
    base = marks.chart(
        data,
        x=_layer_x(names),
        y=alt.Y("angle:Q", title="angle (degrees)", scale=alt.Scale(domainMin=0)),
        color=alt.Color("kind:N", title=None, scale=kinds, legend=alt.Legend(orient="bottom")),
        tooltip=marks.tooltip(
            ("name:N", "expert of A"),
            ("match:Q", "index in B"),
            ("angle:Q", "", ".2f"),
            ("cosine:Q", "", ".4f"),
            ("q:Q", "", ".2g"),
        ),
    )
    shapes = alt.Scale(domain=list(EXPERT_KINDS), range=["circle", "triangle-up"])
    points: alt.Chart = base.mark_point(size=45, opacity=0.85, filled=True)
    return points.encode(shape=alt.Shape("kind:N", title=None, scale=shapes)).properties(
        width=640,
        height=260,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Experts of A and of B",
            "angle between the directions of matched experts, 90° for unrelated ones; "
            f"{int(beyond.sum()):,} of {beyond.size:,} matches are nearer than those of experts "
            f"mixed within their layers (q ≤ 0.05; {found.expert_draws:,} draws of all experts of "
            f"a layer, seed {found.seed}).",
            width=640,
        ),
        description=theme.alt_description(
            f"Angles of {beyond.size} experts of A to their matches in B",
            f"from {significant(found.angle.min())} to {significant(found.angle.max())} degrees",
        ),
    )


def _layer_x(names: Sequence[str]) -> alt.X:
    """Layers across: field "layer"."""
    axis = marks.axis_labels(-90 if len(names) > 16 else 0)
    return alt.X("layer:O", title="layer", sort=list(names), axis=axis)


@remembered
def profiles_over_depth(profiles: Sequence[Profile]) -> alt.VConcatChart:
    """Quantities of the layers of A and of B, over relative depth.

    Args:
        profiles: one a panel.
    """
    first = profiles[0]
    return alt.vconcat(*(_profile(one) for one in profiles), spacing=14).properties(
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


def _profile(profile: Profile) -> alt.Chart:
    data = {
        "set": ["A"] * len(profile.a) + ["B"] * len(profile.b),
        "depth": np.concatenate([np.linspace(0, 1, len(v)) for v in (profile.a, profile.b)]),
        "value": np.concatenate([profile.a, profile.b]),
    }
    told = "not asked: too few layers, or the same in all of them"
    if np.isfinite(profile.correlation):
        told = (
            f"correlation {significant(profile.correlation)}, q {p_value_text(profile.q)} "
            "against shuffled layers"
        )
    sets = alt.Scale(domain=["A", "B"], range=[theme.BLUE, theme.ORANGE])
    base = marks.chart(
        data,
        x=alt.X("depth:Q", title="relative depth (0: first layer, 1: last)"),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=alt.Color("set:N", title=None, scale=sets),
        tooltip=marks.tooltip(("set:N",), ("depth:Q", "", ".2f"), ("value:Q", "", ".4g")),
    )
    in_grey = {
        "strokeDash": alt.StrokeDash(
            "set:N", title=None, scale=alt.Scale(domain=["A", "B"], range=[[1, 0], [5, 3]])
        ),
    }
    line: alt.Chart = base.mark_line(point=alt.OverlayMarkDef(size=22)).encode(**in_grey)
    return line.properties(width=560, height=110, title=theme.title(profile.name, told, width=560))
