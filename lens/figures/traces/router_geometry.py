"""Figures of a token's choice: how far the nearest border is, what each layer expects next."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.figures.token_grid import quoted, token_names, visible
from lens.recipe.steps import remembered
from lens.words import fixed, plain, significant


@remembered
def push_ticks(
    push: Float[np.ndarray, " token"],
    random: Float[np.ndarray, " draw"],
    pieces: Sequence[str],
    *,
    token: int,
    label: str,
) -> alt.LayerChart:
    """Distance of every token of a text from other experts in one layer, and of one of them.

    Args:
        push: smallest push, as a share of the length of what the router reads.
        random: pushes that directions between mixed experts need from the chosen token.
        pieces: text of the tokens.
        token: the chosen one.
        label: of the layer.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    share = 100 * np.asarray(push, dtype=float)
    own = float(share[token])
    # Half of the directions are beyond the median; of many not one comes to a border.
    middle = float(np.sort(random)[len(random) // 2]) * 100
    low = 100 * float(np.sort(random)[len(random) // 20])
    known = [float(share.min()), float(share.max()), low, middle]
    known = [value for value in known if np.isfinite(value) and value > 0] or [1.0]
    least = min(known) * 0.8
    x = alt.X(
        "value:Q",
        title="push that changes the experts, % of the length (log scale)",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(grid=False, format="~g", tickCount=6),
    )
    every = {
        "token": np.arange(len(share)),
        "piece": token_names(pieces),
        "value": np.maximum(share, least),
    }
    tips = marks.tooltip(("piece:N", "token"), ("value:Q", "push, %", ".3g"))
    ticks = marks.chart(every, x=x, tooltip=tips).mark_tick(
        thickness=1.6, size=26, opacity=0.75, color=theme.BAND_GREY
    )
    marked = marks.chart({"value": [max(own, least)]}, x=x)
    layers = [
        marks.room({"value": [least, max(known) * 1.25]}, x=x),
        ticks.add_params(marks.pick("token")),
        marked.mark_tick(thickness=4, size=38, color=theme.ORANGE, tooltip=None),
    ]
    if np.isfinite(middle):
        rule = marks.chart({"value": [middle]}, x=x)
        layers.append(rule.mark_rule(color=theme.BLUE, strokeDash=[5, 4], strokeWidth=2))
    return marks.plot_figure(
        layers,
        (420, 56),
        theme.title(
            f"How close every choice was in {label}",
            f"a tick a token; orange: token {token}, {significant(own)} %; blue: half of "
            f"{len(random):,} directions between mixed experts need over {significant(middle)} %",
            width=300,
        ),
        theme.alt_description(
            f"Ticks of {len(share)} tokens: the smallest push that changes their experts in "
            f"{label}, from {significant(share.min())} % to {significant(share.max())} %",
            f"Token {token}: {significant(own)} %; directions between mixed experts: "
            f"{significant(middle)} %",
        ),
    )


@remembered
def logit_lens_by_layer(
    pieces: Sequence[str],
    probs: Float[np.ndarray, " layer"],
    kl: Float[np.ndarray, " layer"],
    labels: Sequence[str],
    *,
    layer: int,
    usual: Float[np.ndarray, " layer"],
    after: str,
) -> alt.LayerChart:
    """Next token that the model would expect if it ended after each layer, and its distance.

    Args:
        pieces: the likeliest next token after each layer.
        probs: its probability.
        kl: KL(whole model ‖ up to the layer), nats.
        labels: of the layers.
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
        "text": [f"{visible(p)}  {plain(float(q))}" for p, q in zip(pieces, probs, strict=True)],
        "shade": np.where(rows == layer, theme.ORANGE, theme.BLUE),
    }
    y = marks.layer_y(labels)
    most = float(max(np.max(kl), np.max(usual), 1e-6))
    # Room to the right of the longest bar for the words beside it.
    scale = alt.Scale(nice=False, zero=True)
    x = alt.X("value:Q", title="KL from the whole model, nats", scale=scale)
    room = marks.room({"value": [most * 1.6]}, x=x)
    base = marks.chart(data, y=y, x=x)
    bars = base.mark_bar().encode(
        color=alt.Color("shade:N", scale=None, legend=None),
        tooltip=marks.tooltip(
            ("y:N", "layer"), ("text:N", "likeliest"), ("value:Q", "KL, nats", ".3f")
        ),
    )
    # Beyond the tick too, where that is longer.
    ends = marks.chart({**data, "value": np.maximum(kl, usual)}, y=y, x=x)
    words = ends.mark_text(align="left", dx=6, fontSize=min(11, step - 1), tooltip=None)
    typical = marks.chart({"y": list(labels), "value": np.asarray(usual, dtype=float)}, y=y, x=x)
    ticks = typical.mark_tick(
        thickness=2, size=max(step - 3, 6), color=theme.MID_GREY, tooltip=None
    )
    return marks.plot_figure(
        [bars.add_params(marks.pick("layer")), ticks, words.encode(text=alt.Text("text:N")), room],
        (420, alt.Step(step)),
        theme.title(
            f"If the model ended here: after {quoted(after)}",
            "beside the bar: the likeliest next token and its probability; grey tick: median KL "
            "of this text's tokens",
            width=300,
        ),
        theme.alt_description(
            "Likeliest next token after each layer: "
            + ", ".join(
                f"{name} {visible(piece)} (KL {fixed(float(k), 2)})"
                for name, piece, k in zip(labels, pieces, kl, strict=True)
            )
        ),
    )
