"""Figures of two runs side by side: the aligned texts, and where their routing differs.

Columns are pairs of an alignment. A token that stands in one text alone has a column without
cells, so that what is drawn below each other belongs together.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.figures.traces.token_maps import TOKEN_VALUES, token_window, visible, window_text
from lens.figures.traces.tokens import flow
from lens.prompt_pairs.alignment import DELETED, INSERTED, KINDS, SAME, SUBSTITUTED, Alignment

WIDTH = 680
LINE = 58  # pixels of both texts' rows and the space below them
MAX_PAIRS = theme.MAX_MARKS // 8
KEPT = "kept"


def pair_window(n_pairs: int, n_rows: int = 1, picked: int | None = None) -> range:
    """The pairs that are drawn: all, or as many around the picked one as stay quick."""
    full = token_window(n_pairs, n_rows, picked=picked)
    if len(full) <= MAX_PAIRS:
        return full
    first = 0 if picked is None else int(np.clip(picked - MAX_PAIRS // 2, 0, n_pairs - MAX_PAIRS))
    return range(first, first + MAX_PAIRS)


def pair_names(
    pieces: Sequence[str], other_pieces: Sequence[str], alignment: Alignment
) -> list[str]:
    """A name of its own for each pair: places and texts of both tokens, once where they are equal.

    "4 the" stands at place 4 in both, "4|6 the" at 4 and 6; "–" stands for no token.
    """
    names = []
    for i, j, kind in zip(alignment.first, alignment.second, alignment.kind, strict=True):
        place = f"{i}" if i == j else f"{i if i >= 0 else '–'}|{j if j >= 0 else '–'}"
        one = visible(pieces[i]) if i >= 0 else "–"
        other = visible(other_pieces[j]) if j >= 0 else "–"
        names.append(f"{place} {one}" if kind == SAME else f"{place} {one} | {other}")
    return names


def aligned_strip(
    pieces: Sequence[str],
    other_pieces: Sequence[str],
    alignment: Alignment,
    moved: Float[np.ndarray, " pair"],
    *,
    picked: int | None = None,
    names: tuple[str, str] = ("first", "second"),
    width: float = 1040,
) -> alt.LayerChart:
    """Both texts as two rows of tokens, one below the other, wrapped like text.

    Args:
        moved: share of layers in which a pair of the same token has other experts; not a number
            for other pairs, whose tokens get an outline alone.
        picked: the pair to outline.
        names: of the texts, in the tooltip and the title.

    Returns:
        A chart with the selection "pick" of the field pair.
    """
    n = alignment.n_pairs
    window = pair_window(n, picked=picked)
    pair = np.asarray(window)
    shown = [
        [visible(texts[at]) if at >= 0 else "" for at in places[pair]]
        for texts, places in (
            (pieces, alignment.first),
            (other_pieces, alignment.second),
        )
    ]
    left, right, line = flow([max(a, b, key=len) for a, b in zip(*shown, strict=True)], width)
    kind = alignment.kind[pair]
    value = np.where(kind == SAME, moved[pair], np.nan)
    rows = []
    for row, (words, places) in enumerate(
        zip(shown, (alignment.first, alignment.second), strict=True)
    ):
        keep = places[pair] >= 0
        top = line * LINE + 24 * row
        rows.append(
            {
                "pair": pair[keep],
                "place": places[pair][keep],
                "text": np.full(int(keep.sum()), names[row]),
                "piece": np.asarray(words, dtype=str)[keep],
                "kind": np.asarray(KINDS)[kind][keep],
                "x": left[keep],
                "x2": right[keep],
                "middle": ((left + right) / 2)[keep],
                "y": top[keep],
                "y2": (top + 22)[keep],
                "text_y": (top + 11.5)[keep],
                "value": value[keep],
            }
        )
    data = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    scale = theme.sequential((0.0, 1.0))
    data["ink"] = np.where(
        np.isnan(data["value"]), "", theme.ink(np.nan_to_num(data["value"]), scale)
    )
    height = float((line.max(initial=0) + 1) * LINE)
    x_scale = alt.Scale(domain=[0, width], nice=False)
    y_scale = alt.Scale(domain=[height, 0], nice=False, zero=False)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:Q", axis=None, scale=x_scale), y=alt.Y("y:Q", axis=None, scale=y_scale)
    )
    boxes = base.encode(x2="x2:Q", y2="y2:Q")
    tooltip = [
        alt.Tooltip("text:N", title="text"),
        alt.Tooltip("place:Q", title="place"),
        alt.Tooltip("kind:N", title="token"),
        alt.Tooltip("value:Q", title="layers with other experts", format=".0%"),
    ]
    pick = alt.selection_point(name="pick", fields=["pair"], empty=False)
    legend = alt.Legend(orient="bottom", gradientLength=200, format=".0%")
    colour = alt.Color("value:Q", title="layers with other experts", scale=scale, legend=legend)
    same, alone = "datum.value !== null", "datum.value === null"
    text = base.encode(
        x=alt.X("middle:Q", axis=None, scale=x_scale),
        y=alt.Y("text_y:Q", axis=None, scale=y_scale),
        text="piece:N",
    )
    layers = [
        boxes.transform_filter(same)
        .mark_rect(cornerRadius=3)
        .encode(color=colour, tooltip=tooltip)
        .add_params(pick),
        boxes.transform_filter(alone)
        .mark_rect(cornerRadius=3, fillOpacity=0.08, fill=theme.ORANGE, stroke=theme.ORANGE)
        .encode(tooltip=tooltip),
        text.transform_filter(same)
        .mark_text(fontSize=12, tooltip=None)
        .encode(color=theme.ink_colour()),
        text.transform_filter(alone).mark_text(fontSize=12, color=theme.MID_GREY, tooltip=None),
    ]
    if picked is not None and picked in window:
        at = picked - window.start
        box = {"x": [left[at]], "x2": [right[at]], "y": [line[at] * LINE]}
        layers += theme.outlined(boxes, box | {"y2": [line[at] * LINE + 46]}, 24)
    part = window_text(window, n)
    return theme.layered(*layers).properties(
        width=width,
        height=height,
        view=alt.ViewBackground(stroke=None),
        autosize=theme.NATURAL,
        title=theme.title(
            f"Above: {names[0]}; below: {names[1]}",
            "colour: share of layers in which the same token goes to other experts; orange outline:"
            f" a token that the other does not have there. {part}",
            width=width,
        ),
        description=theme.alt_description(
            f"Two texts aligned: {alignment.count(SAME)} tokens the same, "
            f"{alignment.count(SUBSTITUTED)} substituted, {alignment.count(DELETED)} in the first "
            f"alone, {alignment.count(INSERTED)} in the second alone",
            part,
        ),
    )


def compared_map(
    values: Float[np.ndarray, "layer pair"],
    what: str,
    names: Sequence[str],
    labels: Sequence[str],
    *,
    picked: tuple[int, int] | None = None,
    runs: tuple[str, str] = ("first", "second"),
) -> alt.LayerChart:
    """One value for every pair of the same token in every layer; nothing where tokens differ.

    Args:
        values: first less second; or, with what = "kept", the share of common experts.
        what: a name in `TOKEN_VALUES`, or "kept".
        names: of the pairs, see `pair_names`.
        picked: the cell to outline, as (pair, layer).
        runs: what the two are called.

    Returns:
        A chart with the selection "pick" of the fields pair and layer.
    """
    n_layers, n_pairs = values.shape
    window = pair_window(n_pairs, n_layers, picked[0] if picked else None)
    layer, place = (grid.ravel() for grid in np.indices((n_layers, len(window))))
    pair = place + window.start
    cells = values[layer, pair]
    there = np.isfinite(cells)
    data = {
        "pair": pair[there],
        "layer": layer[there],
        "x": np.asarray(names, dtype=str)[pair[there]],
        "y": np.asarray(labels, dtype=str)[layer[there]],
        "value": cells[there],
    }
    if what == KEPT:
        name, legend = "Experts in common", "share of experts"
        unit = "share of the token's experts that both choose; 1: the same, 0: none"
        scale = theme.sequential((0.0, 1.0), scheme="cividis")
    else:
        text = TOKEN_VALUES[what]
        name, legend = text.title, "first − second"
        unit = f"{runs[0]} less {runs[1]}; {text.unit}; 0: alike"
        reach = theme.fitted_domain(values, middle=0.0)[1]
        scale = theme.diverging((-reach, reach), 0.0)
    step = theme.cell_step(len(window), WIDTH, low=9, high=30)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "x:O",
            title=f"token; {runs[0]} | {runs[1]} where they differ",
            scale=alt.Scale(domain=[names[t] for t in window]),
            axis=theme.axis_labels(-90, labelLimit=140),
        ),
        y=alt.Y(
            "y:O",
            title="layer",
            scale=alt.Scale(domain=list(labels)),
            axis=theme.axis_labels(),
        ),
    )
    pick = alt.selection_point(name="pick", fields=["pair", "layer"], empty=False)
    layers = [
        base.mark_rect()
        .encode(
            color=alt.Color(
                "value:Q",
                title=legend,
                scale=scale,
                legend=alt.Legend(orient="bottom", gradientLength=200),
            ),
            tooltip=[
                alt.Tooltip("x:N", title="token"),
                alt.Tooltip("y:N", title="layer"),
                alt.Tooltip("value:Q", title=name, format=".4f"),
            ],
        )
        .add_params(pick)
    ]
    if picked is not None and picked[0] in window:
        layers += theme.outlined(base, {"x": [names[picked[0]]], "y": [labels[picked[1]]]}, step)
    finite = values[np.isfinite(values)]
    mean = float(finite.mean()) if finite.size else float("nan")
    part = window_text(window, n_pairs)
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(theme.cell_step(n_layers, 420, low=6, high=24)),
        autosize=theme.NATURAL,
        title=theme.title(
            f"{name} of the same token in every layer",
            f"{unit}; mean {mean:+.3f}; no cell: the tokens differ. {part}",
            width=max(step * len(window), 420),
        ),
        description=theme.alt_description(
            f"Heatmap of {len(window)} pairs of tokens in {n_layers} layers: {name}, {unit}",
            f"Mean {mean:+.3f}",
            part,
        ),
    )


def load_differences(
    difference: Float[np.ndarray, "layer expert"],
    q: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    *,
    runs: tuple[str, str] = ("first", "second"),
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Load of each expert in one run less that in the other; a dot marks q ≤ 0.05.

    Args:
        difference: of shares of the assignments of the same tokens.
        q: over all layers and experts.
        picked: (layer, expert) to outline.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = difference.shape
    layer, expert = (grid.ravel() for grid in np.indices(difference.shape))
    if len(layer) > theme.MAX_MARKS // 2:
        keep = np.sort(np.argsort(-np.abs(difference), axis=None)[: theme.MAX_MARKS // 2])
        layer, expert = layer[keep], expert[keep]
    reach = float(np.abs(difference).max()) or 1.0
    scale = theme.diverging((-reach, reach), 0.0)
    values = difference[layer, expert]
    data = {
        "layer": layer,
        "expert": expert,
        "y": np.asarray(labels, dtype=str)[layer],
        "unit": theme.unit_names(labels, layer, expert),
        "value": values,
        "q": q[layer, expert],
        "ink": theme.ink(values, scale),
    }
    step = theme.cell_step(n_experts, 420, low=7, high=40)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "expert:O",
            title="expert; not comparable between layers",
            axis=theme.axis_labels(0, labelExpr="'E' + datum.value"),
        ),
        y=alt.Y(
            "y:O",
            title="layer",
            scale=alt.Scale(domain=list(labels)),
            axis=theme.axis_labels(),
        ),
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    rare = np.nan_to_num(q, nan=1) <= 0.05
    layers = [
        base.mark_rect()
        .encode(
            color=alt.Color("value:Q", title="difference in load", scale=scale),
            tooltip=[
                alt.Tooltip("unit:N", title="expert"),
                alt.Tooltip("value:Q", title="difference in load", format="+.4f"),
                alt.Tooltip("q:Q", title="q (Benjamini–Hochberg)", format=".2g"),
            ],
        )
        .add_params(pick),
        base.transform_filter("datum.q !== null && datum.q <= 0.05")
        .mark_text(text="●", fontSize=9, tooltip=None)
        .encode(color=theme.ink_colour()),
    ]
    if picked is not None:
        at = {"y": [labels[picked[0]]], "expert": [picked[1]]}
        layers += theme.outlined(base, at, step)
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(theme.cell_step(n_layers, 420, low=6, high=24)),
        autosize=theme.NATURAL,
        title=theme.title(
            "Load of the same tokens",
            f"{runs[0]} less {runs[1]}, share of assignments; ● q ≤ 0.05: {int(rare.sum())} of "
            f"{int(np.isfinite(q).sum())} that differ at all; 0: alike",
            width=max(step * n_experts, 420),
        ),
        description=theme.alt_description(
            f"Heatmap of differences in load of {difference.size} experts, from "
            f"{float(difference.min()):+.3f} to {float(difference.max()):+.3f}; "
            f"{int(rare.sum())} with q of at most 0.05"
        ),
    )
