"""Figures of two runs side by side: the aligned texts, and where their routing differs.

Columns are pairs of an alignment. A token that stands in one text alone has a column without
cells, so that what is drawn below each other belongs together.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.figures.token_grid import (
    TokenGrid,
    token_step,
    token_window,
    token_x,
    visible,
    window_text,
)
from lens.figures.traces.token_maps import TOKEN_VALUES
from lens.figures.traces.tokens import flow
from lens.prompt_pairs.alignment import DELETED, INSERTED, KINDS, SAME, SUBSTITUTED, Alignment
from lens.recipe.steps import remembered
from lens.words import counted, fixed

LINE = 58  # pixels of both texts' rows and the space below them
MAX_PAIRS = theme.MAX_MARKS // 8
KEPT = "kept"


def pair_window(n_pairs: int, n_rows: int = 1, picked: int | None = None) -> range:
    """The pairs that are drawn: all, or as many around the picked one as stay quick.

    Args:
        n_pairs: of the alignment.
        n_rows: of the figure.
        picked: a pair that the window has to hold.
    """
    full = token_window(n_pairs, n_rows, picked=picked)
    if len(full) <= MAX_PAIRS:
        return full
    first = 0 if picked is None else int(np.clip(picked - MAX_PAIRS // 2, 0, n_pairs - MAX_PAIRS))
    return range(first, first + MAX_PAIRS)


def pair_names(
    pieces: Sequence[str], other_pieces: Sequence[str], alignment: Alignment
) -> list[str]:
    """A name of its own for each pair: positions and texts of both, once where they are equal.

    "4 the" stands at position 4 in both, "4|6 the" at 4 and 6; "–" stands for no token.

    Args:
        pieces: text of the first one's tokens.
        other_pieces: text of the second one's.
        alignment: of the two.
    """
    names = []
    for i, j, kind in zip(alignment.first, alignment.second, alignment.kind, strict=True):
        position = f"{i}" if i == j else f"{i if i >= 0 else '–'}|{j if j >= 0 else '–'}"
        one = visible(pieces[i]) if i >= 0 else "–"
        other = visible(other_pieces[j]) if j >= 0 else "–"
        names.append(f"{position} {one}" if kind == SAME else f"{position} {one} | {other}")
    return names


@remembered
def aligned_strip(
    pieces: Sequence[str],
    other_pieces: Sequence[str],
    alignment: Alignment,
    moved: Float[np.ndarray, " pair"],
    *,
    picked: int | None = None,
    names: tuple[str, str] = ("first", "second"),
    width: float = 900,
) -> alt.LayerChart:
    """Both texts as two rows of tokens, one below the other, wrapped like text.

    Args:
        pieces: text of the first one's tokens.
        other_pieces: text of the second one's.
        alignment: of the two.
        moved: share of layers in which a pair of the same token has other experts; not a number
            for other pairs, whose tokens get an outline alone.
        picked: the pair to outline.
        names: of the texts, in the tooltip and the title.
        width: of a line, in pixels.

    Returns:
        A chart with the selection "pick" of the field pair.
    """
    window = pair_window(alignment.n_pairs, picked=picked)
    pair = np.asarray(window)
    shown = [
        [visible(texts[at]) if at >= 0 else "" for at in positions[pair]]
        for texts, positions in ((pieces, alignment.first), (other_pieces, alignment.second))
    ]
    left, right, line = flow([max(a, b, key=len) for a, b in zip(*shown, strict=True)], width)
    boxes = {"x": left, "x2": right, "middle": (left + right) / 2}
    value = np.where(alignment.kind[pair] == SAME, moved[pair], np.nan)
    rows = []
    for row, positions in enumerate((alignment.first[pair], alignment.second[pair])):
        top = line * LINE + 24 * row
        columns = {
            "pair": pair,
            "place": positions,
            "text": np.full(len(pair), names[row]),
            "piece": np.asarray(shown[row], dtype=str),
            "kind": np.asarray(KINDS)[alignment.kind[pair]],
            "y": top,
            "y2": top + 22,
            "text_y": top + 11.5,
            "value": value,
        } | boxes
        rows.append({name: column[positions >= 0] for name, column in columns.items()})
    data = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    height = float((line.max(initial=0) + 1) * LINE)
    box = None
    if picked is not None and picked in window:
        at = picked - window.start
        top, bottom = line[at] * LINE, line[at] * LINE + 46
        box = {"x": [left[at]], "x2": [right[at]], "y": [top], "y2": [bottom]}
    part = window_text(window, alignment.n_pairs)
    return marks.plot_figure(
        _strip_layers(data, (width, height), box),
        (width, height),
        theme.title(
            f"Above: {names[0]}; below: {names[1]}",
            "colour: share of layers in which the same token goes to other experts; orange outline:"
            f" a token that the other does not have there. {part}",
            width=width,
        ),
        theme.alt_description(
            f"Two texts aligned: {alignment.count(SAME)} tokens the same, "
            f"{alignment.count(SUBSTITUTED)} substituted, {alignment.count(DELETED)} in the first "
            f"alone, {alignment.count(INSERTED)} in the second alone",
            part,
        ),
        flexible=False,
        frame=False,
    )


def _strip_layers(
    data: dict[str, np.ndarray], size: tuple[float, float], outlined: theme.Columns | None
) -> list[alt.Chart]:
    """Boxes and words: coloured where the token is the same in both, else in an outline."""
    scale = theme.sequential((0.0, 1.0))
    known = theme.ink(np.nan_to_num(data["value"]), scale)
    x_scale = alt.Scale(domain=[0, size[0]], nice=False)
    y_scale = alt.Scale(domain=[size[1], 0], nice=False, zero=False)
    base = marks.chart(
        data | {"ink": np.where(np.isnan(data["value"]), "", known)},
        x=alt.X("x:Q", axis=None, scale=x_scale),
        y=alt.Y("y:Q", axis=None, scale=y_scale),
    )
    tips = marks.tooltip(
        ("text:N", "text"),
        ("place:Q", "place"),
        ("kind:N", "token"),
        ("value:Q", "layers with other experts", ".0%"),
    )
    legend = alt.Legend(orient="bottom", gradientLength=200, format=".0%")
    colour = alt.Color("value:Q", title="layers with other experts", scale=scale, legend=legend)
    boxes = base.encode(x2=alt.X2("x2:Q"), y2=alt.Y2("y2:Q"))
    words = base.encode(
        x=alt.X("middle:Q", axis=None, scale=x_scale),
        y=alt.Y("text_y:Q", axis=None, scale=y_scale),
        text=alt.Text("piece:N"),
    )
    same, alone = "datum.value !== null", "datum.value === null"
    coloured = boxes.transform_filter(same).mark_rect(cornerRadius=3)
    hollow = boxes.transform_filter(alone).mark_rect(
        cornerRadius=3, fillOpacity=0.08, fill=theme.ORANGE, stroke=theme.ORANGE
    )
    layers = [
        coloured.encode(color=colour, tooltip=tips).add_params(marks.pick("pair")),
        hollow.encode(tooltip=tips),
        marks.inked_text(words.transform_filter(same), "piece:N", 12),
        words.transform_filter(alone).mark_text(fontSize=12, tooltip=None),
    ]
    return layers + ([] if outlined is None else marks.outlined(boxes, outlined, 24))


@remembered
def pair_map(
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
        labels: of the layers.
        picked: the cell to outline, as (pair, layer).
        runs: what the two are called.

    Returns:
        A chart with the selection "pick" of the fields pair and layer.
    """
    n_layers, n_pairs = values.shape
    window = pair_window(n_pairs, n_layers, picked[0] if picked else None)
    grid, step = TokenGrid(names, labels, window, "pair"), token_step(len(window))
    columns = grid.columns(values)
    there = np.isfinite(columns["value"])
    name, unit, colour = _pair_value(values, what, runs)
    base = marks.chart(
        {field: column[there] for field, column in columns.items()},
        x=token_x(grid.shown, f"token; {runs[0]} | {runs[1]} where they differ", 140),
        y=_layer_y(labels),
    )
    tips: list[marks.Tip] = [("x:N", "token"), ("y:N", "layer"), ("value:Q", name, ".4f")]
    finite = values[np.isfinite(values)]
    mean = float(finite.mean()) if finite.size else float("nan")
    part = window_text(window, n_pairs)
    return marks.cell_figure(
        [marks.cells(base, colour, tips, "pair", "layer"), *grid.outline(base, picked, step)],
        (step, grid.height),
        theme.title(
            f"{name} of the same token in every layer",
            f"{unit}; mean {fixed(mean, 3, sign=True)}; no cell: the tokens differ. {part}",
            width=max(step * len(window), 420),
        ),
        theme.alt_description(
            f"Heatmap of {counted(len(window), 'pair')} of tokens in {n_layers} layers",
            f"{name}, {unit}",
            f"Mean {fixed(mean, 3, sign=True)}",
            part,
        ),
    )


def _pair_value(values: np.ndarray, what: str, runs: tuple[str, str]) -> tuple[str, str, alt.Color]:
    """Name, unit and colour of a value of pairs."""
    if what == KEPT:
        name, title = "Experts in common", "share of experts"
        unit = "share of the token's experts that both choose; 1: the same, 0: none"
        scale = theme.sequential((0.0, 1.0), scheme="cividis")
    else:
        text = TOKEN_VALUES[what]
        name, title = text.title, "first − second"
        unit = f"{runs[0]} less {runs[1]}; {text.unit}; 0: alike"
        reach = theme.fitted_domain(values, middle=0.0)[1]
        scale = theme.diverging((-reach, reach), 0.0)
    legend = alt.Legend(orient="bottom", gradientLength=200)
    return name, unit, alt.Color("value:Q", title=title, scale=scale, legend=legend)


def _layer_y(labels: Sequence[str]) -> alt.Y:
    """All layers down, also those without a cell."""
    domain = alt.Scale(domain=list(labels))
    return alt.Y("y:O", title="layer", scale=domain, axis=marks.axis_labels())


@remembered
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
        labels: of the layers.
        runs: what the two are called.
        picked: (layer, expert) to outline.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = difference.shape
    layer, expert = marks.striking_cells(np.abs(difference), theme.MAX_MARKS // 2)
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
    axis = marks.axis_labels(0, labelExpr="'E' + datum.value")
    x = alt.X("expert:O", title="expert; not comparable between layers", axis=axis)
    base = marks.chart(data, x=x, y=_layer_y(labels))
    tips: list[marks.Tip] = [
        ("unit:N", "expert"),
        ("value:Q", "difference in load", "+.4f"),
        marks.Q_TIP,
    ]
    colour = alt.Color("value:Q", title="difference in load", scale=scale)
    beyond = base.transform_filter("datum.q !== null && datum.q <= 0.05")
    dots = beyond.mark_text(text="●", fontSize=9, tooltip=None).encode(color=marks.ink_colour())
    layers = [marks.cells(base, colour, tips, "layer", "expert"), dots]
    step = theme.cell_step(n_experts, 420, low=7, high=40)
    if picked is not None:
        at = {"y": [labels[picked[0]]], "expert": [picked[1]]}
        layers += marks.outlined(base, at, step)
    found = int((np.nan_to_num(q, nan=1) <= 0.05).sum())
    return marks.cell_figure(
        layers,
        (step, theme.cell_step(n_layers, 420, low=6, high=24)),
        theme.title(
            "Load of the same tokens",
            f"{runs[0]} less {runs[1]}, share of assignments; ● q ≤ 0.05: {found} of "
            f"{int(np.isfinite(q).sum())} that differ at all; 0: alike",
            width=max(step * n_experts, 420),
        ),
        theme.alt_description(
            f"Heatmap of differences in load of {difference.size} experts, from "
            f"{fixed(float(difference.min()), 3, sign=True)} to "
            f"{fixed(float(difference.max()), 3, sign=True)}; "
            f"{found} with q of at most 0.05"
        ),
    )
