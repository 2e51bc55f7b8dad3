"""Figures of what experts listen to: tokens of one expert, experts of one token, all of them.

Chance is a random direction as long as the expert's column, read through the same
vocabulary. A selection is one on the direct path: by the embedding alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.figures import theme
from lens.figures.routers.expert_grid import DIRECT, GridText, expert_grid
from lens.figures.traces.token_maps import visible
from lens.vocabulary.readout_null import band as chance_band
from lens.words import significant

if TYPE_CHECKING:
    from lens.vocabulary.one_token import TokenReading
    from lens.vocabulary.readout import Readout

PALE_BLUE = "#A9C9E6"
WRITTEN_EXPERTS = 16  # columns of tokens that can still be read
LONGEST = 11  # characters of a piece in a cell


READINGS: Mapping[str, GridText] = {
    "push": GridText(
        "Push",
        "push",
        "logits, less the mean of the layer's experts; a random direction as long as the "
        "expert's column gives 0 ± ‖w̃‖",
    ),
    "margin": GridText(
        "Margin",
        "margin",
        "logits above (or below) what decides the selection; above 0: selected",
    ),
    "standing": GridText(
        "Push against the vocabulary",
        "standard deviations",
        "standard deviations above the mean push of all tokens; another token: 0 ± 1",
    ),
}
MEASURES: Mapping[str, GridText] = {
    "spread": GridText(
        "Spread of the push over the vocabulary",
        "spread / ‖w̃‖",
        "standard deviation over all tokens, in lengths of the expert's column",
    ),
    "top": GridText(
        "Largest push of a token", "push / ‖w̃‖", "logits, in lengths of the expert's column"
    ),
    "bottom": GridText(
        "Smallest push of a token", "push / ‖w̃‖", "logits, in lengths of the expert's column"
    ),
    "share": GridText(
        "Share of the vocabulary", "share", "tokens that would select the expert, each counted once"
    ),
}


def token_pushes(
    pieces: Sequence[str],
    tokens: Int[np.ndarray, " rank"],
    push: Float[np.ndarray, " rank"],
    margin: Float[np.ndarray, " rank"],
    band: tuple[Float[np.ndarray, " rank"], Float[np.ndarray, " rank"]],
    *,
    label: str,
    end: str = "top",
    draws: int,
) -> alt.LayerChart:
    """The tokens that push one expert most (`end` "top") or least ("bottom").

    Args:
        pieces, tokens: text and id of each, the most extreme first.
        margin: dark where above 0, that is selected.
        band: 95 % of random directions at each rank, drawn behind the bars.
        label: of the expert.
        draws: random directions that the band is of.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    low, high = band
    names = [f"{i + 1}.  {visible(piece)}" for i, piece in enumerate(pieces)]
    selected = np.asarray(margin) > 0
    data = {
        "name": names,
        "token": tokens,
        "push": push,
        "margin": margin,
        "low": low,
        "high": high,
        "selected": np.where(selected, "yes", "no"),
    }
    base = alt.Chart(theme.embed(data)).encode(
        y=alt.Y(
            "name:O",
            title=None,
            sort=names,
            axis=alt.Axis(
                grid=False, ticks=False, labelOverlap=False, labelLimit=190, labelFlush=False
            ),
        )
    )
    x = alt.X("push:Q", title="push (logits)", scale=alt.Scale(zero=True))
    tooltip = [
        alt.Tooltip("name:N", title="token"),
        alt.Tooltip("token:Q", title="id", format="d"),
        alt.Tooltip("push:Q", format=".4f"),
        alt.Tooltip("margin:Q", format=".4f"),
        alt.Tooltip("selected:N"),
        alt.Tooltip("low:Q", title="chance, 2.5 %", format=".3f"),
        alt.Tooltip("high:Q", title="chance, 97.5 %", format=".3f"),
    ]
    colour = alt.condition("datum.selected === 'yes'", alt.value(theme.BLUE), alt.value(PALE_BLUE))
    pick = alt.selection_point(name="pick", fields=["token"], empty=False)
    bars = base.mark_bar(size=11, tooltip=None).encode(x=x, color=colour)
    chance = base.mark_bar(size=18, color=theme.BAND_GREY, opacity=0.45, tooltip=None).encode(
        x=alt.X("low:Q"), x2="high:Q"
    )
    # What lies on top gets the pointer: a whole row, so that short bars are easy to hit too.
    row = base.mark_rect(color=theme.BAND_GREY, opacity=0.001).encode(tooltip=tooltip)
    what = "most" if end == "top" else "least"
    return theme.layered(bars, chance, row.add_params(pick)).properties(
        width=420,
        height=alt.Step(18),
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"{label}: tokens that push it {what}",
            f"{DIRECT}; dark: selected",
            f"grey: 95 % of {draws:,} random directions at this rank",
            width=330,
        ),
        description=theme.alt_description(
            f"Bars of the {len(names)} tokens that push {label} {what}: "
            + ", ".join(
                f"{visible(p)} {float(v):.3g}" for p, v in zip(pieces[:10], push, strict=False)
            ),
            f"Chance at rank 1: {significant(float(low[0]))} to {significant(float(high[0]))}",
        ),
    )


def token_expert_map(
    reading: TokenReading,
    labels: Sequence[str],
    piece: str,
    what: str = "push",
    *,
    standing: Float[np.ndarray, "layer expert"] | None = None,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """What every expert makes of one token; digits number the experts it would select.

    Args:
        what: "push", "margin", or "standing" against the vocabulary.
        standing: the values of the latter.
        picked: the cell to outline, as (layer, expert).

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    values = standing if what == "standing" and standing is not None else reading.push
    values = reading.margin if what == "margin" else values
    layers, choices = np.indices(reading.chosen.shape)
    marks = (layers.ravel(), reading.chosen.ravel(), (choices + 1).ravel().astype(str))
    text = READINGS[what]
    shown = visible(piece)
    beyond = int(np.count_nonzero(reading.q <= 0.05))
    return expert_grid(
        np.asarray(values),
        labels,
        text,
        title=f"{text.title}: {shown}",
        middle=0.0,
        level="digits number its choices",
        marks=marks,
        picked=picked,
        description=f"{text.title} of the token {shown} for every expert of every layer. "
        f"{beyond} of {reading.q.size} pushes are beyond a random direction's at q ≤ 0.05",
    )


def vocabulary_map(
    readout: Readout,
    labels: Sequence[str],
    measure: str = "spread",
    *,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """How much the experts listen to the vocabulary; dots are beyond chance.

    Args:
        measure: "spread", "top", "bottom", or "share", whose dots lie outside of the band
            of the layer turned at random.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    text = MEASURES[measure]
    beyond: Bool[np.ndarray, "layer expert"]
    if measure == "share":
        values, middle = readout.share, readout.top_k / readout.share.shape[1]
        beyond = (readout.share < readout.share_low) | (readout.share > readout.share_high)
        level = (
            f"even {middle:.3g}; dots: outside of 95 % of {readout.frames} random turns of the "
            "layer, each at a level of 5 %"
        )
    else:
        drawn = {
            "spread": readout.chance_sd,
            "top": readout.chance_top[:, 0],
            "bottom": readout.chance_bottom[:, 0],
        }[measure]
        own = {
            "spread": readout.sd,
            "top": readout.top_push[..., 0],
            "bottom": readout.bottom_push[..., 0],
        }[measure]
        values, middle = own / readout.norm, float(drawn.mean())
        low, high = chance_band(drawn)
        beyond = readout.beyond_chance(measure)
        level = (
            f"chance {significant(middle)} (95 % of {readout.draws:,} random directions "
            f"{significant(low)} to {significant(high)}); dots: beyond chance, q ≤ 0.05"
        )
    at = np.argwhere(beyond)
    return expert_grid(
        np.asarray(values, dtype=float),
        labels,
        text,
        title=text.title,
        middle=middle,
        level=level,
        marks=(at[:, 0], at[:, 1], np.full(len(at), "•")),
        picked=picked,
        description=f"{text.title} for every expert of every layer, from {values.min():.3g} to "
        f"{values.max():.3g}. {len(at)} of {values.size} are marked as beyond chance",
        lowest=0.0 if measure in ("share", "spread") else -np.inf,
    )


def written_tokens(
    readout: Readout, labels: Sequence[str], pieces: Mapping[int, str], per_cell: int = 3
) -> alt.LayerChart:
    """The first tokens of every expert, written out: layers down, experts across.

    Args:
        pieces: text of the tokens that are needed, by id.

    Raises:
        LensError: there are more experts than can be read beside each other.
    """
    n_layers, n_experts = readout.share.shape
    if n_experts > WRITTEN_EXPERTS:
        raise LensError(
            f"{n_experts} experts a layer are too many to write tokens beside each other (at most "
            f"{WRITTEN_EXPERTS}). The table of tokens has them all."
        )
    layer, expert = (grid.ravel() for grid in np.indices((n_layers, n_experts)))
    beyond = readout.beyond_chance("top")[layer, expert]
    texts = [
        "  |  ".join(_cut(visible(pieces[int(t)])) for t in readout.top[a, e, :per_cell])
        for a, e in zip(layer, expert, strict=True)
    ]
    names = [f"E{e}" for e in range(n_experts)]
    data = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert),
        "x": np.asarray(names)[expert],
        "y": np.asarray(labels)[layer],
        "text": texts,
        "beyond": np.where(beyond, "yes", "no"),
        "push": readout.top_push[layer, expert, 0],
    }
    step = 150
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "x:O",
            title="expert (index in its layer)",
            sort=names,
            axis=alt.Axis(orient="top", labelAngle=0, grid=False),
        ),
        y=alt.Y("y:O", title="layer", sort=list(labels), axis=theme.axis_labels()),
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    colour = alt.condition("datum.beyond === 'yes'", alt.value(theme.BLUE), alt.value("#00000000"))
    tooltip = [
        alt.Tooltip("name:N", title="expert"),
        alt.Tooltip("text:N", title="tokens"),
        alt.Tooltip("push:Q", title="largest push", format=".4f"),
        alt.Tooltip("beyond:N", title="beyond chance"),
    ]
    cells = base.mark_rect(fillOpacity=0.22, stroke=theme.BAND_GREY, strokeOpacity=0.35).encode(
        fill=colour, tooltip=tooltip
    )
    words = base.mark_text(fontSize=11, color=theme.MID_GREY, limit=step - 8, tooltip=None).encode(
        text="text:N"
    )
    return theme.layered(cells.add_params(pick), words).properties(
        width=alt.Step(step),
        height=alt.Step(20),
        autosize=theme.NATURAL,
        title=theme.title(
            "What the experts listen to",
            f"the {per_cell} tokens that push each expert most ({DIRECT}); blue: the first is "
            f"beyond {readout.draws:,} random directions, q ≤ 0.05; {theme.PER_INDEX}",
            width=step * n_experts,
        ),
        description=theme.alt_description(
            f"The {per_cell} tokens that push each of {n_experts} experts in {n_layers} layers "
            f"most. {int(beyond.sum())} of {len(beyond)} experts are beyond chance"
        ),
    )


def _cut(piece: str) -> str:
    return piece if len(piece) <= LONGEST else piece[: LONGEST - 1] + "…"
