"""The kind of text that each expert takes most, for all experts of all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import marks, theme
from lens.recipe.steps import remembered

NO_KIND = "no kind more"
WRITTEN = 26  # width of a cell, in pixels, that has room for two letters
MOST = 7  # kinds with a colour of their own
OTHERS = "another kind"
PURPLE = "#5A4A78"
DARK = (theme.OKABE_ITO[4], PURPLE)


@remembered
def label_map(
    main: Int[np.ndarray, "layer expert"],
    share: Float[np.ndarray, "layer expert"],
    kinds: Sequence[str],
    labels: Sequence[str],
    *,
    chance: str,
    picked: tuple[int, int] | None = None,
    given: Mapping[tuple[int, int], str] | None = None,
) -> alt.LayerChart:
    """The kind of text that stands out most among what each expert takes.

    Args:
        main: row of the kind; -1 where none stands out from chance.
        share: of that kind's tokens that the expert takes.
        kinds: names of the kinds of text.
        labels: of the layers.
        chance: what a kind had to beat, for the title.
        picked: the cell to outline, as (layer, expert).
        given: names that somebody gave to experts, for the tooltip.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = main.shape
    layer, expert = marks.grid(main.shape)
    kind = main[layer, expert]
    scale, shown, ink = _colours(kind, kinds)
    names = np.asarray(labels)
    rows = [f"E{e}" for e in range(n_experts)]
    step_x = theme.cell_step(n_layers, 680, high=40)
    step_y = theme.cell_step(n_experts, 320, high=26)
    data = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert, given),
        "x": names[layer],
        "y": np.asarray(rows)[expert],
        "kind": shown,
        "own": [NO_KIND if i < 0 else kinds[i] for i in kind.tolist()],
        "share": np.where(kind < 0, np.nan, share[layer, expert]),
        "short": ["" if i < 0 else kinds[i][:2] for i in kind.tolist()],
        "ink": ink,
    }
    y = alt.Y("y:O", title="expert (index in its layer)", sort=rows, axis=marks.axis_labels())
    base = marks.chart(data, x=marks.layer_x(labels), y=y)
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=scale,
        legend=alt.Legend(orient="bottom", columns=4, symbolType="square"),
    )
    tips: list[marks.Tip] = [
        ("name:N", "expert"),
        ("own:N", "takes"),
        ("share:Q", "of its tokens", ".0%"),
    ]
    layers = [marks.cells(base, colour, tips, "layer", "expert")]
    if step_x >= WRITTEN and step_y >= 14:
        layers.append(marks.inked_text(base, "short:N"))
    if picked is not None:
        ring = {"x": [labels[picked[0]]], "y": [rows[picked[1]]]}
        layers += marks.outlined(base, ring, step_x)
    return marks.cell_figure(
        layers,
        (step_x, step_y),
        theme.title(
            "What each expert takes",
            f"the kind of text whose tokens it takes most above the others ({chance}; q ≤ 0.05 "
            f"over all); {theme.PER_INDEX}",
            width=step_x * n_layers,
        ),
        _description(main, kinds),
    )


def _description(main: Int[np.ndarray, "layer expert"], kinds: Sequence[str]) -> str:
    """Which kinds how many experts take."""
    counts = np.bincount(main[main >= 0], minlength=len(kinds))
    named = ", ".join(f"{kinds[i]} {counts[i]}" for i in np.argsort(-counts)[:MOST])
    return theme.alt_description(
        f"Map of {main.shape[1]} experts in each of {len(main)} layers, coloured by kind of text",
        f"{counts.sum()} of {main.size} take a kind more than the others: {named}",
    )


def _colours(
    kind: Int[np.ndarray, " cell"], kinds: Sequence[str]
) -> tuple[alt.Scale, list[str], list[str]]:
    """Colours of the kinds, and of each cell its name in the legend and the colour of its text.

    The kinds that stand for most experts have colours of their own.
    """
    counts = np.bincount(kind[kind >= 0], minlength=len(kinds))
    own = sorted(int(i) for i in np.argsort(-counts, kind="stable")[:MOST])
    others = [OTHERS] if len(kinds) > MOST else []
    domain = [*(kinds[i] for i in own), *others, NO_KIND]
    colours = [*theme.OKABE_ITO[: len(own)], *[PURPLE] * len(others), theme.BAND_GREY]
    dark = {name for name, ground in zip(domain, colours, strict=True) if ground in DARK}
    shown = [NO_KIND if i < 0 else kinds[i] if i in own else OTHERS for i in kind.tolist()]
    ink = [theme.ON_DARK if name in dark else theme.ON_LIGHT for name in shown]
    return alt.Scale(domain=domain, range=colours), shown, ink
