"""Figures of one prompt's routing: what every layer chose for every token.

Tokens are drawn by position. Prompt and generated tokens are set apart by a gap. The
colour of an expert is that of its index modulo eight; its digit is always printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.figures import marks, theme
from lens.figures.token_grid import (
    TokenGrid,
    token_names,
    token_step,
    token_window,
    token_x,
    visible,
    window_text,
)
from lens.recipe.steps import remembered
from lens.words import fixed, significant

GAP = "generated:"


@dataclass(frozen=True)
class TokenText:
    """Words and colours for a value of a (token, layer) cell.

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
    "margin_score": TokenText(
        "Margin",
        "score, with the correction where there is one, of the last expert chosen minus the next; "
        "near 0: a close call",
    ),
    "margin_prob": TokenText(
        "Margin",
        "probability, within the token's groups, of the last expert chosen minus the next; near "
        "0: a close call",
    ),
    "lead": TokenText("Lead", "largest logit minus the second: it decides the mix", "viridis"),
    "entropy": TokenText("Entropy of the gates", "nats; ln E: all experts alike", "cividis"),
    "top1_prob": TokenText("Largest gate", "probability; 1 / E: all experts alike", "cividis"),
    "lead_score": TokenText(
        "Lead", "largest score, with the correction where there is one, minus the second"
    ),
    "lead_prob": TokenText("Lead", "largest probability minus the second"),
    "entropy_score": TokenText(
        "Entropy of the scores", "nats, of their shares; ln E: all experts alike", "cividis"
    ),
    "top1_gate": TokenText("Largest gate", "as applied to what the expert gives", "cividis"),
    "top1_score": TokenText("Largest score", "0 to 1; those of a token do not sum to 1", "cividis"),
    "top1": TokenText("First choice", "expert index; not comparable between layers"),
    "agreement": TokenText(
        "Agreement",
        "share of a token's experts that its counterpart in the second text has too; empty: none",
        "cividis",
    ),
}


@remembered
def token_layer_map(
    values: Float[np.ndarray, "layer token"] | Int[np.ndarray, "layer token"],
    what: str,
    pieces: Sequence[str],
    labels: Sequence[str],
    picked: tuple[int, int] | None = None,
    *,
    prompt_length: int | None = None,
    n_experts: int | None = None,
    experts: Int[np.ndarray, "layer token k"] | None = None,
) -> alt.LayerChart:
    """One value for every token in every layer; see `token_window` for long prompts.

    Args:
        values: to draw.
        what: a name in `TOKEN_VALUES`, such as "margin" or "top1" (expert indexes).
        pieces: text of the tokens.
        labels: of the layers.
        picked: the cell to outline, as (token, layer).
        prompt_length: tokens from here on were generated.
        n_experts: sets the fixed domain of entropy and largest gate.
        experts: chosen ones, the strongest first, which every cell then names when pointed at.

    Returns:
        A chart with the selection "pick" of the fields token and layer.
    """
    text, is_choice = TOKEN_VALUES[what], what == "top1"
    values = np.asarray(values, dtype=int if is_choice else float)
    n_layers, n_tokens = values.shape
    _same_length(pieces, n_tokens)
    window = token_window(n_tokens, n_layers, picked=picked[0] if picked else None)
    grid = TokenGrid(token_names(pieces), labels, window)
    digits = len(str(max(int(values.max()), 0))) if is_choice else 0
    step = token_step(len(window), {0: 9, 3: 17}.get(digits, 14))  # digits keep clear of the next
    token, layer = grid.cells
    data = grid.columns(values) | {
        "piece": np.asarray([visible(p) for p in pieces])[token],
        "part": np.where(token < end_of_prompt(prompt_length, n_tokens), "prompt", "generated"),
    }
    if is_choice:
        data |= {"shade": expert_shades(data["value"]), "ink": digit_ink(data["value"])}
    domain = _with_gap(grid.shown, window, prompt_length)
    tips: list[marks.Tip] = [
        ("x:N", "token"),
        ("y:N", "layer"),
        ("value:Q", text.title, "d" if is_choice else ".4f"),
        ("part:N", "part"),
    ]
    if experts is not None:
        data["experts"] = experts_text(experts[layer, token])
        tips.append(("experts:N", "experts, in order of choice"))
    base = marks.chart(data, x=token_x(domain, "token"), y=marks.layer_y(labels))
    layers = [marks.cells(base, _colour(values, what, n_experts), tips, "token", "layer")]
    if is_choice:
        size = min(11, step * 0.7, (1.6 if digits < 3 else 1.4) * step / digits)
        layers.append(marks.inked_text(base, "value:N", size))
    part = window_text(window, n_tokens)
    return marks.cell_figure(
        layers + grid.outline(base, picked, step),
        (step, theme.cell_step(n_layers, 420, low=14, high=24) if is_choice else grid.height),
        theme.title(
            f"{text.title} of every token in every layer",
            f"{text.unit}. {_token_chance(what, n_experts)}{part}",
            width=step * len(domain),
        ),
        theme.alt_description(
            f"Heatmap: {text.title} of {len(window)} tokens in {n_layers} layers",
            f"Values from {significant(np.nanmin(values))} to {significant(np.nanmax(values))}",
            part,
        ),
    )


@remembered
def difference_map(
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
        what: the value, a name in `TOKEN_VALUES`.
        pieces_a: tokens of the first prompt, aligned ("" where there is none).
        pieces_b: those of the second.
        labels: of the layers.
        picked: the cell to outline, as (token, layer).
        start: first token drawn.

    Returns:
        A chart with the selection "pick" of the fields token and layer.
    """
    text = TOKEN_VALUES[what]
    difference = np.asarray(difference, dtype=float)
    n_layers, n_tokens = difference.shape
    window = token_window(n_tokens, n_layers, picked=picked[0] if picked else None, start=start)
    names = [_pair_name(t, pieces_a, pieces_b) for t in range(n_tokens)]
    grid, step = TokenGrid(names, labels, window), token_step(len(window))
    reach = 1.0 if what == "top1" else theme.fitted_domain(difference, middle=0.0)[1]
    x = token_x(grid.shown, "token of the first prompt | of the second", 140)
    base = marks.chart(grid.columns(difference), x=x, y=marks.layer_y(labels))
    name = "first choice differs" if what == "top1" else f"{text.title}: first − second"
    cells = base.mark_rect(invalid=None).encode(
        color=alt.Color(
            "value:Q", title="first − second", scale=theme.diverging((-reach, reach), 0.0)
        ),
        tooltip=marks.tooltip(("x:N", "tokens"), ("y:N", "layer"), ("value:Q", name, ".4f")),
    )
    mean = float(np.nanmean(difference)) if np.isfinite(difference).any() else float("nan")
    return marks.cell_figure(
        [cells.add_params(marks.pick("token", "layer")), *grid.outline(base, picked, step)],
        (step, grid.height),
        theme.title(
            f"Two prompts: {text.title.lower()}",
            f"{name}; {text.unit}; mean {fixed(mean, 3, sign=True)}; 0: alike",
            width=step * len(window),
        ),
        theme.alt_description(
            f"Heatmap of the difference in {text.title.lower()} between two prompts",
            f"Mean {fixed(mean, 3, sign=True)}",
        ),
    )


def end_of_prompt(prompt_length: int | None, n_tokens: int) -> int:
    """The first position that was generated; the number of tokens where none was."""
    return n_tokens if prompt_length is None else prompt_length


def experts_text(experts: np.ndarray, most: int | None = None) -> list[str]:
    """Chosen experts of some tokens [T, K] as "E5 E6"; a negative one stands for none.

    Args:
        experts: their numbers.
        most: of more, one less is named, and how many are not: "E5 E6 +6".
    """
    found = []
    for row in experts.tolist():
        names = [f"E{e}" for e in row if e >= 0]
        if most is not None and len(names) > most:
            names = [*names[: most - 1], f"+{len(names) - most + 1}"]
        found.append(" ".join(names))
    return found


def digit_ink(experts: np.ndarray) -> np.ndarray:
    """Colour of an expert's digit on its own colour."""
    # Of the eight colours only the blue one is too dark for black digits.
    blue = theme.OKABE_ITO.index("#0072B2")
    is_blue = np.asarray(experts) % len(theme.OKABE_ITO) == blue
    return np.where(is_blue, theme.ON_DARK, theme.ON_LIGHT)


def expert_shades(experts: np.ndarray) -> np.ndarray:
    """Colours of experts, by their numbers modulo eight."""
    return np.asarray(np.asarray(theme.OKABE_ITO)[experts % len(theme.OKABE_ITO)])


def _colour(values: np.ndarray, what: str, n_experts: int | None) -> alt.Color:
    if what == "top1":
        return alt.Color("shade:N", scale=None, legend=None)
    text, domain = TOKEN_VALUES[what], token_domain(values, what, n_experts)
    scale = theme.sequential(domain, scheme=text.scheme, reverse=text.reverse)
    return alt.Color("value:Q", title=text.title, scale=scale)


def _same_length(pieces: Sequence[str], n_tokens: int) -> None:
    if len(pieces) != n_tokens:
        raise LensError(
            f"The trace has {len(pieces)} pieces of text for {n_tokens} tokens; expected one for "
            "each. Trace the prompt again."
        )


def _with_gap(names: list[str], window: range, prompt_length: int | None) -> list[str]:
    if prompt_length is None or not window.start < prompt_length < window.stop:
        return names
    first = prompt_length - window.start
    return [*names[:first], GAP, *names[first:]]


def token_domain(values: np.ndarray, what: str, n_experts: int | None) -> tuple[float, float]:
    """The limits of a value's colours, the same in the map and in the strip."""
    if what in ("entropy", "entropy_score") and n_experts:
        return (0.0, float(np.log(n_experts)))
    if what == "top1_prob" and n_experts:
        return (1 / n_experts, 1.0)
    if what in ("agreement", "top1_score"):
        return (0.0, 1.0)
    return (0.0, theme.fitted_domain(values)[1])


def _token_chance(what: str, n_experts: int | None) -> str:
    if not n_experts:
        return ""
    if what in ("entropy", "entropy_score"):
        return f"All alike: {fixed(np.log(n_experts), 2)}. "
    if what == "top1":
        return f"Even use: each on 1/{n_experts} of the tokens. "
    if what == "top1_prob":
        return f"Even gates: 1/{n_experts} = {significant(1 / n_experts)}. "
    return ""


def _pair_name(token: int, pieces_a: Sequence[str], pieces_b: Sequence[str]) -> str:
    a = visible(pieces_a[token]) if token < len(pieces_a) else ""
    b = visible(pieces_b[token]) if token < len(pieces_b) else ""
    return f"{token} {a}" if a == b else f"{token} {a or '–'} | {b or '–'}"
