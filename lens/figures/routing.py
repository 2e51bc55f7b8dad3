"""Figures of one prompt's routing: what every layer chose for every token.

Tokens are drawn by position. Prompt and generated tokens are set apart by a gap. The
colour of an expert is that of its index modulo eight; its digit is always printed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.figures import theme

# Cells of a token map; each may carry a digit, which is a mark too.
MAX_CELLS = theme.MAX_MARKS // 2
GAP = "generated:"


@dataclass(frozen=True)
class TokenText:
    """How a value of a (token, layer) cell is titled and coloured.

    Attributes:
      title: the quantity.
      unit: unit and reading, for the second line.
      scheme: sequential colours.
      reverse: small values are the striking ones.
    """

    title: str
    unit: str
    scheme: theme.Scheme = "viridis"
    reverse: bool = False


TOKEN_VALUES: Mapping[str, TokenText] = {
    "margin": TokenText(
        "Margin", "logit of the last expert chosen minus the next; near 0: a close call", "viridis"
    ),
    "lead": TokenText("Lead", "largest logit minus the second: it decides the mix", "viridis"),
    "entropy": TokenText("Entropy of the gates", "nats; ln E: all experts alike", "cividis"),
    "top1_prob": TokenText("Largest gate", "probability; 1 / E: all experts alike", "cividis"),
    "top1": TokenText("First choice", "expert index; not comparable between layers"),
}


def token_window(
    n_tokens: int, n_layers: int, *, picked: int | None = None, start: int | None = None
) -> range:
    """The tokens that a map of all layers draws: all of them, or as many as stay quick.

    Args:
      picked: a token that the window has to hold.
      start: first token, when the caller pages by hand.
    """
    width = min(n_tokens, max(1, MAX_CELLS // max(n_layers, 1)))
    first = 0
    if start is not None:
        first = start
    elif picked is not None and picked >= width:
        first = picked - width // 2
    first = int(np.clip(first, 0, n_tokens - width))
    return range(first, first + width)


def visible(piece: str) -> str:
    """A token's piece with blanks and control characters made visible."""
    swaps = {"▁": "·", " ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    shown = "".join(swaps.get(c, c) for c in piece)
    shown = "".join("�" if unicodedata.category(c) in ("Cc", "Cs", "Co") else c for c in shown)
    return shown if len(shown) <= 24 else shown[:23] + "…"


def token_layer_map(
    values: Float[np.ndarray, "layer token"] | Int[np.ndarray, "layer token"],
    what: str,
    pieces: Sequence[str],
    labels: Sequence[str],
    picked: tuple[int, int] | None = None,
    *,
    prompt_length: int | None = None,
    n_experts: int | None = None,
    start: int | None = None,
) -> alt.LayerChart:
    """One value for every token in every layer; see `token_window` for long prompts.

    Args:
      what: "margin", "lead", "entropy", "top1_prob" or "top1" (expert indexes).
      picked: the cell to outline, as (token, layer).
      prompt_length: tokens from here on were generated.
      n_experts: sets the fixed domain of entropy and largest gate.
      start: first token drawn.

    Returns:
      A chart with the selection "pick" of the fields token and layer.
    """
    text = TOKEN_VALUES[what]
    values = np.asarray(values, dtype=int if what == "top1" else float)
    n_layers, n_tokens = values.shape
    _same_length(pieces, n_tokens)
    window = token_window(n_tokens, n_layers, picked=picked[0] if picked else None, start=start)
    names = _token_names(pieces)
    domain = _with_gap([names[t] for t in window], window, prompt_length)
    layer, place = (grid.ravel() for grid in np.indices((n_layers, len(window))))
    token = place + window.start
    cells = values[layer, token]
    step = theme.cell_step(len(window), 680, low=14 if what == "top1" else 9, high=30)
    data = {
        "token": token,
        "layer": layer,
        "x": np.asarray(names)[token],
        "y": np.asarray(labels)[layer],
        "piece": np.asarray([visible(p) for p in pieces])[token],
        "part": np.where(token < _end(prompt_length, n_tokens), "prompt", "generated"),
        "value": cells,
    }
    is_choice = what == "top1"
    if is_choice:
        data |= {"shade": _shades(cells), "ink": _digit_ink(cells)}
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:O", title="token", scale=alt.Scale(domain=domain), axis=_token_axis()),
        y=alt.Y("y:O", title="layer", sort=list(labels), axis=theme.axis_labels()),
    )
    tooltip = [
        alt.Tooltip("x:N", title="token"),
        alt.Tooltip("y:N", title="layer"),
        alt.Tooltip("value:Q", title=text.title, format="d" if is_choice else ".4f"),
        alt.Tooltip("part:N", title="part"),
    ]
    if is_choice:
        colour = alt.Color("shade:N", scale=None, legend=None)
    else:
        ends = _token_domain(values, what, n_experts)
        scale = theme.sequential(ends, scheme=text.scheme, reverse=text.reverse)
        colour = alt.Color("value:Q", title=text.title, scale=scale)
    pick = alt.selection_point(name="pick", fields=["token", "layer"], empty=False)
    layers = [base.mark_rect().encode(color=colour, tooltip=tooltip).add_params(pick)]
    if is_choice:
        digits = base.mark_text(fontSize=min(11, step * 0.7), tooltip=None)
        layers.append(digits.encode(text="value:N", color=theme.ink_colour()))
    if picked is not None and picked[0] in window:
        layers += theme.outlined(base, {"x": [names[picked[0]]], "y": [labels[picked[1]]]}, step)
    part = _window_text(window, n_tokens)
    chance = _token_chance(what, n_experts)
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(theme.cell_step(n_layers, 420, low=14 if is_choice else 6, high=24)),
        autosize=theme.NATURAL,
        title=theme.title(
            f"{text.title} of every token in every layer",
            f"{text.unit}. {chance}{part}",
            width=step * len(domain),
        ),
        description=theme.alt_description(
            f"Heatmap: {text.title} of {len(window)} tokens in {n_layers} layers",
            f"Values from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}",
            part,
        ),
    )


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
    left, right, line = _flow(shown, width)
    token = np.asarray(window)
    generated = token >= _end(prompt_length, len(pieces))
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
        colour = alt.Color("value:Q", title=what, scale=scale)
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
    part = _window_text(window, len(pieces))
    return theme.layered(*layers).properties(
        width=width,
        height=alt.Step(24),
        view=alt.ViewBackground(stroke=None),
        autosize=theme.NATURAL,
        title=theme.title("Tokens", f"· stands for a blank. {part}", width=width),
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
        width=alt.Step(step),
        height=190,
        autosize=theme.NATURAL,
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
) -> alt.LayerChart:
    """The model's most likely next tokens.

    Args:
      after: the token they follow, for the title.
      chosen: which of them came next, by its place in the list.
    """
    names = [f"{i + 1}  {visible(piece)}" for i, piece in enumerate(pieces)]
    hit = np.arange(len(names)) == (-1 if chosen is None else chosen)
    data = {"name": names, "value": probs, "next": hit}
    base = alt.Chart(theme.embed(data)).encode(
        y=alt.Y("name:O", title=None, sort=names, axis=alt.Axis(grid=False, ticks=False)),
        x=alt.X("value:Q", title="probability", scale=alt.Scale(zero=True)),
    )
    bars = base.mark_bar().encode(
        color=alt.condition("datum.next", alt.value(theme.ORANGE), alt.value(theme.BLUE)),
        tooltip=[alt.Tooltip("name:N", title="token"), alt.Tooltip("value:Q", format=".4f")],
    )
    numbers = base.mark_text(align="left", dx=4, fontSize=10, color=theme.MID_GREY, tooltip=None)
    follows = "orange: the one that came next" if chosen is not None else "probabilities"
    return theme.layered(bars, numbers.encode(text=alt.Text("value:Q", format=".3f"))).properties(
        width=420,
        height=alt.Step(18),
        autosize=theme.FLEXIBLE,
        title=theme.title(
            f"Next token after {visible(after)}" if after else "Next token", follows, width=300
        ),
        description=theme.alt_description(
            "Most likely next tokens: "
            + ", ".join(f"{visible(p)} {float(v):.3f}" for p, v in zip(pieces, probs, strict=True))
        ),
    )


def _same_length(pieces: Sequence[str], n_tokens: int) -> None:
    if len(pieces) != n_tokens:
        raise LensError(
            f"The trace has {len(pieces)} pieces of text for {n_tokens} tokens; expected one for "
            "each. Trace the prompt again."
        )


def _token_names(pieces: Sequence[str]) -> list[str]:
    return [f"{t} {visible(piece)}" for t, piece in enumerate(pieces)]


def _end(prompt_length: int | None, n_tokens: int) -> int:
    return n_tokens if prompt_length is None else prompt_length


def _with_gap(names: list[str], window: range, prompt_length: int | None) -> list[str]:
    if prompt_length is None or not window.start < prompt_length < window.stop:
        return names
    place = prompt_length - window.start
    return [*names[:place], GAP, *names[place:]]


def _token_axis() -> alt.Axis:
    return theme.axis_labels(-90, labelLimit=110)


def _token_domain(values: np.ndarray, what: str, n_experts: int | None) -> tuple[float, float]:
    if what == "entropy" and n_experts:
        return (0.0, float(np.log(n_experts)))
    if what == "top1_prob" and n_experts:
        return (1 / n_experts, 1.0)
    return (0.0, theme.fitted_domain(values)[1])


def _token_chance(what: str, n_experts: int | None) -> str:
    if not n_experts:
        return ""
    if what == "entropy":
        return f"Even gates: {np.log(n_experts):.2f}. "
    if what == "top1":
        return f"Even use: each on 1/{n_experts} of the tokens. "
    if what == "top1_prob":
        return f"Even gates: 1/{n_experts} = {1 / n_experts:.3g}. "
    return ""


def _window_text(window: range, n_tokens: int) -> str:
    if len(window) == n_tokens:
        return ""
    return f"Tokens {window.start} to {window.stop - 1} of {n_tokens}."


def _shades(experts: np.ndarray) -> np.ndarray:
    return np.asarray(theme.OKABE_ITO)[np.asarray(experts) % len(theme.OKABE_ITO)]


def _digit_ink(experts: np.ndarray) -> np.ndarray:
    # Of the eight colours only the blue one is too dark for black digits.
    blue = theme.OKABE_ITO.index("#0072B2")
    is_blue = np.asarray(experts) % len(theme.OKABE_ITO) == blue
    return np.where(is_blue, theme.ON_DARK, theme.ON_LIGHT)


def _flow(shown: Sequence[str], width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
