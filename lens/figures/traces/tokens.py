"""Figures of one token: where it stands in the text, what it chose, what may follow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.figures.token_grid import ranked_names, token_window, visible, window_text
from lens.figures.traces.token_maps import end_of_prompt
from lens.recipe.steps import remembered


@remembered
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
        pieces: text of the tokens.
        values: a value per token to colour by (say, the mean margin over layers);
            None colours prompt and generated tokens.
        picked: the token to outline.
        prompt_length: tokens from here on were generated.
        what: name of the values.
        start: first token drawn, where there are more than `MAX_CELLS`.
        width: of a line, in pixels.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    window = token_window(len(pieces), 1, picked=picked, start=start)
    shown = [visible(pieces[t]) for t in window]
    left, right, line = flow(shown, width)
    token = np.asarray(window)
    generated = token >= end_of_prompt(prompt_length, len(pieces))
    own = np.zeros(len(window)) if values is None else np.asarray(values, dtype=float)[token]
    colour, scale = _strip_colour(values, what)
    data = {
        "token": token,
        "piece": shown,
        "x": left,
        "x2": right,
        "middle": (left + right) / 2,
        "line": line,
        "part": np.where(generated, "generated", "prompt"),
        "value": own,
        "ink": np.full(len(window), theme.ON_LIGHT) if scale is None else theme.ink(own, scale),
    }
    tips: list[marks.Tip] = [("token:Q", "position"), ("part:N", "part")]
    if values is not None:
        tips.append(("value:Q", what, ".4f"))
    base = marks.chart(
        data,
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, width], nice=False)),
        y=alt.Y("line:O", axis=None, scale=alt.Scale(paddingInner=0.12)),
    )
    boxes = base.encode(x2=alt.X2("x2:Q"))
    filled = boxes.mark_rect(cornerRadius=3).encode(color=colour, tooltip=marks.tooltip(*tips))
    words = marks.inked_text(base, "piece:N", 12).encode(x=alt.X("middle:Q", axis=None))
    layers = [filled.add_params(marks.pick("token")), words]
    if picked is not None and picked in window:
        at = picked - window.start
        box = {"x": [left[at]], "x2": [right[at]], "line": [line[at]]}
        layers += marks.outlined(boxes, box, 24)
    border = ""
    if generated.any() and not generated.all():
        at = int(generated.argmax())
        begin = {"x": [max(left[at] - 1.5, 1.5)], "line": [line[at]]}
        tick = base.properties(data=theme.embed(begin))
        layers.append(tick.mark_tick(thickness=3, size=24, color=theme.ORANGE, tooltip=None))
        border = "Orange: from here on generated. "
    part = window_text(window, len(pieces))
    return marks.plot_figure(
        layers,
        (width, alt.Step(24)),
        theme.title("Tokens", f"· stands for a blank. {border}{part}", width=width),
        theme.alt_description(f"{len(window)} tokens in reading order: {' '.join(shown[:60])}"),
        flexible=False,
        frame=False,
    )


def _strip_colour(values: np.ndarray | None, what: str) -> tuple[alt.Color, alt.Scale | None]:
    """Colour of a strip's boxes, and its scale where they are coloured by a value."""
    if values is None:
        parts = alt.Scale(domain=["prompt", "generated"], range=["#D9DEE5", "#F7D9A8"])
        return alt.Color("part:N", title=None, scale=parts, legend=alt.Legend(orient="top")), None
    scale = theme.sequential(theme.fitted_domain(np.asarray(values)))
    # Beside the text it would make the figure as high as itself, and be cut off.
    key = alt.Legend(orient="bottom", titleOrient="left", gradientLength=140, gradientThickness=8)
    return alt.Color("value:Q", title=what, scale=scale, legend=key), scale


@remembered
def cell_probabilities(
    probs: Float[np.ndarray, " expert"],
    selected: Sequence[int] | np.ndarray,
    *,
    label: str,
    piece: str = "",
) -> alt.LayerChart:
    """The gates of one token in one layer, over all experts; the chosen ones outlined.

    Args:
        probs: gates, which sum to 1.
        selected: experts that the token chose.
        label: of the layer.
        piece: text of the token, for the title.
    """
    n_experts = len(probs)
    names = [f"E{e}" for e in range(n_experts)]
    data = {"expert": names, "value": probs, "chosen": np.isin(np.arange(n_experts), selected)}
    x = alt.X("expert:O", title="expert", sort=names, axis=marks.axis_labels(0))
    y = alt.Y("value:Q", title="gate (probability)", scale=alt.Scale(zero=True))
    base, chosen = marks.chart(data, x=x), "datum.chosen"
    bars = base.mark_bar().encode(
        y=y,
        color=marks.highlight(chosen),
        stroke=alt.StrokeValue(None, condition={"test": chosen, "value": theme.ORANGE}),
        strokeWidth=alt.StrokeWidthValue(0, condition={"test": chosen, "value": 2.5}),
        tooltip=marks.tooltip(("expert:N",), ("value:Q", "gate", ".4f"), ("chosen:N", "chosen")),
    )
    layers = [bars, marks.dashed_rule({"value": [1 / n_experts]}, y=y)]
    step = theme.cell_step(n_experts, 420, high=46)
    if step >= 24:
        digits = base.mark_text(dy=-7, fontSize=10, tooltip=None)
        layers.append(digits.encode(y=y, text=alt.Text("value:Q", format=".2f")))
    order = [int(e) for e in selected]
    total = float(np.sum(np.asarray(probs)[order]))
    mix = " : ".join(f"{float(probs[e]) / total:.0%}" for e in order) if total > 0 else "–"
    chosen_names = ", ".join(f"E{e}" for e in order)
    return marks.plot_figure(
        layers,
        (step * n_experts, 190),
        theme.title(
            f"{label}: gates of {visible(piece)}" if piece else f"{label}: gates",
            f"outlined: chosen ({chosen_names}), mixed {mix}; dashed: 1/{n_experts}",
            width=step * n_experts,
        ),
        theme.alt_description(
            f"Gates of {n_experts} experts in {label}; chosen {chosen_names}, mixed {mix}"
        ),
    )


@remembered
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
        pieces: text of the tokens, the likeliest first.
        probs: of each.
        after: the token they follow, for the title.
        chosen: which of them came next, by its index in the list.
        up_to: the layer after which they are read off, where that is not the last.
    """
    names = ranked_names(pieces)
    hit = np.arange(len(names)) == (-1 if chosen is None else chosen)
    shades = np.where(hit, theme.ORANGE, theme.BLUE)
    base = marks.chart(
        {"name": names, "value": probs, "next": hit, "shade": shades},
        x=alt.X("value:Q", title="probability", scale=alt.Scale(zero=True)),
        y=marks.name_y(names),
    )
    bars = base.mark_bar().encode(
        color=alt.Color("shade:N", scale=None, legend=None),
        tooltip=marks.tooltip(("name:N", "token"), ("value:Q", "", ".4f")),
    )
    numbers = base.mark_text(align="left", dx=4, fontSize=10, tooltip=None)
    return marks.plot_figure(
        [bars, numbers.encode(text=alt.Text("value:Q", format=".3f"))],
        (420, alt.Step(18)),
        theme.title(
            (f"Next token after {visible(after)}" if after else "Next token")
            + (f", up to {up_to}" if up_to else ""),
            "orange: the one that came next" if chosen is not None else "probabilities",
            width=300,
        ),
        theme.alt_description(
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
