"""Figures of the words of experts: the token ids that each takes more often than chance."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from lens.figures import theme
from lens.figures.traces.token_maps import visible

LONGEST = 9
LEVEL = 0.05


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
    """How many words each expert takes more often than chance, and its surest one.

    Args:
        found: words at q ≤ 0.05.
        best: the surest word of each expert by layer; empty where none is found.
        labels: of the layers.
        n_words: words that were tested.
        chance: what chance means, for the title.
        picked: (layer, expert) to outline.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    n_layers, n_experts = found.shape
    layer, expert = (grid.ravel() for grid in np.indices(found.shape))
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
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("b:O", title="expert", scale=alt.Scale(domain=names), axis=theme.axis_labels(0)),
        y=alt.Y(
            "a:O", title="layer", scale=alt.Scale(domain=list(labels)), axis=theme.axis_labels()
        ),
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title="words", scale=scale),
        tooltip=[
            alt.Tooltip("a:N", title="layer"),
            alt.Tooltip("b:N", title="expert"),
            alt.Tooltip("value:Q", title="words at q ≤ 0.05"),
            alt.Tooltip("word:N", title="surest word"),
        ],
    )
    layers = [cells.add_params(pick)]
    if step >= 34:
        layers.append(
            base.mark_text(fontSize=10, tooltip=None).encode(
                text="short:N", color=theme.ink_colour()
            )
        )
    if picked is not None:
        ring = {"a": [labels[picked[0]]], "b": [names[picked[1]]]}
        layers += theme.outlined(base, ring, step)
    total = int(found.sum())
    return theme.layered(*layers).properties(
        width=alt.Step(step),
        height=alt.Step(26),
        autosize=theme.NATURAL,
        title=theme.title(
            "Words of the experts",
            f"token ids, of {n_words:,} tested, that an expert takes more often than by chance "
            f"({chance}; q ≤ 0.05 over all experts); printed: the surest. Numbers of experts "
            "carry no meaning across layers",
            width=step * n_experts,
        ),
        description=theme.alt_description(
            f"Heatmap of {n_layers} layers by {n_experts} experts",
            f"{total:,} pairs of expert and word at q ≤ 0.05, of {n_words * found.size:,}",
        ),
    )


def word_bars(
    pieces: Sequence[str],
    share: Float[np.ndarray, " word"],
    expected: Float[np.ndarray, " word"],
    occurrences: Int[np.ndarray, " word"],
    q: Float[np.ndarray, " word"],
    *,
    label: str,
) -> alt.LayerChart:
    """How often an expert takes each of some words, beside how often it would by chance.

    Args:
        share: of a word's occurrences that chose the expert.
        expected: the same by chance.
        occurrences: of each word.
        q: of each word.
        label: of the expert, "L3·E1".
    """
    names: list[str] = []
    for piece in pieces:
        name, again = f"“{visible(piece)}”", 2
        while name in names:  # ids may share a text
            name, again = f"“{visible(piece)}” ({again})", again + 1
        names.append(name)
    sure = np.asarray(q) <= LEVEL
    data = {
        "name": names,
        "value": share,
        "chance": expected,
        "n": occurrences,
        "q": q,
        "sure": sure,
    }
    base = alt.Chart(theme.embed(data)).encode(
        y=alt.Y(
            "name:O",
            title=None,
            sort=names,
            axis=alt.Axis(grid=False, ticks=False, labelOverlap=False),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="word"),
            alt.Tooltip("value:Q", title="share", format=".3f"),
            alt.Tooltip("chance:Q", title="by chance", format=".3f"),
            alt.Tooltip("n:Q", title="occurrences"),
            alt.Tooltip("q:Q", title="q (Benjamini–Hochberg)", format=".2g"),
        ],
    )
    x = alt.X(
        "value:Q",
        title="share of the word's occurrences",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(format="%"),
    )
    bars = base.mark_bar().encode(
        x=x,
        color=alt.condition("datum.sure", alt.value(theme.BLUE), alt.value(theme.BAND_GREY)),
    )
    ticks = base.mark_tick(color=theme.ORANGE, thickness=3, size=16).encode(x="chance:Q")
    return theme.layered(bars, ticks).properties(
        width=300,
        height=alt.Step(20),
        autosize=theme.NATURAL,
        title=theme.title(
            f"Words of {label}",
            "share of each word's occurrences that chose it; orange: by chance; blue: q ≤ 0.05",
            width=340,
        ),
        description=theme.alt_description(
            f"Share of the occurrences of {len(names)} words that chose {label}, from "
            f"{float(np.min(share)):.2f} to {float(np.max(share)):.2f}; {int(sure.sum())} at "
            "q ≤ 0.05"
        ),
    )
