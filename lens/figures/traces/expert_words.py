"""Figures of the words of experts: the token ids that each takes more often than chance."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import marks, theme
from lens.figures.token_grid import visible
from lens.recipe.steps import remembered
from lens.words import counted, fixed

LONGEST = 9
LEVEL = 0.05


@remembered
def word_map(
    found: Int[np.ndarray, "layer expert"],
    best: Sequence[Sequence[str]],
    labels: Sequence[str],
    *,
    n_words: int,
    chance: str,
    picked: tuple[int, int] | None = None,
    width: float = 560,
) -> alt.LayerChart:
    """Number of words that each expert takes more often than chance, and its surest one.

    Args:
        found: words at q ≤ 0.05.
        best: the surest word of each expert by layer; empty where none is found.
        labels: of the layers.
        n_words: words that were tested.
        chance: what chance means, for the title.
        picked: (layer, expert) to outline.
        width: that the cells fill, about, in pixels.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = found.shape
    layer, expert = marks.grid(found.shape)
    names = [f"E{e}" for e in range(n_experts)]
    step = theme.cell_step(n_experts, width, low=6, high=74)
    scale = theme.sequential((0.0, float(max(found.max(), 1))))
    words = [visible(word) if word else "" for row in best for word in row]
    room = max(1, min(LONGEST, int((step - 6) // 7)))
    data = {
        "layer": layer,
        "expert": expert,
        "a": np.asarray(list(labels))[layer],
        "b": np.asarray(names)[expert],
        "value": found.ravel(),
        "word": words,
        "short": [word if len(word) <= room else word[: room - 1] + "…" for word in words],
        "ink": theme.ink(found.ravel(), scale),
    }
    rows = alt.Scale(domain=list(labels))
    down = alt.Y("a:O", title="layer", scale=rows, axis=marks.axis_labels())
    base = marks.chart(data, x=marks.expert_x(names), y=down)
    tips: list[marks.Tip] = [
        ("a:N", "layer"),
        ("b:N", "expert"),
        ("value:Q", "words at q ≤ 0.05"),
        ("word:N", "surest word"),
    ]
    colour = alt.Color("value:Q", title="words", scale=scale)
    layers = [marks.cells(base, colour, tips, "layer", "expert")]
    if step >= 34:
        layers.append(marks.inked_text(base, "short:N"))
    if picked is not None:
        ring = {"a": [labels[picked[0]]], "b": [names[picked[1]]]}
        layers += marks.outlined(base, ring, step)
    return marks.cell_figure(
        layers,
        (step, 26),
        theme.title(
            "Words of the experts",
            f"token ids, of {n_words:,} tested, that an expert takes more often than by chance "
            f"({chance}; q ≤ 0.05 over all experts); printed: the surest. Numbers of experts "
            "carry no meaning across layers",
            width=step * n_experts,
        ),
        theme.alt_description(
            f"Heatmap of {n_layers} layers by {n_experts} experts",
            f"{counted(int(found.sum()), 'pair')} of expert and word at q ≤ 0.05, of "
            f"{n_words * found.size:,}",
        ),
    )


@remembered
def word_bars(
    pieces: Sequence[str],
    share: Float[np.ndarray, " word"],
    expected: Float[np.ndarray, " word"],
    occurrences: Int[np.ndarray, " word"],
    q: Float[np.ndarray, " word"],
    *,
    label: str,
) -> alt.LayerChart:
    """Share of some words' occurrences that an expert takes, beside that by chance.

    Args:
        pieces: text of the words.
        share: of a word's occurrences that chose the expert.
        expected: the same by chance.
        occurrences: of each word.
        q: of each word.
        label: of the expert, "L3·E1".
    """
    names = _quoted(pieces)
    sure = np.asarray(q) <= LEVEL
    data = {
        "name": names,
        "value": share,
        "chance": expected,
        "n": occurrences,
        "q": q,
        "sure": sure,
    }
    tips = marks.tooltip(
        ("name:N", "word"),
        ("value:Q", "share", ".3f"),
        ("chance:Q", "by chance", ".3f"),
        ("n:Q", "occurrences"),
        marks.Q_TIP,
    )
    base = marks.chart(data, y=marks.name_y(names), tooltip=tips)
    x = alt.X(
        "value:Q",
        title="share of the word's occurrences",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(format="%"),
    )
    ticks = base.mark_tick(color=theme.ORANGE, thickness=3, size=16)
    return marks.plot_figure(
        [
            base.mark_bar().encode(x=x, color=marks.highlight("datum.sure")),
            ticks.encode(x=alt.X("chance:Q")),
        ],
        (300, alt.Step(20)),
        theme.title(
            f"Words of {label}",
            "share of each word's occurrences that chose it; orange: by chance; blue: q ≤ 0.05",
            width=340,
        ),
        theme.alt_description(
            f"Share of the occurrences of {len(names)} words that chose {label}, from "
            f"{fixed(float(np.min(share)), 2)} to {fixed(float(np.max(share)), 2)}; "
            f"{int(sure.sum())} at "
            "q ≤ 0.05"
        ),
        flexible=False,
    )


def _quoted(pieces: Sequence[str]) -> list[str]:
    """Words in quotation marks, numbered where ids share a text."""
    names: list[str] = []
    for piece in pieces:
        name, again = f"“{visible(piece)}”", 2
        while name in names:
            name, again = f"“{visible(piece)}” ({again})", again + 1
        names.append(name)
    return names
