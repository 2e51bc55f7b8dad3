"""Figures of one token: where it stands in the text, what it chose, what may follow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.chosen_by import nearly_one
from lens.figures import marks, theme
from lens.figures.token_grid import quoted, ranked_names, token_window, visible, window_text
from lens.figures.traces.token_maps import (
    TOKEN_VALUES,
    TokenText,
    digit_ink,
    end_of_prompt,
    expert_shades,
    experts_text,
)
from lens.recipe.steps import remembered
from lens.words import counted, fixed, percent

MOST_NAMES = 3  # experts that are written under a token
# Of more experts a cell draws the chosen and so many that are next in line.
FEW_EXPERTS, NEXT_IN_LINE = 40, 8
CELL_NAMES = {"gate": "gates", "router": "probabilities", "score": "scores"}


@dataclass(frozen=True)
class StripColours:
    """What colours a strip's tokens: a value of each.

    Attributes:
        values: of the tokens.
        what: a name in `TOKEN_VALUES`, or words.
        place: layer that they are of, for the legend.
        domain: limits of the colours; fitted where None.
    """

    values: Float[np.ndarray, " token"]
    what: str = "margin"
    place: str = ""
    domain: tuple[float, float] | None = None

    @property
    def text(self) -> TokenText:
        """Name, unit and colours of the values."""
        return TOKEN_VALUES.get(self.what, TokenText(self.what, ""))

    @property
    def name(self) -> str:
        return f"{self.text.title} in {self.place}" if self.place else self.text.title


@remembered
def token_strip(
    pieces: Sequence[str],
    colours: StripColours | None = None,
    *,
    experts: Int[np.ndarray, "token k"] | None = None,
    picked: int | None = None,
    prompt_length: int | None = None,
    width: float = 680,
) -> alt.LayerChart:
    """The text as a strip of tokens, to read and to choose one.

    Args:
        pieces: text of the tokens.
        colours: a value of each token; None takes the colour of its first expert, and without
            experts that of prompt and generated tokens.
        experts: chosen ones in a layer, the strongest first, written under each token.
        picked: the token to outline.
        prompt_length: tokens from here on were generated.
        width: of a line, in pixels.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    window = token_window(len(pieces), 1, picked=picked)
    shown, token = [visible(pieces[t]) for t in window], np.asarray(window)
    under = None if experts is None else experts_text(experts[token], MOST_NAMES)
    left, right, line = flow(shown, width, under)
    generated = token >= end_of_prompt(prompt_length, len(pieces))
    colour, inked = _strip_colour(colours, experts, token)
    data = inked | {
        "token": token,
        "piece": shown,
        "x": left,
        "x2": right,
        "middle": (left + right) / 2,
        "line": line,
        "part": np.where(generated, "generated", "prompt"),
        "under": under or [""] * len(window),
        "experts": [""] * len(window) if experts is None else experts_text(experts[token]),
    }
    high = 38 if under else 24
    base = marks.chart(
        data,
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, width], nice=False)),
        y=alt.Y("line:O", axis=None, scale=alt.Scale(paddingInner=0.12)),
    )
    boxes = base.encode(x2=alt.X2("x2:Q"))
    tips = _strip_tips(colours, under)
    filled = boxes.mark_rect(cornerRadius=3).encode(color=colour, tooltip=marks.tooltip(*tips))
    middle = base.encode(x=alt.X("middle:Q", axis=None))
    layers = [marks.read_aloud(filled, tips).add_params(marks.pick("token"))]
    layers.append(marks.inked_text(middle, "piece:N", 12, -6 if under else 0))
    if under:
        layers.append(marks.inked_text(middle, "under:N", 9.5, 9))
    if picked is not None and picked in window:
        at = picked - window.start
        box = {"x": [left[at]], "x2": [right[at]], "line": [line[at]]}
        layers += marks.outlined(boxes, box, 24)
    reading = _strip_reading(colours, under)
    at = int(generated.argmax())
    if at > 0:
        layers.append(_border(base, left[at], line[at], high))
        reading += "Orange: from here on generated. "
    reading += window_text(window, len(pieces))
    return marks.plot_figure(
        layers,
        (width, alt.Step(high)),
        theme.title("Tokens", reading, width=width),
        theme.alt_description(
            f"{counted(len(window), 'token')} in reading order: {' '.join(shown[:60])}"
        ),
        flexible=False,
        frame=False,
    )


def _border(base: alt.Chart, left: float, line: int, high: float) -> alt.Chart:
    begin = {"x": [max(left - 1.5, 1.5)], "line": [line]}
    tick: alt.Chart = base.properties(data=theme.embed(begin)).mark_tick(
        thickness=3, size=high, color=theme.ORANGE, tooltip=None
    )
    return tick


def _strip_tips(colours: StripColours | None, under: Sequence[str] | None) -> list[marks.Tip]:
    tips: list[marks.Tip] = [("piece:N", "token"), ("token:Q", "position"), ("part:N", "part")]
    if under:
        tips.append(("experts:N", "experts, in order of choice"))
    if colours is not None:
        tips.append(("value:Q", colours.name, ".4f"))
    return tips


def _strip_reading(colours: StripColours | None, under: Sequence[str] | None) -> str:
    """How to read the boxes, in a line."""
    if under is None:
        return "· stands for a blank. "
    named = "first experts" if any("+" in one for one in under) else "experts"
    below = f"below each token its {named}" + (", the first also as colour" if not colours else "")
    return f"{below}; · stands for a blank. "


def _strip_colour(
    colours: StripColours | None, experts: np.ndarray | None, token: np.ndarray
) -> tuple[alt.Color, dict[str, Any]]:
    """Colour of a strip's boxes, and the columns that it and the text on it take it from."""
    if colours is not None:
        own = np.asarray(colours.values, dtype=float)[token]
        domain = colours.domain or theme.fitted_domain(np.asarray(colours.values, dtype=float))
        scale = theme.sequential(domain, scheme=colours.text.scheme, reverse=colours.text.reverse)
        # Beside the text it would make the figure as high as itself, and be cut off.
        key = alt.Legend(
            orient="bottom",
            titleOrient="left",
            titleLimit=320,
            gradientLength=140,
            gradientThickness=8,
        )
        ink = theme.ink(own, scale)
        colour = alt.Color("value:Q", title=colours.name, scale=scale, legend=key)
        return colour, {"value": own, "ink": ink}
    if experts is not None:
        first = experts[token, 0]
        columns = {"shade": expert_shades(first), "ink": digit_ink(first)}
        return alt.Color("shade:N", scale=None, legend=None), columns
    parts = alt.Scale(domain=["prompt", "generated"], range=["#D9DEE5", "#F7D9A8"])
    legend = alt.Legend(orient="top")
    colour = alt.Color("part:N", title=None, scale=parts, legend=legend)
    return colour, {"ink": np.full(len(token), theme.ON_LIGHT)}


@remembered
def cell_probabilities(
    probs: Float[np.ndarray, " expert"],
    selected: Sequence[int] | np.ndarray,
    *,
    label: str,
    piece: str = "",
    gates: Float[np.ndarray, " choice"] | None = None,
    chosen_by: Float[np.ndarray, " expert"] | None = None,
    axis: str = "gate (probability)",
) -> alt.LayerChart:
    """The router's values of one token in one layer, over all experts; the chosen ones outlined.

    Of many experts the chosen are drawn and those next in line, in that order.

    Args:
        probs: of all experts: probabilities, which sum to 1, or scores.
        selected: experts that the token chose.
        label: of the layer.
        piece: text of the token, for the title.
        gates: of the selected, which are mixed by them; None for their probs.
        chosen_by: what the chosen are the largest of, a line across each bar; None for probs.
        axis: what probs are.
    """
    order = [int(e) for e in selected]
    shown = drawn_experts(probs if chosen_by is None else chosen_by, order)
    sums = bool(nearly_one(np.sum(probs)))
    step = theme.cell_step(len(shown), 420, high=46)
    parts = np.asarray(probs, np.float64)[order] if gates is None else np.asarray(gates)
    total = float(np.sum(parts))
    mix = " : ".join(percent(float(one) / total) for one in parts) if total > 0 else "–"
    chosen = ", ".join(f"E{e}" for e in order)
    name = CELL_NAMES.get(axis.split(" (")[0], "gates")
    notes = [f"outlined: chosen ({chosen}), mixed {mix}"]
    notes += [f"dashed: 1/{len(probs)}"] if sums else []
    notes += ["lines: what experts are chosen by"] if chosen_by is not None else []
    notes += _left_out(np.delete(probs, shown), sums)
    return marks.plot_figure(
        _cell_marks(probs, shown, order, chosen_by, axis),
        (step * len(shown), 190),
        theme.title(
            f"{label}: {name} of {quoted(piece)}" if piece else f"{label}: {name}",
            "; ".join(notes),
            width=step * len(shown),
        ),
        theme.alt_description(
            f"{name.capitalize()} of {len(probs)} experts in {label}; chosen {chosen}, mixed {mix}"
        ),
    )


def _cell_marks(
    probs: np.ndarray,
    shown: list[int],
    selected: list[int],
    chosen_by: np.ndarray | None,
    axis: str,
) -> list[alt.Chart]:
    """Bars of some experts' values, with a line for what each is chosen by."""
    names = [f"E{e}" for e in shown]
    data = {"expert": names, "value": np.asarray(probs)[shown], "chosen": np.isin(shown, selected)}
    folded = len(shown) < len(probs)  # then names and digits stand upright: bars are narrow
    x = alt.X("expert:O", title="expert", sort=names, axis=marks.axis_labels(270 if folded else 0))
    y = alt.Y("value:Q", title=axis, scale=alt.Scale(nice=False, zero=True))
    base, chosen = marks.chart(data, x=x), "datum.chosen"
    bars = base.mark_bar().encode(
        y=y,
        color=marks.highlight(chosen),
        stroke=alt.StrokeValue(None, condition={"test": chosen, "value": theme.ORANGE}),
        strokeWidth=alt.StrokeWidthValue(0, condition={"test": chosen, "value": 2.5}),
        tooltip=marks.tooltip(
            ("expert:N",), ("value:Q", axis.split(" (")[0], ".4f"), ("chosen:N", "chosen")
        ),
    )
    layers = [bars]
    if nearly_one(np.sum(probs)):
        layers.append(marks.dashed_rule({"value": [1 / len(probs)]}, y=y))
    top = float(np.max(probs))
    if chosen_by is not None:
        values = np.asarray(chosen_by, np.float64)[shown]
        there = np.isfinite(values)  # an expert outside the token's groups has none
        top = max(top, float(values[there].max(initial=0)))
        by = {"expert": np.asarray(names)[there], "value": values[there]}
        line = marks.chart(by, x=x).mark_tick(thickness=2.5, color=theme.MID_GREY)
        tip = marks.tooltip(("expert:N",), ("value:Q", "chosen by", ".4f"))
        layers.append(line.encode(y=y, tooltip=tip))
    # a row of digits, above all bars and lines
    layers.append(marks.room({"value": [(1.25 if folded else 1.18) * top]}, y=y))
    if folded or theme.cell_step(len(shown), 420, high=46) >= 24:
        turned: dict[str, Any] = {"angle": 270, "align": "right"} if folded else {}
        digits = base.mark_text(fontSize=10, tooltip=None, y=2 if folded else 8, **turned)
        layers.append(digits.encode(text=alt.Text("value:Q", format=".3f" if folded else ".2f")))
    return layers


def drawn_experts(deciding: Float[np.ndarray, " expert"], selected: Sequence[int]) -> list[int]:
    """Experts whose values are drawn: all of few; of many the chosen, then those next in line.

    Args:
        deciding: what the chosen are the largest of.
        selected: the chosen, in their order.
    """
    if len(deciding) <= FEW_EXPERTS:
        return list(range(len(deciding)))
    order = np.argsort(-np.asarray(deciding, np.float64), kind="stable").tolist()
    return [*selected, *[e for e in order if e not in selected][:NEXT_IN_LINE]]


def _left_out(values: np.ndarray, sums: bool) -> list[str]:
    if not len(values):
        return []
    together = f"{fixed(float(values.sum()), 2)} together, " if sums else ""
    return [f"{len(values)} others: {together}at most {fixed(float(values.max()), 3)}"]


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
        {
            "rank": np.arange(len(names)),
            "name": names,
            "value": probs,
            "next": hit,
            "shade": shades,
        },
        x=alt.X("value:Q", title="probability", scale=alt.Scale(zero=True)),
        y=marks.ranked_y(),
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
            (f"Next token after {quoted(after)}" if after else "Next token")
            + (f", up to {up_to}" if up_to else ""),
            "orange: the one that came next" if chosen is not None else "probabilities",
            width=300,
        ),
        theme.alt_description(
            "Most likely next tokens: "
            + ", ".join(
                f"{visible(p)} {fixed(float(v), 3)}" for p, v in zip(pieces, probs, strict=True)
            )
        ),
    )


def flow(
    shown: Sequence[str], width: float, under: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right edges and line number of boxes that wrap like text.

    Args:
        shown: text of the boxes.
        width: of a line.
        under: small text below each, which needs room too.
    """
    left, right, lines = [], [], []
    x, line = 0.0, 0
    for i, text in enumerate(shown):
        box = 10 + sum(13.0 if unicodedata.east_asian_width(c) in "WF" else 7.4 for c in text)
        if under is not None:
            box = max(box, 8 + 5.7 * len(under[i]))
        if x and x + box > width:
            x, line = 0.0, line + 1
        left.append(x)
        right.append(min(x + box, width))
        lines.append(line)
        x += box + 3
    return np.asarray(left), np.asarray(right), np.asarray(lines)
