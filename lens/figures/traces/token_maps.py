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
    "agreement": TokenText(
        "Agreement",
        "share of a token's experts that its counterpart in the second text has too; empty: none",
        "cividis",
    ),
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
        "part": np.where(token < end_of_prompt(prompt_length, n_tokens), "prompt", "generated"),
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
    part = window_text(window, n_tokens)
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


def compare_maps(
    difference: Float[np.ndarray, "layer token"],
    what: str,
    pieces_a: Sequence[str],
    pieces_b: Sequence[str],
    labels: Sequence[str],
    *,
    picked: tuple[int, int] | None = None,
    start: int | None = None,
) -> alt.LayerChart:
    """The first prompt's map minus the second's, token by token; grey where one has ended.

    Args:
        difference: of the aligned tokens; with what = "top1", 1 where the choice
            differs and 0 where it does not.
        pieces_a, pieces_b: the tokens of both, aligned ("" where there is none).

    Returns:
        A chart with the selection "pick" of the fields token and layer.
    """
    text = TOKEN_VALUES[what]
    difference = np.asarray(difference, dtype=float)
    n_layers, n_tokens = difference.shape
    window = token_window(n_tokens, n_layers, picked=picked[0] if picked else None, start=start)
    names = [_pair_name(t, pieces_a, pieces_b) for t in range(n_tokens)]
    layer, place = (grid.ravel() for grid in np.indices((n_layers, len(window))))
    token = place + window.start
    values = difference[layer, token]
    reach = 1.0 if what == "top1" else theme.fitted_domain(difference, middle=0.0)[1]
    data = {
        "token": token,
        "layer": layer,
        "x": np.asarray(names)[token],
        "y": np.asarray(labels)[layer],
        "value": values,
    }
    step = theme.cell_step(len(window), 680, low=9, high=30)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "x:O",
            title="token of the first prompt | of the second",
            scale=alt.Scale(domain=[names[t] for t in window]),
            axis=theme.axis_labels(-90, labelLimit=140),
        ),
        y=alt.Y("y:O", title="layer", sort=list(labels), axis=theme.axis_labels()),
    )
    name = "first choice differs" if what == "top1" else f"{text.title}: first − second"
    cells = base.mark_rect(invalid=None).encode(
        color=alt.Color(
            "value:Q", title="first − second", scale=theme.diverging((-reach, reach), 0.0)
        ),
        tooltip=[
            alt.Tooltip("x:N", title="tokens"),
            alt.Tooltip("y:N", title="layer"),
            alt.Tooltip("value:Q", title=name, format=".4f"),
        ],
    )
    pick = alt.selection_point(name="pick", fields=["token", "layer"], empty=False)
    layers = [cells.add_params(pick)]
    if picked is not None and picked[0] in window:
        layers += theme.outlined(base, {"x": [names[picked[0]]], "y": [labels[picked[1]]]}, step)
    mean = float(np.nanmean(difference)) if np.isfinite(difference).any() else float("nan")
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(theme.cell_step(n_layers, 420, low=6, high=24)),
        autosize=theme.NATURAL,
        title=theme.title(
            f"Two prompts: {text.title.lower()}",
            f"{name}; {text.unit}; mean {mean:+.3f}; 0: alike",
            width=step * len(window),
        ),
        description=theme.alt_description(
            f"Heatmap of the difference in {text.title.lower()} between two prompts",
            f"Mean {mean:+.3f}",
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


def end_of_prompt(prompt_length: int | None, n_tokens: int) -> int:
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
    if what == "agreement":
        return (0.0, 1.0)
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


def window_text(window: range, n_tokens: int) -> str:
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


def _pair_name(token: int, pieces_a: Sequence[str], pieces_b: Sequence[str]) -> str:
    a = visible(pieces_a[token]) if token < len(pieces_a) else ""
    b = visible(pieces_b[token]) if token < len(pieces_b) else ""
    return f"{token} {a}" if a == b else f"{token} {a or '–'} | {b or '–'}"
