"""Figures of what stands near a token's choice: how far the border is, what each layer expects."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.figures.traces.token_maps import visible
from lens.words import significant


def push_ticks(
    push: Float[np.ndarray, " token"],
    random: Float[np.ndarray, " draw"],
    pieces: Sequence[str],
    *,
    token: int,
    label: str,
) -> alt.LayerChart:
    """How far every token of a text is from other experts in one layer, and one of them.

    Args:
        push: smallest push, as a share of the length of what the router reads.
        random: pushes that random directions need from the chosen token.
        token: the chosen one.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    share = 100 * np.asarray(push, dtype=float)
    own = float(share[token])
    # Half of the directions are beyond the median; of many not one comes to a border.
    middle = float(np.sort(random)[len(random) // 2]) * 100
    low = 100 * float(np.sort(random)[len(random) // 20])
    ends = [float(share.min()), float(share.max()), low, middle]
    ends = [end for end in ends if np.isfinite(end) and end > 0] or [1.0]
    scale = alt.Scale(type="log", domain=[min(ends) * 0.8, max(ends) * 1.25], nice=False)
    x = alt.X(
        "value:Q",
        title="push that changes the experts, % of the length (log scale)",
        scale=scale,
        axis=alt.Axis(grid=False, format="~g", tickCount=6),
    )
    others = {
        "token": np.arange(len(share)),
        "piece": [f"{t} {visible(piece)}" for t, piece in enumerate(pieces)],
        "value": np.maximum(share, min(ends) * 0.8),
    }
    pick = alt.selection_point(name="pick", fields=["token"], empty=False)
    ticks = (
        alt.Chart(theme.embed(others))
        .mark_tick(thickness=1.6, size=26, opacity=0.75, color=theme.BAND_GREY)
        .encode(
            x=x,
            tooltip=[
                alt.Tooltip("piece:N", title="token"),
                alt.Tooltip("value:Q", title="push, %", format=".3g"),
            ],
        )
        .add_params(pick)
    )
    marked = alt.Chart(theme.embed({"value": [max(own, min(ends) * 0.8)]}))
    layers = [
        ticks,
        marked.mark_tick(thickness=4, size=38, color=theme.ORANGE, tooltip=None).encode(x=x),
    ]
    if np.isfinite(middle):
        rule = alt.Chart(theme.embed({"value": [middle]}))
        layers.append(
            rule.mark_rule(color=theme.BLUE, strokeDash=[5, 4], strokeWidth=2).encode(x=x)
        )
    return theme.layered(*layers).properties(
        width=420,
        height=56,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"How close every choice was in {label}",
            f"a tick a token; orange: token {token}, {significant(own)} %; blue: half of "
            f"{len(random):,} random directions need more than {significant(middle)} %",
            width=300,
        ),
        description=theme.alt_description(
            f"Ticks of {len(share)} tokens: the smallest push that changes their experts in "
            f"{label}, from {significant(share.min())} % to {significant(share.max())} %",
            f"Token {token}: {significant(own)} %; random directions: {significant(middle)} %",
        ),
    )


def lens_course(
    pieces: Sequence[str],
    probs: Float[np.ndarray, " layer"],
    kl: Float[np.ndarray, " layer"],
    labels: Sequence[str],
    *,
    layer: int,
    usual: Float[np.ndarray, " layer"],
    after: str,
) -> alt.LayerChart:
    """What the model would expect next if it ended after each layer, and how far off that is.

    Args:
        pieces: the likeliest next token after each layer; probs: its probability.
        kl: KL(whole model ‖ up to the layer), nats.
        layer: the chosen row.
        usual: median of kl over the text's tokens.
        after: the token they follow.

    Returns:
        A chart with the selection "pick" of the field layer.
    """
    n_layers = len(kl)
    rows = np.arange(n_layers)
    step = theme.cell_step(n_layers, 330, low=11, high=20)
    data = {
        "layer": rows,
        "y": list(labels),
        "value": np.asarray(kl, dtype=float),
        "text": [f"{visible(p)}  {float(q):.2f}" for p, q in zip(pieces, probs, strict=True)],
        "shade": np.where(rows == layer, theme.ORANGE, theme.BLUE),
    }
    y = alt.Y("y:O", title="layer", sort=list(labels), axis=theme.axis_labels())
    most = float(max(np.max(kl), np.max(usual), 1e-6))
    # Room to the right of the longest bar for the words beside it.
    scale = alt.Scale(domain=[0, most * 1.6], nice=False)
    x = alt.X("value:Q", title="KL from the whole model, nats", scale=scale)
    base = alt.Chart(theme.embed(data)).encode(y=y, x=x)
    pick = alt.selection_point(name="pick", fields=["layer"], empty=False)
    bars = base.mark_bar().encode(
        color=alt.Color("shade:N", scale=None, legend=None),
        tooltip=[
            alt.Tooltip("y:N", title="layer"),
            alt.Tooltip("text:N", title="likeliest"),
            alt.Tooltip("value:Q", title="KL, nats", format=".3f"),
        ],
    )
    words = base.mark_text(
        align="left", dx=6, fontSize=min(11, step - 1), color=theme.MID_GREY, tooltip=None
    )
    typical = alt.Chart(theme.embed({"y": list(labels), "value": np.asarray(usual, dtype=float)}))
    ticks = typical.mark_tick(
        thickness=2, size=max(step - 3, 6), color=theme.MID_GREY, tooltip=None
    ).encode(y=y, x=x)
    return theme.layered(bars.add_params(pick), ticks, words.encode(text="text:N")).properties(
        width=420,
        height=alt.Step(step),
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"If the model ended here: after {visible(after)}",
            "beside the bar: the likeliest next token and its probability; grey tick: median KL "
            "of this text's tokens",
            width=300,
        ),
        description=theme.alt_description(
            "Likeliest next token after each layer: "
            + ", ".join(
                f"{name} {visible(piece)} (KL {float(k):.2f})"
                for name, piece, k in zip(labels, pieces, kl, strict=True)
            )
        ),
    )
