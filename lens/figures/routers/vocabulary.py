"""Figures of vocabulary readouts: tokens of one expert, experts of one token, all of them.

Beside an expert stand mixtures of its layer's experts and, the absolute zero, random directions,
as long as its column and read through the same vocabulary. A selection is one on the direct
path: by the embedding alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.figures import marks, theme
from lens.figures.routers.expert_grid import GridText, MeasureText, expert_grid
from lens.figures.token_grid import quoted, visible
from lens.recipe.steps import remembered
from lens.vocabulary.readout_null import band as chance_band
from lens.words import significant

if TYPE_CHECKING:
    from lens.vocabulary.one_token import TokenReading
    from lens.vocabulary.readout import Readout

DIRECT = "direct path, the embedding alone"
PALE_BLUE = "#A9C9E6"
WRITTEN_EXPERTS = 16  # columns of tokens that can still be read
CELL = 150  # width of a cell of written tokens, pixels
LONGEST = 11  # characters of a piece in a cell


READINGS: Mapping[str, MeasureText] = {
    "push": MeasureText(
        "Push",
        "push",
        "logits, less the mean of the layer's experts; a random direction as long as the "
        "expert's column gives 0 ± ‖w̃‖",
    ),
    "margin": MeasureText(
        "Margin",
        "margin",
        "logits above (or below) what decides the selection; above 0: selected",
    ),
    "standing": MeasureText(
        "Push against the vocabulary",
        "standard deviations",
        "standard deviations above the mean push of all tokens; another token: 0 ± 1",
    ),
}
MEASURES: Mapping[str, MeasureText] = {
    "spread": MeasureText(
        "Spread of the push over the vocabulary",
        "spread / ‖w̃‖",
        "standard deviation over all tokens, in lengths of the expert's column",
    ),
    "top": MeasureText(
        "Largest push of a token", "push / ‖w̃‖", "logits, in lengths of the expert's column"
    ),
    "bottom": MeasureText(
        "Smallest push of a token", "push / ‖w̃‖", "logits, in lengths of the expert's column"
    ),
    "share": MeasureText(
        "Share of the vocabulary", "share", "tokens that would select the expert, each counted once"
    ),
}


@dataclass(frozen=True)
class PushBand:
    """Pushes that mixed experts of the layer give at each rank.

    Attributes:
        low: 2.5 % of them.
        high: 97.5 %.
        draws: how many mixtures.
    """

    low: Float[np.ndarray, " rank"]
    high: Float[np.ndarray, " rank"]
    draws: int


@remembered
def token_pushes(
    pieces: Sequence[str],
    tokens: Int[np.ndarray, " rank"],
    push: Float[np.ndarray, " rank"],
    margin: Float[np.ndarray, " rank"],
    band: PushBand,
    *,
    label: str,
    end: str = "top",
) -> alt.LayerChart:
    """The tokens that push one expert most (`end` "top") or least ("bottom").

    Args:
        pieces: text of each token, the most extreme first.
        tokens: their ids.
        push: of each on the expert, logits.
        margin: dark where above 0, that is selected.
        band: 95 % of mixed experts at each rank, drawn behind the bars.
        label: of the expert.
        end: which tokens they are.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    names = [f"{i + 1}.  {visible(piece)}" for i, piece in enumerate(pieces)]
    data = {
        "name": names,
        "token": tokens,
        "push": push,
        "margin": margin,
        "low": band.low,
        "high": band.high,
        "selected": np.where(np.asarray(margin) > 0, "yes", "no"),
    }
    base = marks.chart(data, y=marks.name_y(names, labelLimit=190, labelFlush=False))
    tips = marks.tooltip(
        ("name:N", "token"),
        ("token:Q", "id", "d"),
        ("push:Q", "", ".4f"),
        ("margin:Q", "", ".4f"),
        ("selected:N",),
        ("low:Q", "mixed experts, 2.5 %", ".3f"),
        ("high:Q", "mixed experts, 97.5 %", ".3f"),
    )
    bars = base.mark_bar(size=11, tooltip=None).encode(
        x=alt.X("push:Q", title="push (logits)", scale=alt.Scale(zero=True)),
        color=marks.highlight("datum.selected === 'yes'", theme.BLUE, PALE_BLUE),
    )
    chance = base.mark_bar(size=18, color=theme.BAND_GREY, opacity=0.45, tooltip=None)
    # What lies on top gets the pointer: a whole row, so that short bars are easy to hit too.
    row = base.mark_rect(color=theme.BAND_GREY, opacity=0.001).encode(tooltip=tips)
    what = "most" if end == "top" else "least"
    low, high = significant(float(band.low[0])), significant(float(band.high[0]))
    return marks.plot_figure(
        [
            bars,
            chance.encode(x=alt.X("low:Q"), x2=alt.X2("high:Q")),
            row.add_params(marks.pick("token")),
        ],
        (420, alt.Step(18)),
        theme.title(
            f"{label}: tokens that push it {what}",
            f"{DIRECT}; dark: selected",
            f"grey: 95 % of {band.draws:,} mixed experts of the layer at this rank",
            width=330,
        ),
        theme.alt_description(
            f"Bars of the {len(names)} tokens that push {label} {what}: "
            + ", ".join(
                f"{visible(p)} {significant(v)}" for p, v in zip(pieces[:10], push, strict=False)
            ),
            f"Mixed experts at rank 1: {low} to {high}",
        ),
    )


@remembered
def token_expert_map(
    reading: TokenReading,
    labels: Sequence[str],
    piece: str,
    what: str = "push",
    *,
    standing: Float[np.ndarray, "layer expert"] | None = None,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Push of one token on every expert; digits number the experts it would select.

    Args:
        reading: of the token.
        labels: of the layers.
        piece: text of the token.
        what: "push", "margin", or "standing" against the vocabulary.
        standing: the values of the latter.
        picked: the cell to outline, as (layer, expert).

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    chosen = standing if what == "standing" and standing is not None else reading.push
    values = np.asarray(reading.margin if what == "margin" else chosen)
    layers, choices = marks.grid(reading.chosen.shape)
    text, shown = READINGS[what], visible(piece)
    beyond = int(np.count_nonzero(reading.q <= 0.05))
    words = GridText(
        title=f"{text.title}: {quoted(piece)}",
        reading=f"{text.unit}; digits number its choices; {DIRECT}",
        legend=text.short,
        tooltip=text.short,
        description=f"{text.title} of the token {shown} for every expert of every layer. "
        f"{beyond} of {reading.q.size} pushes are beyond those of mixed experts at q ≤ 0.05",
    )
    return expert_grid(
        values,
        labels,
        theme.diverging(theme.fitted_domain(values, middle=0.0), 0.0),
        words,
        signs=(layers, reading.chosen.ravel(), (choices + 1).astype(str)),
        picked=picked,
    )


@remembered
def vocabulary_map(
    readout: Readout,
    labels: Sequence[str],
    measure: str = "spread",
    *,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Response of every expert to the vocabulary; dots are beyond mixed experts of the layer.

    Args:
        readout: of all experts.
        labels: of the layers.
        measure: "spread", "top", "bottom", or "share", whose dots lie outside of the band
            of mixed experts that are as long.
        picked: the cell to outline, as (layer, expert).

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    text = MEASURES[measure]
    if measure == "share":
        values, middle = np.asarray(readout.share), readout.top_k / readout.share.shape[1]
        beyond = (readout.share < readout.share_low) | (readout.share > readout.share_high)
        level = (
            f"even {significant(middle)}; dots: outside of 95 % of mixed experts that are as long, "
            "each at a level of 5 %"
        )
    else:
        own, mixed, drawn = {
            "spread": (readout.sd, readout.mixed_sd, readout.chance_sd),
            "top": (readout.top_push[..., 0], readout.mixed_top, readout.chance_top[:, 0]),
            "bottom": (
                readout.bottom_push[..., 0],
                readout.mixed_bottom,
                readout.chance_bottom[:, 0],
            ),
        }[measure]
        mixed = mixed.reshape(*mixed.shape[:2], -1)[..., 0]
        values, middle = np.asarray(own / readout.norm), float(mixed.mean())
        beyond = readout.beyond_mixed(measure)
        low, high = (significant(edge) for edge in chance_band(drawn))
        level = (
            f"mixed experts {significant(middle)} on average (unrelated directions {low} to "
            f"{high}); dots: beyond mixed experts of the layer, q ≤ 0.05"
        )
    at = np.argwhere(beyond)
    least, most = theme.fitted_domain(values, middle=middle)
    if measure in ("share", "spread"):  # which cannot be below 0
        least = max(least, 0.0)
    words = GridText(
        title=text.title,
        reading=f"{text.unit}; {level}; {DIRECT}",
        legend=text.short,
        tooltip=text.short,
        description=f"{text.title} for every expert of every layer, from "
        f"{significant(values.min())} to {significant(values.max())}. {len(at)} of "
        f"{values.size} are marked as beyond mixed experts",
    )
    return expert_grid(
        values.astype(float),
        labels,
        theme.diverging((least, most), middle),
        words,
        signs=(at[:, 0], at[:, 1], np.full(len(at), "•")),
        picked=picked,
    )


@remembered
def written_tokens(
    readout: Readout, labels: Sequence[str], pieces: Mapping[int, str], per_cell: int = 3
) -> alt.LayerChart:
    """The first tokens of every expert, written out: layers down, experts across.

    Args:
        readout: of all experts.
        labels: of the layers.
        pieces: text of the tokens that are needed, by id.
        per_cell: tokens of an expert.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.

    Raises:
        LensError: there are more experts than can be read beside each other.
    """
    n_layers, n_experts = readout.share.shape
    if n_experts > WRITTEN_EXPERTS:
        raise LensError(
            f"{n_experts} experts a layer are too many to write tokens beside each other (at most "
            f"{WRITTEN_EXPERTS}). The table of tokens has them all."
        )
    names = [f"E{e}" for e in range(n_experts)]
    beyond = readout.beyond_mixed("top")
    layer, expert = marks.grid(beyond.shape)
    data = {
        "layer": layer,
        "expert": expert,
        "name": theme.unit_names(labels, layer, expert),
        "x": np.asarray(names)[expert],
        "y": np.asarray(labels)[layer],
        "text": [
            "  |  ".join(_cut(visible(pieces[int(t)])) for t in readout.top[a, e, :per_cell])
            for a, e in zip(layer, expert, strict=True)
        ],
        "beyond": np.where(beyond.ravel(), "yes", "no"),
        "push": readout.top_push[..., 0].ravel(),
    }
    axis = alt.Axis(orient="top", labelAngle=0, grid=False)
    x = alt.X("x:O", title="expert (index in its layer)", sort=names, axis=axis)
    base = marks.chart(data, x=x, y=marks.layer_y(labels))
    cells = base.mark_rect(fillOpacity=0.22, stroke=theme.BAND_GREY, strokeOpacity=0.35).encode(
        fill=marks.highlight("datum.beyond === 'yes'", theme.BLUE, "#00000000"),
        tooltip=marks.tooltip(
            ("name:N", "expert"),
            ("text:N", "tokens"),
            ("push:Q", "largest push", ".4f"),
            ("beyond:N", "beyond mixed experts"),
        ),
    )
    words = base.mark_text(fontSize=11, limit=CELL - 8, tooltip=None)
    return marks.cell_figure(
        [cells.add_params(marks.pick("layer", "expert")), words.encode(text=alt.Text("text:N"))],
        (CELL, 20),
        theme.title(
            "What the experts listen to",
            f"the {per_cell} tokens that push each expert most ({DIRECT}); blue: the first is "
            f"beyond {readout.mixtures:,} mixed experts of its layer, q ≤ 0.05; {theme.PER_INDEX}",
            width=CELL * n_experts,
        ),
        theme.alt_description(
            f"The {per_cell} tokens that push each of {n_experts} experts in {n_layers} layers "
            f"most. {int(beyond.sum())} of {beyond.size} experts are beyond mixed experts"
        ),
    )


def _cut(piece: str) -> str:
    return piece if len(piece) <= LONGEST else piece[: LONGEST - 1] + "…"
