"""Figures of one token: where it stands in the text, what it chose, what may follow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.figures.traces.token_maps import end_of_prompt, token_window, visible, window_text


def token_strip(
    pieces: Sequence[str],
    values: Float[np.ndarray, " token"] | None = None,
    *,
    picked: int | None = None,
    prompt_length: int | None = None,
    what: str = "margin",
    start: int | None = None,
    width: float = 680,
) -> alt.LayerChart:
    """The text as a strip of tokens, to read and to choose one.

    Args:
        values: a value per token to colour by (say, the mean margin over layers);
            None colours prompt and generated tokens.
        start: first token drawn, where there are more than `MAX_CELLS`.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    window = token_window(len(pieces), 1, picked=picked, start=start)
    shown = [visible(pieces[t]) for t in window]
    left, right, line = flow(shown, width)
    token = np.asarray(window)
    generated = token >= end_of_prompt(prompt_length, len(pieces))
    data = {
        "token": token,
        "piece": shown,
        "x": left,
        "x2": right,
        "middle": (left + right) / 2,
        "line": line,
        "part": np.where(generated, "generated", "prompt"),
        "value": np.zeros(len(window)) if values is None else np.asarray(values)[token],
        "ink": np.full(len(window), theme.ON_LIGHT),
    }
    tooltip = [alt.Tooltip("token:Q", title="position"), alt.Tooltip("part:N", title="part")]
    if values is None:
        parts = alt.Scale(domain=["prompt", "generated"], range=["#D9DEE5", "#F7D9A8"])
        colour = alt.Color("part:N", title=None, scale=parts, legend=alt.Legend(orient="top"))
    else:
        scale = theme.sequential(theme.fitted_domain(np.asarray(values)))
        data["ink"] = theme.ink(np.asarray(data["value"], dtype=float), scale)
        # Beside the text it would make the figure as high as itself, and be cut off.
        key = alt.Legend(
            orient="bottom", titleOrient="left", gradientLength=140, gradientThickness=8
        )
        colour = alt.Color("value:Q", title=what, scale=scale, legend=key)
        tooltip.append(alt.Tooltip("value:Q", title=what, format=".4f"))
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, width], nice=False)),
        y=alt.Y("line:O", axis=None, scale=alt.Scale(paddingInner=0.12)),
    )
    pick = alt.selection_point(name="pick", fields=["token"], empty=False)
    boxes = base.encode(x2="x2:Q")
    layers = [
        boxes.mark_rect(cornerRadius=3).encode(color=colour, tooltip=tooltip).add_params(pick),
        base.mark_text(fontSize=12, tooltip=None).encode(
            x=alt.X("middle:Q", axis=None), text="piece:N", color=theme.ink_colour()
        ),
    ]
    if picked is not None and picked in window:
        at = picked - window.start
        box = {"x": [left[at]], "x2": [right[at]], "line": [line[at]]}
        layers += theme.outlined(boxes, box, 24)
    part = window_text(window, len(pieces))
    border = ""
    if generated.any() and not generated.all():
        at = int(generated.argmax())
        begin = {"x": [max(left[at] - 1.5, 1.5)], "line": [line[at]]}
        tick = base.properties(data=theme.embed(begin))
        layers.append(tick.mark_tick(thickness=3, size=24, color=theme.ORANGE, tooltip=None))
        border = "Orange: from here on generated. "
    return theme.layered(*layers).properties(
        width=width,
        height=alt.Step(24),
        view=alt.ViewBackground(stroke=None),
        autosize=theme.NATURAL,
        title=theme.title("Tokens", f"· stands for a blank. {border}{part}", width=width),
        description=theme.alt_description(
            f"{len(window)} tokens in reading order: {' '.join(shown[:60])}"
        ),
    )


def cell_probabilities(
    probs: Float[np.ndarray, " expert"],
    selected: Sequence[int] | np.ndarray,
    *,
    label: str,
    piece: str = "",
) -> alt.LayerChart:
    """The gates of one token in one layer, over all experts; the chosen ones outlined."""
    n_experts = len(probs)
    chosen = np.isin(np.arange(n_experts), selected)
    names = [f"E{e}" for e in range(n_experts)]
    data = {"expert": names, "value": probs, "chosen": chosen}
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("expert:O", title="expert", sort=names, axis=theme.axis_labels(0)),
    )
    y = alt.Y("value:Q", title="gate (probability)", scale=alt.Scale(zero=True))
    bars = base.mark_bar().encode(
        y=y,
        color=alt.condition("datum.chosen", alt.value(theme.BLUE), alt.value(theme.BAND_GREY)),
        stroke=alt.condition("datum.chosen", alt.value(theme.ORANGE), alt.value(None)),
        strokeWidth=alt.condition("datum.chosen", alt.value(2.5), alt.value(0)),
        tooltip=[
            alt.Tooltip("expert:N"),
            alt.Tooltip("value:Q", title="gate", format=".4f"),
            alt.Tooltip("chosen:N", title="chosen"),
        ],
    )
    even = alt.Chart(theme.embed({"value": [1 / n_experts]}))
    layers: list[alt.Chart] = [
        bars,
        even.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4]).encode(y=y),
    ]
    step = theme.cell_step(n_experts, 420, high=46)
    if step >= 24:
        layers.append(
            base.mark_text(dy=-7, fontSize=10, color=theme.MID_GREY, tooltip=None).encode(
                y=y, text=alt.Text("value:Q", format=".2f")
            )
        )
    order = [int(e) for e in selected]
    total = float(np.sum(np.asarray(probs)[order]))
    mix = " : ".join(f"{float(probs[e]) / total:.0%}" for e in order) if total > 0 else "–"
    chosen_names = ", ".join(f"E{e}" for e in order)
    return theme.layered(*layers).properties(
        width=step * n_experts,
        height=190,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"{label}: gates of {visible(piece)}" if piece else f"{label}: gates",
            f"outlined: chosen ({chosen_names}), mixed {mix}; dashed: 1/{n_experts}",
            width=step * n_experts,
        ),
        description=theme.alt_description(
            f"Gates of {n_experts} experts in {label}; chosen {chosen_names}, mixed {mix}"
        ),
    )


def candidate_bars(
    pieces: Sequence[str],
    probs: Float[np.ndarray, " candidate"],
    *,
    after: str = "",
    chosen: int | None = None,
    up_to: str = "",
) -> alt.LayerChart:
    """The model's most likely next tokens.

    Args:
        after: the token they follow, for the title.
        up_to: the layer after which they are read off, where that is not the last.
        chosen: which of them came next, by its place in the list.
    """
    names = [f"{i + 1}  {visible(piece)}" for i, piece in enumerate(pieces)]
    hit = np.arange(len(names)) == (-1 if chosen is None else chosen)
    shades = np.where(hit, theme.ORANGE, theme.BLUE)
    data = {"name": names, "value": probs, "next": hit, "shade": shades}
    base = alt.Chart(theme.embed(data)).encode(
        y=alt.Y(
            "name:O",
            title=None,
            sort=names,
            axis=alt.Axis(grid=False, ticks=False, labelOverlap=False),
        ),
        x=alt.X("value:Q", title="probability", scale=alt.Scale(zero=True)),
    )
    bars = base.mark_bar().encode(
        color=alt.Color("shade:N", scale=None, legend=None),
        tooltip=[alt.Tooltip("name:N", title="token"), alt.Tooltip("value:Q", format=".4f")],
    )
    numbers = base.mark_text(align="left", dx=4, fontSize=10, color=theme.MID_GREY, tooltip=None)
    follows = "orange: the one that came next" if chosen is not None else "probabilities"
    return theme.layered(bars, numbers.encode(text=alt.Text("value:Q", format=".3f"))).properties(
        width=420,
        height=alt.Step(18),
        autosize=theme.FLEXIBLE,
        title=theme.title(
            (f"Next token after {visible(after)}" if after else "Next token")
            + (f", up to {up_to}" if up_to else ""),
            follows,
            width=300,
        ),
        description=theme.alt_description(
            "Most likely next tokens: "
            + ", ".join(f"{visible(p)} {float(v):.3f}" for p, v in zip(pieces, probs, strict=True))
        ),
    )


def flow(shown: Sequence[str], width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right edges and line number of boxes that wrap like text."""
    left, right, lines = [], [], []
    x, line = 0.0, 0
    for text in shown:
        box = 10 + sum(13.0 if unicodedata.east_asian_width(c) in "WF" else 7.4 for c in text)
        if x and x + box > width:
            x, line = 0.0, line + 1
        left.append(x)
        right.append(min(x + box, width))
        lines.append(line)
        x += box + 3
    return np.asarray(left), np.asarray(right), np.asarray(lines)
