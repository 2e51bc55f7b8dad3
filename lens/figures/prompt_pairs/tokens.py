"""Figures of two runs side by side: how far what they expect next has changed."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import theme
from lens.figures.traces.token_maps import token_window, visible, window_text
from lens.words import fixed, p_value_text

WIDTH = 680


def change_along(
    pairs: Sequence[int] | np.ndarray,
    low: Float[np.ndarray, " pair"],
    high: Float[np.ndarray, " pair"],
    names: Sequence[str],
    *,
    chance: tuple[float, float, float] | None = None,
    picked: int | None = None,
) -> alt.LayerChart:
    """Bounds of the total variation of the next-token distribution after each compared token.

    Args:
        pairs: the compared pairs.
        low, high: bounds of each.
        names: of all pairs, see `pair_names`.
        chance: mean of `low` over unrelated places, and the band of that mean.
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
    y_scale = alt.Scale(domain=[0, 1])
    step = theme.cell_step(len(window), WIDTH, low=9, high=30)
    x = alt.X(
        "x:O",
        title="after token",
        scale=alt.Scale(domain=order),
        axis=theme.axis_labels(-90, labelLimit=140),
    )
    base = alt.Chart(theme.embed(data)).encode(x=x, color=alt.Color("shade:N", scale=None))
    pick = alt.selection_point(name="pick", fields=["pair"], empty=False)
    y = alt.Y("low:Q", title="total variation", scale=y_scale)
    layers = [
        base.mark_bar()
        .encode(
            y=y,
            tooltip=[
                alt.Tooltip("x:N", title="after token"),
                alt.Tooltip("low:Q", title="at least", format=".3f"),
                alt.Tooltip("high:Q", title="at most", format=".3f"),
            ],
        )
        .add_params(pick),
        base.mark_rule(size=1.5, tooltip=None).encode(y=y, y2="high:Q"),
    ]
    words = "bars: at least; lines: up to what the listed candidates leave possible"
    if chance is not None:
        mean, least, most = chance
        band = alt.Chart(theme.embed({"low": [least], "high": [most], "mean": [mean]}))
        layers = [
            band.mark_rect(color=theme.BAND_GREY, opacity=0.3, tooltip=None).encode(
                y=y, y2="high:Q"
            ),
            *layers,
            band.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4], tooltip=None).encode(
                y=alt.Y("mean:Q", scale=y_scale)
            ),
        ]
        words += f"; dashed, shaded: mean of unrelated places and its band ({mean:.2f})"
    part = window_text(window, len(pairs))
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=170,
        autosize=theme.NATURAL,
        title=theme.title(
            "Change of the next-token distribution",
            f"total variation, 0 the same to 1 nothing in common; {words}. {part}",
            width=max(step * len(window), 420),
        ),
        description=theme.alt_description(
            f"Total variation after {len(window)} tokens, at least {float(low.mean()):.3f} on "
            f"average, at most {float(high.mean()):.3f}",
            part,
        ),
    )


def next_tokens_beside(
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
        before, after: probabilities in the two runs; not a number where not listed.
        most_before, most_after: the largest that an unlisted token can have.
        runs: what the two are called.
        after_token: the token before, for the title.
    """
    n = len(pieces)
    names = [f"{i + 1}  {visible(piece)}" for i, piece in enumerate(pieces)]
    values = np.concatenate([before, after])
    listed = np.isfinite(values)
    data = {
        "name": names * 2,
        "run": np.repeat(list(runs), n),
        "value": np.where(listed, values, np.repeat([most_before, most_after], n)),
        "listed": np.where(listed, "exactly", "at most"),
    }
    colours = alt.Scale(domain=list(runs), range=[theme.BLUE, theme.ORANGE])
    base = alt.Chart(theme.embed(data)).encode(
        y=alt.Y(
            "name:O",
            title=None,
            sort=names,
            axis=alt.Axis(grid=False, ticks=False, labelOverlap=False),
        ),
        yOffset=alt.YOffset("run:N", sort=list(runs)),
        x=alt.X("value:Q", title="probability", scale=alt.Scale(zero=True)),
        tooltip=[
            alt.Tooltip("name:N", title="next token"),
            alt.Tooltip("run:N", title="run"),
            alt.Tooltip("listed:N", title="known"),
            alt.Tooltip("value:Q", title="probability", format=".4f"),
        ],
    )
    legend = alt.Legend(orient="top", title=None)
    known, unknown = "datum.listed === 'exactly'", "datum.listed !== 'exactly'"
    layers = [
        base.transform_filter(known)
        .mark_bar()
        .encode(color=alt.Color("run:N", scale=colours, legend=legend)),
        base.transform_filter(unknown)
        .mark_bar(filled=False, strokeWidth=1.2, strokeDash=[3, 2])
        .encode(stroke=alt.Stroke("run:N", scale=colours, legend=None)),
    ]
    return theme.layered(*layers).properties(
        width=420,
        height=alt.Step(11),
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"Next token after {visible(after_token)}" if after_token else "Next token",
            "probabilities; dashed: not among the listed, so at most this",
            width=400,
        ),
        description=theme.alt_description(
            "Next tokens in both runs: "
            + ", ".join(
                f"{visible(piece)} {a:.3f} and {b:.3f}"
                for piece, a, b in zip(pieces, before, after, strict=True)
            )
        ),
    )


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
        correlation, low, high, p: Spearman's with its null.
    """
    shown = np.arange(len(distance))
    if len(shown) > theme.MAX_MARKS // 2:
        shown = np.linspace(0, len(distance) - 1, theme.MAX_MARKS // 2).astype(int)
    order = np.argsort(distance, kind="stable")
    parts = np.array_split(order, max(1, min(12, len(order) // 6)))
    means = {
        "distance": [float(np.median(distance[part])) for part in parts],
        "kept": [float(kept[part].mean()) for part in parts],
    }
    x = alt.X(
        "distance:Q",
        title="same tokens since the last change",
        scale=alt.Scale(nice=False),
        axis=alt.Axis(format="d", tickMinStep=1),
    )
    y = alt.Y("kept:Q", title="experts in common", axis=alt.Axis(format="%"))
    data = {
        "distance": distance[shown],
        "kept": kept[shown],
        "token": np.asarray(names, dtype=str)[shown],
    }
    points = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    line = alt.Chart(theme.embed(means)).encode(x=x, y=y)
    level = alt.Chart(theme.embed({"kept": [chance]})).encode(y=y)
    return theme.layered(
        level.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4], tooltip=None),
        points.mark_circle(size=34, color=theme.BLUE, opacity=0.6).encode(
            tooltip=[
                alt.Tooltip("token:N"),
                alt.Tooltip("distance:Q", title="same tokens since the last change"),
                alt.Tooltip("kept:Q", title="experts in common", format=".1%"),
            ]
        ),
        line.mark_line(color=theme.ORANGE, strokeWidth=2, tooltip=None),
    ).properties(
        width=WIDTH,
        height=200,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Does the difference fade?",
            f"points: tokens, mean over layers; orange: means of as many tokens each; dashed: "
            f"unrelated tokens; rank correlation {fixed(correlation, 2, sign=True)}, by chance "
            f"{fixed(low, 2, sign=True)} to {fixed(high, 2, sign=True)}, p {p_value_text(p)}",
            width=0.9 * WIDTH,
        ),
        description=theme.alt_description(
            f"Experts in common of {len(distance)} tokens against their distance from the last "
            f"change; rank correlation {fixed(correlation, 2, sign=True)}, p {p_value_text(p)}"
        ),
    )
