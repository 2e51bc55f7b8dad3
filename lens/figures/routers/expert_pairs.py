"""Figures of experts against experts: by index across layers, and within a layer."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.recipe.steps import remembered
from lens.words import fixed

MAX_PANELS = 8


@remembered
def expert_similarity_across_layers(
    similarity: Float[np.ndarray, "expert layer layer"],
    labels: Sequence[str],
    *,
    experts: Sequence[int] | None = None,
    view: str = "canonical",
) -> alt.FacetChart:
    """Cosine of the columns that bear the same index in two layers, a panel per index.

    The classic view: it compares index with index, which is not the same expert
    unless a model's training ties them. At most eight panels are drawn, the lower
    triangle of each; with many layers a cell is the mean over a block of layers.

    Args:
        similarity: of each index, layer by layer.
        labels: of the layers.
        experts: indexes to draw; None is the first eight.
        view: "canonical" or "raw", for the text.
    """
    chosen = list(range(len(similarity)) if experts is None else experts)[:MAX_PANELS]
    n_layers = len(labels)
    limit = int((1 + np.sqrt(1 + 8 * theme.MAX_MARKS / len(chosen))) / 2)
    block = -(-n_layers // limit)
    starts = np.arange(0, n_layers, block)
    names = [_block_name(labels, int(start), block) for start in starts]
    panels = np.stack([_block_means(similarity[e], block) for e in chosen])
    a, b = np.tril_indices(len(starts), -1)
    values = panels[:, a, b].ravel()
    data = {
        "panel": np.repeat([f"E{e}" for e in chosen], len(a)),
        "a": np.tile(np.asarray(names)[a], len(chosen)),
        "b": np.tile(np.asarray(names)[b], len(chosen)),
        "value": values,
    }
    scale = theme.diverging(theme.fitted_domain(values, middle=0.0), 0.0)
    step = theme.cell_step(len(starts), 200, low=2, high=28)
    left_out = len(similarity) - len(chosen)
    columns = 4 if step * len(starts) < 240 else 3
    ticks = step > 8
    base = marks.chart(
        data,
        x=alt.X("b:O", title=None, sort=names, axis=marks.axis_labels(-90, ticks=ticks)),
        y=alt.Y("a:O", title=None, sort=names, axis=marks.axis_labels(ticks=ticks)),
    )
    tips: list[marks.Tip] = [
        ("panel:N", "expert index"),
        ("a:N", "layer"),
        ("b:N", "with layer"),
        ("value:Q", "cosine", ".4f"),
    ]
    cells = marks.cells(base, alt.Color("value:Q", title="cosine", scale=scale), tips)
    sized = cells.properties(width=alt.Step(step), height=alt.Step(step))
    facet = alt.Facet("panel:N", title=None, sort=[f"E{e}" for e in chosen])
    figure: alt.FacetChart = sized.facet(facet=facet, columns=columns).properties(
        autosize=theme.NATURAL,
        title=theme.title(
            "Similarity across layers, index by index",
            f"cosine of {view} router columns; chance 0 ± 1/√d; classic view: {theme.PER_INDEX}.",
            f"Each cell is the mean over blocks of {block} layers." * (block > 1),
            f"{left_out} further indexes are not drawn." * (left_out > 0),
            width=columns * step * len(starts),
        ),
        description=theme.alt_description(
            f"{len(chosen)} heatmaps, one per expert index, of the cosine between the columns with "
            f"that index in each pair of {n_layers} layers",
            theme.PER_INDEX,
        ),
    )
    return figure


@remembered
def expert_correlation_matrix(
    matrix: Float[np.ndarray, "expert expert"],
    *,
    layer_label: str | None = None,
    measure: str = "correlation",
    chance: float | None = None,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Similarity of the experts of one layer with each other, or its mean over layers.

    Args:
        matrix: similarity of every pair.
        layer_label: the layer it belongs to; None says that it is a mean over layers.
        measure: "correlation" or "cosine", for the text.
        chance: the value of unrelated experts; None is −1 / (E − 1), that of
            canonical columns. Raw columns have 0.
        picked: the cell to outline, as (ea, eb).

    Returns:
        A chart with the selection "pick" of the fields ea and eb.
    """
    n_experts = len(matrix)
    middle = -1 / max(n_experts - 1, 1) if chance is None else chance
    block = -(-n_experts // theme.most_cells_a_side())
    shown = _block_means(matrix, block) if block > 1 else np.asarray(matrix, dtype=float)
    starts = np.arange(0, n_experts, block)
    names = theme.row_names(n_experts, block)
    a, b = marks.other_pairs(np.arange(len(shown)))
    values = shown[a, b]
    scale = theme.diverging(theme.fitted_domain(values, middle=middle), middle)
    data = {
        "ea": starts[a],
        "eb": starts[b],
        "a": np.asarray(names)[a],
        "b": np.asarray(names)[b],
        "value": values,
        "ink": theme.ink(values, scale),
    }
    base = marks.chart(data, **marks.square_axes(names, "expert", 0))
    colour = alt.Color("value:Q", title=measure, scale=scale)
    tips: list[marks.Tip] = [("a:N", "expert"), ("b:N", "with expert"), ("value:Q", measure, ".4f")]
    layers = [marks.cells(base, colour, tips, "ea", "eb")]
    step = theme.cell_step(len(names), 400)
    if picked is not None and picked[0] // block != picked[1] // block:
        ring = {"a": [names[picked[0] // block]], "b": [names[picked[1] // block]]}
        layers += marks.outlined(base, ring, step)
    layers += marks.cell_digits(base, step)
    where = f"within {layer_label}" if layer_label else "within layers, mean over layers"
    caveat = f"Classic view: a mean over layers by index, and {theme.PER_INDEX}."
    level = theme.chance_text(middle, "unrelated columns")
    return marks.cell_figure(
        layers,
        (step, step),
        theme.title(
            f"Experts against experts, {where}",
            f"{measure} of router columns; {level} (middle of the colours); the diagonal is left "
            f"out. {'' if layer_label else caveat}",
            width=step * len(names),
        ),
        theme.alt_description(
            f"Heatmap of the {measure} between {n_experts} experts {where}",
            f"Values from {fixed(np.nanmin(values), 3)} to "
            f"{fixed(np.nanmax(values), 3)}" * (len(values) > 0),
            level,
        ),
    )


def _block_name(labels: Sequence[str], start: int, block: int) -> str:
    last = min(start + block, len(labels)) - 1
    return labels[start] if last == start else f"{labels[start]}–{labels[last]}"


def _block_means(matrix: np.ndarray, block: int) -> np.ndarray:
    """Means over square blocks, the diagonal of the matrix left out of them."""
    if block == 1:
        return np.asarray(matrix, dtype=float)
    off = np.array(matrix, dtype=float)
    weight = 1 - np.eye(len(off))
    starts = np.arange(0, len(off), block)

    def summed(array: np.ndarray) -> np.ndarray:
        rows = np.add.reduceat(array, starts, axis=0)
        return np.asarray(np.add.reduceat(rows, starts, axis=1))

    return np.asarray(summed(off * weight) / np.maximum(summed(weight), 1))
