"""Experts followed through depth: chains of matches that beat mixed experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from lens.figures import marks, theme
from lens.recipe.steps import remembered
from lens.words import counted, significant

if TYPE_CHECKING:
    from lens.experts.chains import Chain, SignificantChains

# Lanes that are drawn; the longest chains come first.
MOST_LANES = 64
LEVEL = 0.05


@remembered
def expert_chains(
    found: SignificantChains,
    labels: Sequence[str],
    picked: tuple[int, int] | None = None,
    *,
    lanes: int = MOST_LANES,
) -> alt.LayerChart:
    """The longest chains, one a lane: layers across, a link where a match beats mixed experts.

    Args:
        found: the chains.
        labels: names of the layers.
        picked: (layer, expert) whose chain is outlined, if it is drawn.
        lanes: how many at most.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    chains = [chain for chain in found.chains if len(chain) > 1][:lanes]
    step = theme.cell_step(len(labels), 760, low=9, high=44)
    width = step * len(labels)
    rest = sum(len(chain) > 1 for chain in found.chains) - len(chains)
    more = f"; {rest} shorter ones are in the table" if rest > 0 else ""
    count, links = f"{found.n_beyond} of {found.n_links}", found.links
    against = f"unrelated directions {significant(found.unrelated_mean)}"
    if links is not None:
        against = (
            f"Matched cosine of mixed experts {significant(links.null_mean)}, 95 % below "
            f"{significant(links.null_high)} ({links.draws:,} draws a link, seed {links.seed}); "
            + against
        )
    return marks.plot_figure(
        _chain_layers(chains, labels, step, picked),
        (max(width, 200), max(60, 18 * max(len(chains), 1))),
        theme.title(
            "Chains of matched experts",
            f"A lane is one chain, longest first{more}; a link is a match closer than the "
            f"directions that both layers read explain (false discovery rate {found.level:g}): "
            f"{count}. Digits: the expert's index, which changes from layer to layer.",
            f"{against}.",
            width=max(width, 480),
        ),
        theme.alt_description(
            f"{counted(len(chains), 'chain')} of experts through {len(labels)} layers",
            f"Matches between adjacent layers that beat mixed experts: {count}",
            "The longest goes through " + str(len(chains[0]) if chains else 1) + " layers",
        ),
        flexible=False,
    )


def _chain_layers(
    chains: Sequence[Chain], labels: Sequence[str], step: float, picked: tuple[int, int] | None
) -> list[alt.Chart]:
    """A line for each link, a spot for each member, its digit where there is room."""
    links, members = _link_columns(chains, labels), _member_columns(chains, labels)
    x = alt.X(
        "x:O",
        title="layer",
        scale=alt.Scale(domain=list(labels), type="point", padding=0.6),
        axis=marks.axis_labels(-90 if step < 30 else 0),
    )
    y = alt.Y("lane:O", title=None, axis=None)
    scale = theme.sequential((0.0, float(max([0.3, *links["score"]]))))
    lines = marks.chart(links, x=x, x2=alt.X2("x2:O"), y=y).encode(
        color=alt.Color("score:Q", title="cosine", scale=scale),
        tooltip=marks.tooltip(("name:N", "link"), ("score:Q", "cosine", ".3f")),
    )
    base = marks.chart(members, x=x, y=y)
    spots = base.mark_circle(size=min(200, 0.16 * step**2), opacity=1, color=theme.MID_GREY)
    layers = [
        lines.mark_rule(strokeWidth=4),
        spots.encode(tooltip=marks.tooltip(("name:N", "expert"))).add_params(
            marks.pick("layer", "expert")
        ),
    ]
    if step >= 14:
        digits = base.mark_text(fontSize=9, color=theme.ON_DARK, tooltip=None)
        layers.append(digits.encode(text=alt.Text("expert:N")))
    if picked is not None:
        own = [i for i, chain in enumerate(chains) if chain.expert_at(picked[0]) == picked[1]]
        if own:
            ring = marks.chart({"lane": own, "x": [labels[picked[0]]]}, x=x, y=y).mark_point(
                size=min(320, step * 14), strokeWidth=2.2, color=theme.ORANGE, filled=False
            )
            layers.append(ring.properties(description=marks.CHOSEN))
    return layers


def _link_columns(chains: Sequence[Chain], labels: Sequence[str]) -> dict[str, list[Any]]:
    """A row for each link."""
    rows = [
        (lane, chain.first + i, score, chain.experts[i], chain.experts[i + 1])
        for lane, chain in enumerate(chains)
        for i, score in enumerate(chain.scores)
    ]
    return {
        "lane": [lane for lane, *_ in rows],
        "x": [labels[layer] for _, layer, *_ in rows],
        "x2": [labels[layer + 1] for _, layer, *_ in rows],
        "score": [score for _, _, score, *_ in rows],
        "name": [
            f"{labels[layer]}·E{one} → {labels[layer + 1]}·E{next_one}"
            for _, layer, _, one, next_one in rows
        ],
    }


def _member_columns(chains: Sequence[Chain], labels: Sequence[str]) -> dict[str, list[Any]]:
    """A row for each expert of a chain."""
    rows = [
        (lane, chain.first + i, expert)
        for lane, chain in enumerate(chains)
        for i, expert in enumerate(chain.experts)
    ]
    return {
        "lane": [lane for lane, _, _ in rows],
        "layer": [layer for _, layer, _ in rows],
        "x": [labels[layer] for _, layer, _ in rows],
        "expert": [expert for _, _, expert in rows],
        "name": [f"{labels[layer]}·E{expert}" for _, layer, expert in rows],
    }


@remembered
def expert_cosines_against_chance(
    cosines: np.ndarray,
    q: np.ndarray,
    baseline: float,
    *,
    layer_label: str,
    null: str = "equal experts",
) -> alt.LayerChart:
    """Cosines between the experts of one layer; a dot marks those other than the null's.

    With more experts than a browser draws, those with the pairs furthest from the baseline.

    Args:
        cosines: [expert, expert].
        q: adjusted p-values of the pairs.
        baseline: cosine of unrelated columns once their mean is off, −1 / (E − 1).
        layer_label: of the layer.
        null: what q is measured against.

    Returns:
        A chart with the selection "pick" of the fields ea and eb.
    """
    n = len(cosines)
    apart = np.abs(cosines - baseline)
    np.fill_diagonal(apart, 0)
    order = np.argsort(-apart.max(axis=1), kind="stable")
    drawn = np.sort(order[: theme.most_cells_a_side()])
    a, b = marks.other_pairs(drawn)
    values, every = cosines[a, b], np.asarray([f"E{e}" for e in range(n)])
    scale = theme.diverging((-1, 1), baseline, constant=0.1)
    data = {
        "ea": a,
        "eb": b,
        "a": every[a],
        "b": every[b],
        "value": values,
        "q": q[a, b],
        "mark": np.where(q[a, b] <= LEVEL, "•", ""),
        "ink": theme.ink(values, scale),
    }
    names = every[drawn].tolist()
    base = marks.chart(
        data,
        x=alt.X("b:O", title=None, sort=names, axis=marks.axis_labels(0)),
        y=alt.Y("a:O", title=None, sort=names, axis=marks.axis_labels()),
    )
    tips: list[marks.Tip] = [
        ("a:N", "expert"),
        ("b:N", "with expert"),
        ("value:Q", "cosine", ".4f"),
        ("q:Q", "q (all pairs of the layer)", ".2g"),
    ]
    colour = alt.Color("value:Q", title="cosine", scale=scale)
    layers = [marks.cells(base, colour, tips, "ea", "eb")]
    step = theme.cell_step(len(drawn), 340)
    if step >= 8:
        layers.append(marks.inked_text(base, "mark:N", min(14, step)))
    pairs = q[np.triu_indices(n, 1)]
    count = f"{int((pairs <= LEVEL).sum())} of {len(pairs)} pairs"
    part = f"Drawn: {len(drawn)} of {n} experts, with the furthest pairs; the table holds all."
    return marks.cell_figure(
        layers,
        (step, step),
        theme.title(
            f"Experts of {layer_label}",
            f"cosine of router columns; unrelated ones have {significant(baseline)}. "
            f"Dots: other than {null}, {count} (false discovery rate {LEVEL:g}).",
            part * (len(drawn) < n),
            width=step * len(drawn),
        ),
        theme.alt_description(
            f"Cosines between {n} experts of {layer_label}", f"{count} differ from {null}"
        ),
    )
