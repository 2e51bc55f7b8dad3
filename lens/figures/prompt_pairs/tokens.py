"""Figures of two runs side by side: how far what they expect next has changed."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import marks, theme
from lens.figures.token_grid import (
    WIDTH,
    quoted,
    ranked_names,
    token_step,
    token_window,
    token_x,
    visible,
    window_text,
)
from lens.recipe.steps import remembered
from lens.words import counted, fixed, p_value_text


@remembered
def change_along(
    pairs: Sequence[int] | np.ndarray,
    low: Float[np.ndarray, " pair"],
    high: Float[np.ndarray, " pair"],
    names: Sequence[str],
    *,
    chance: tuple[float, float, float] | None = None,
    picked: int | None = None,
) -> alt.LayerChart:
    """Bounds of the total variation of the next-token distribution after each token in both texts.

    Args:
        pairs: the pairs that are shown.
        low: the least that the total variation of each can be.
        high: the most.
        names: of all pairs, see `pair_names`.
        chance: mean of `low` over unrelated positions, and the band of that mean.
        picked: the pair to colour.

    Returns:
        A chart with the selection "pick" of the field pair.
    """
    pairs = np.asarray(pairs)
    at = int(np.searchsorted(pairs, picked)) if picked is not None else None
    window = token_window(len(pairs), 2, picked=at)
    shown = np.asarray(window)
    order = [names[p] for p in pairs[shown]]
    data = {
        "pair": pairs[shown],
        "x": order,
        "low": low[shown],
        "high": high[shown],
        "shade": np.where(pairs[shown] == picked, theme.ORANGE, theme.BLUE),
    }
    y = alt.Y("low:Q", title="total variation", scale=alt.Scale(domain=[0, 1]))
    base = marks.chart(
        data,
        x=token_x(order, "after token", 140),
        y=y,
        color=alt.Color("shade:N", scale=None),
    )
    tips = marks.tooltip(
        ("x:N", "after token"), ("low:Q", "at least", ".3f"), ("high:Q", "at most", ".3f")
    )
    layers = [
        base.mark_bar().encode(tooltip=tips).add_params(marks.pick("pair")),
        base.mark_rule(size=1.5, tooltip=None).encode(y2=alt.Y2("high:Q")),
    ]
    words = "bars: at least; lines: up to what the listed candidates leave possible"
    if chance is not None:
        band, mean = _chance_band(chance, y)
        layers = [band, *layers, mean]
        words += f"; dashed, shaded: mean of unrelated places and its band ({fixed(chance[0], 2)})"
    step = token_step(len(window))
    part = window_text(window, len(pairs))
    return marks.plot_figure(
        layers,
        (alt.Step(step), 170),
        theme.title(
            "Change of the next-token distribution",
            f"total variation, 0 the same to 1 nothing in common; {words}. {part}",
            width=max(step * len(window), 420),
        ),
        theme.alt_description(
            f"Total variation after {counted(len(window), 'token')}, "
            f"at least {fixed(float(low.mean()), 3)} on "
            f"average, at most {fixed(float(high.mean()), 3)}",
            part,
        ),
        flexible=False,
    )


def _chance_band(chance: tuple[float, float, float], y: alt.Y) -> tuple[alt.Chart, alt.Chart]:
    mean, least, most = chance
    data = {"low": [least], "high": [most], "mean": [mean]}
    band = marks.chart(data, y=y, y2=alt.Y2("high:Q"))
    line = alt.Y("mean:Q", scale=alt.Scale(domain=[0, 1]))
    return (
        band.mark_rect(color=theme.BAND_GREY, opacity=0.3, tooltip=None),
        marks.dashed_rule(data, silent=True, y=line),
    )


@remembered
def next_tokens_of_both(
    pieces: Sequence[str],
    before: Float[np.ndarray, " candidate"],
    after: Float[np.ndarray, " candidate"],
    *,
    most_before: float,
    most_after: float,
    runs: tuple[str, str] = ("first", "second"),
    after_token: str = "",
) -> alt.LayerChart:
    """Probabilities of the next tokens that either run expects, as pairs of bars.

    A hollow bar is the most that a token can have which the run does not list.

    Args:
        pieces: text of the tokens.
        before: probabilities in the first run; not a number where not listed.
        after: those in the second.
        most_before: the largest that a token can have which the first run does not list.
        most_after: the same for the second.
        runs: what the two are called.
        after_token: the token before, for the title.
    """
    n, names = len(pieces), ranked_names(pieces)
    values = np.concatenate([before, after])
    listed = np.isfinite(values)
    data = {
        "name": names * 2,
        "run": np.repeat(list(runs), n),
        "value": np.where(listed, values, np.repeat([most_before, most_after], n)),
        "listed": np.where(listed, "exactly", "at most"),
    }
    base = marks.chart(
        data,
        y=marks.name_y(names),
        yOffset=alt.YOffset("run:N", sort=list(runs)),
        x=alt.X("value:Q", title="probability", scale=alt.Scale(zero=True)),
        tooltip=marks.tooltip(
            ("name:N", "next token"),
            ("run:N", "run"),
            ("listed:N", "known"),
            ("value:Q", "probability", ".4f"),
        ),
    )
    colours = alt.Scale(domain=list(runs), range=[theme.BLUE, theme.ORANGE])
    legend = alt.Legend(orient="top", title=None)
    known = base.transform_filter("datum.listed === 'exactly'").mark_bar()
    unknown = base.transform_filter("datum.listed !== 'exactly'").mark_bar(
        filled=False, strokeWidth=1.2, strokeDash=[3, 2]
    )
    return marks.plot_figure(
        [
            known.encode(color=alt.Color("run:N", scale=colours, legend=legend)),
            unknown.encode(stroke=alt.Stroke("run:N", scale=colours, legend=None)),
        ],
        (420, alt.Step(11)),
        theme.title(
            f"Next token after {quoted(after_token)}" if after_token else "Next token",
            "probabilities; dashed: not among the listed, so at most this",
            width=400,
        ),
        theme.alt_description(
            "Next tokens in both runs: "
            + ", ".join(
                f"{visible(piece)} {fixed(a, 3)} and {fixed(b, 3)}"
                for piece, a, b in zip(pieces, before, after, strict=True)
            )
        ),
    )


@remembered
def kept_by_distance(
    distance: Int[np.ndarray, " pair"],
    kept: Float[np.ndarray, " pair"],
    names: Sequence[str],
    *,
    chance: float,
    correlation: float,
    low: float,
    high: float,
    p: float,
) -> alt.LayerChart:
    """Experts that the same tokens keep, by how long the texts have been alike.

    Args:
        distance: same tokens since the last change.
        kept: share of experts in common, mean over layers.
        names: of the pairs.
        chance: of unrelated tokens.
        correlation: Spearman's.
        low: 2.5 % of its null.
        high: 97.5 % of its null.
        p: of the correlation.
    """
    x = alt.X(
        "distance:Q",
        title="same tokens since the last change",
        scale=alt.Scale(nice=False),
        axis=alt.Axis(format="d", tickMinStep=1),
    )
    y = alt.Y("kept:Q", title="experts in common", axis=alt.Axis(format="%"))
    shown = np.arange(len(distance))
    if len(shown) > theme.MAX_MARKS // 2:
        shown = np.linspace(0, len(distance) - 1, theme.MAX_MARKS // 2).astype(int)
    data = {
        "distance": distance[shown],
        "kept": kept[shown],
        "token": np.asarray(names, dtype=str)[shown],
    }
    tips = marks.tooltip(
        ("token:N",),
        ("distance:Q", "same tokens since the last change"),
        ("kept:Q", "experts in common", ".1%"),
    )
    points = marks.chart(data, x=x, y=y, tooltip=tips)
    line = marks.chart(_mean_by_distance(distance, kept), x=x, y=y)
    rank = f"rank correlation {fixed(correlation, 2, sign=True)}"
    return marks.plot_figure(
        [
            marks.dashed_rule({"kept": [chance]}, silent=True, y=y),
            points.mark_circle(size=34, color=theme.BLUE, opacity=0.6),
            line.mark_line(color=theme.ORANGE, strokeWidth=2, tooltip=None),
        ],
        (WIDTH, 200),
        theme.title(
            "Does the difference fade?",
            f"points: tokens, mean over layers; orange: means of as many tokens each; dashed: "
            f"unrelated tokens; {rank}, by chance {fixed(low, 2, sign=True)} to "
            f"{fixed(high, 2, sign=True)}, p {p_value_text(p)}",
            width=0.9 * WIDTH,
        ),
        theme.alt_description(
            f"Experts in common of {len(distance)} tokens against their distance from the last "
            f"change; {rank}, p {p_value_text(p)}"
        ),
    )


def _mean_by_distance(distance: np.ndarray, kept: np.ndarray) -> theme.Columns:
    """Means over groups of as many tokens each, nearest first."""
    order = np.argsort(distance, kind="stable")
    parts = np.array_split(order, max(1, min(12, len(order) // 6)))
    return {
        "distance": [float(np.median(distance[part])) for part in parts],
        "kept": [float(kept[part].mean()) for part in parts],
    }
