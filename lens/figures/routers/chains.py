"""Experts followed through depth: chains of matches that beat chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from lens.figures import theme
from lens.words import significant

if TYPE_CHECKING:
    from lens.experts.chains import SignificantChains

# Lanes that are drawn; the longest chains come first.
MOST_LANES = 64


def expert_chains(
    found: SignificantChains,
    labels: Sequence[str],
    picked: tuple[int, int] | None = None,
    *,
    lanes: int = MOST_LANES,
) -> alt.LayerChart:
    """The longest chains, one a lane: layers across, a link where a match beats chance.

    Args:
        found: the chains.
        labels: names of the layers.
        picked: (layer, expert) whose chain is outlined, if it is drawn.
        lanes: how many at most.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    chains = [chain for chain in found.chains if len(chain) > 1][:lanes]
    links: dict[str, list] = {"lane": [], "x": [], "x2": [], "score": [], "name": []}
    members: dict[str, list] = {"lane": [], "layer": [], "x": [], "expert": [], "name": []}
    for lane, chain in enumerate(chains):
        names = [f"{labels[chain.first + i]}·E{e}" for i, e in enumerate(chain.experts)]
        for i, score in enumerate(chain.scores):
            links["lane"].append(lane)
            links["x"].append(labels[chain.first + i])
            links["x2"].append(labels[chain.first + i + 1])
            links["score"].append(score)
            links["name"].append(f"{names[i]} → {names[i + 1]}")
        for i, expert in enumerate(chain.experts):
            members["lane"].append(lane)
            members["layer"].append(chain.first + i)
            members["x"].append(labels[chain.first + i])
            members["expert"].append(expert)
            members["name"].append(names[i])
    step = theme.cell_step(len(labels), 760, low=9, high=44)
    x = alt.X(
        "x:O",
        title="layer",
        scale=alt.Scale(domain=list(labels), type="point", padding=0.6),
        axis=theme.axis_labels(-90 if step < 30 else 0),
    )
    y = alt.Y("lane:O", title=None, axis=None)
    top = max([0.3, *links["score"]])
    colour = alt.Color(
        "score:Q",
        title="cosine",
        scale=theme.sequential((0.0, float(top)), bend=1.0),
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    lines = (
        alt.Chart(theme.embed(links))
        .mark_rule(strokeWidth=4)
        .encode(
            x=x,
            x2="x2:O",
            y=y,
            color=colour,
            tooltip=[
                alt.Tooltip("name:N", title="link"),
                alt.Tooltip("score:Q", title="cosine", format=".3f"),
            ],
        )
    )
    spots = alt.Chart(theme.embed(members)).encode(x=x, y=y)
    drawn = [
        lines,
        spots.mark_circle(size=min(200, 0.16 * step**2), opacity=1, color=theme.MID_GREY)
        .encode(tooltip=[alt.Tooltip("name:N", title="expert")])
        .add_params(pick),
    ]
    if step >= 14:
        drawn.append(
            spots.mark_text(fontSize=9, color=theme.ON_DARK, tooltip=None).encode(text="expert:N")
        )
    if picked is not None:
        own = [i for i, chain in enumerate(chains) if chain.expert_at(picked[0]) == picked[1]]
        if own:
            ring = {"lane": own, "x": [labels[picked[0]]]}
            drawn.append(
                alt.Chart(theme.embed(ring))
                .mark_point(
                    size=min(320, step * 14), strokeWidth=2.2, color=theme.ORANGE, filled=False
                )
                .encode(x=x, y=y)
            )
    n_links = found.q.size
    width = step * len(labels)
    rest = sum(len(chain) > 1 for chain in found.chains) - len(chains)
    more = f"; {rest} shorter ones are in the table" if rest > 0 else ""
    return theme.layered(*drawn).properties(
        width=max(width, 200),
        height=max(60, 18 * max(len(chains), 1)),
        autosize=theme.NATURAL,
        title=theme.title(
            "Chains of matched experts",
            f"A lane is one chain, longest first{more}; a link is a match that beats chance (false "
            f"discovery rate {found.level:g}): {found.n_beyond} of {n_links}. Digits: the "
            "expert's index, which changes from layer to layer.",
            f"Chance: matched cosine {significant(found.null_mean)}, 95 % below "
            f"{significant(found.null_high)} ({found.draws:,} draws a link, seed {found.seed}).",
            width=max(width, 480),
        ),
        description=theme.alt_description(
            f"{len(chains)} chains of experts through {len(labels)} layers",
            f"{found.n_beyond} of {n_links} matches between adjacent layers beat chance",
            "The longest goes through " + str(len(chains[0]) if chains else 1) + " layers",
        ),
    )


def expert_cosines_against_chance(
    cosines: np.ndarray, q: np.ndarray, baseline: float, *, layer_label: str
) -> alt.LayerChart:
    """Cosines between the experts of one layer; a dot marks those beyond chance.

    With more experts than a browser draws, those with the pairs furthest from chance.

    Args:
        cosines: [expert, expert].
        q: adjusted p-values of the pairs.
        baseline: cosine of unrelated columns once their mean is off, −1 / (E − 1).

    Returns:
        A chart with the selection "pick" of the fields ea and eb.
    """
    n = len(cosines)
    apart = np.abs(cosines - baseline)
    np.fill_diagonal(apart, 0)
    order = np.argsort(-apart.max(axis=1), kind="stable")
    drawn = np.sort(order[: theme.most_cells_a_side()])
    a, b = (grid.ravel() for grid in np.meshgrid(drawn, drawn, indexing="ij"))
    a, b = a[a != b], b[a != b]
    values, beyond = cosines[a, b], q[a, b] <= 0.05
    scale = theme.diverging((-1, 1), baseline, constant=0.1)
    step = theme.cell_step(len(drawn), 340)
    names = [f"E{e}" for e in drawn]
    every = np.asarray([f"E{e}" for e in range(n)])
    base = alt.Chart(
        theme.embed(
            {
                "ea": a,
                "eb": b,
                "a": every[a],
                "b": every[b],
                "value": values,
                "q": q[a, b],
                "mark": np.where(beyond, "•", ""),
                "ink": theme.ink(values, scale),
            }
        )
    ).encode(
        x=alt.X("b:O", title=None, sort=names, axis=theme.axis_labels(0)),
        y=alt.Y("a:O", title=None, sort=names, axis=theme.axis_labels()),
    )
    pick = alt.selection_point(name="pick", fields=["ea", "eb"], empty=False)
    layers = [
        base.mark_rect()
        .encode(
            color=alt.Color("value:Q", title="cosine", scale=scale),
            tooltip=[
                alt.Tooltip("a:N", title="expert"),
                alt.Tooltip("b:N", title="with expert"),
                alt.Tooltip("value:Q", title="cosine", format=".4f"),
                alt.Tooltip("q:Q", title="q (all pairs of the layer)", format=".2g"),
            ],
        )
        .add_params(pick)
    ]
    if step >= 8:
        layers.append(
            base.mark_text(fontSize=min(14, step), tooltip=None).encode(
                text="mark:N", color=theme.ink_colour()
            )
        )
    upper = np.triu_indices(n, 1)
    count = int((q[upper] <= 0.05).sum())
    part = ""
    if len(drawn) < n:
        part = (
            f"Drawn: the {len(drawn)} of {n} experts with the pairs furthest from chance; the "
            "table holds all."
        )
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(step),
        autosize=theme.NATURAL,
        title=theme.title(
            f"Experts of {layer_label}",
            f"cosine of router columns; chance {significant(baseline)} once their mean is off. "
            f"Dots: other than chance, {count} of {len(upper[0])} pairs (false discovery rate "
            "0.05).",
            part,
            width=step * len(drawn),
        ),
        description=theme.alt_description(
            f"Cosines between {n} experts of {layer_label}",
            f"{count} of {len(upper[0])} pairs differ from chance",
        ),
    )
