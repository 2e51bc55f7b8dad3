"""Figures of sweeps: the effect of every expert, and of every value put into another run."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Bool, Float, Int

from lens.figures import marks, theme
from lens.figures.token_grid import token_axis
from lens.recipe.steps import remembered
from lens.words import fixed, significant

MANY_EXPERTS = 60
"""Experts of a layer above which their figure is as wide as a page."""


@remembered
def expert_effects(
    effect: Float[np.ndarray, "layer expert"],
    used: Bool[np.ndarray, "layer expert"],
    labels: Sequence[str],
    *,
    unit: str,
    what: str,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """The effect of an intervention on every expert; a dot marks experts that no token uses.

    Args:
        effect: of each expert of each shown layer, in `unit`.
        used: by any token of the text.
        labels: of the rows.
        unit: of the effect.
        what: what was done and measured, for the second line.
        picked: (row, expert) to outline.

    Returns:
        A chart with the selection "pick" of the fields layer (row) and expert.
    """
    n_layers, n_experts = effect.shape
    row, expert = marks.grid(effect.shape)
    scale = _effect_scale(effect)
    data = {
        "layer": row,
        "expert": expert,
        "y": np.asarray(labels)[row],
        "value": effect.ravel(),
        "unit": theme.unit_names(labels, row, expert),
        "used": used.ravel(),
        "ink": theme.ink(effect.ravel(), scale),
    }
    axis = alt.Axis(labelAngle=0, labelOverlap="parity")
    x = alt.X("expert:O", title="expert; not comparable between layers", axis=axis)
    base = marks.chart(data, x=x, y=marks.layer_y(labels))
    tips: list[marks.Tip] = [
        ("unit:N", "expert"),
        ("value:Q", f"effect ({unit})", ".4g"),
        ("used:N", "used by the text"),
    ]
    unused = base.transform_filter("!datum.used")
    many = n_experts > MANY_EXPERTS
    step = theme.cell_step(n_experts, 840 if many else 420, low=3 if many else 7, high=40)
    dots = unused.mark_text(text="·", fontSize=min(16.0, 2.3 * step), tooltip=None)
    layers = [
        marks.cells(base, alt.Color("value:Q", title=unit, scale=scale), tips, "layer", "expert"),
        dots.encode(color=marks.ink_colour()),
    ]
    if picked is not None:
        at = {"y": [labels[picked[0]]], "expert": [picked[1]]}
        layers += marks.outlined(base, at, step)
    top = np.unravel_index(np.argmax(effect), effect.shape)
    name = f"{labels[int(top[0])]}·E{int(top[1])}"
    return marks.cell_figure(
        layers,
        (step, theme.cell_step(n_layers, 460, low=7, high=30)),
        theme.title(
            "Effect of every expert",
            f"{what}; · no token of this text uses it",
            width=max(step * n_experts, 420),
        ),
        theme.alt_description(
            f"Heatmap of the effect of {effect.size} experts, largest "
            f"{significant(float(effect.max()))} "
            f"{unit} for {name}",
            f"{int((~used).sum())} are not used by the text",
        ),
    )


def _effect_scale(effect: np.ndarray) -> alt.Scale:
    """Colours from 0 up, or about 0 where some effects are clearly below it."""
    reach = float(np.abs(effect).max())
    if (effect < -0.05 * reach).any():
        return theme.diverging((-reach, reach), 0.0)
    return theme.sequential((0.0, float(effect.max()) or 1.0), bend=0.5)


@remembered
def effects_against_use(
    effect: Float[np.ndarray, "layer expert"],
    weight: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    *,
    unit: str,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Effect of every expert against its mean share of the tokens' mixes.

    Args:
        effect: of each expert, in `unit`.
        weight: its share of the mix, mean over tokens.
        labels: of the layers.
        unit: of the effect.
        picked: (row, expert) to ring.

    Returns:
        A chart with the selection "pick" of the fields layer (row) and expert.
    """
    row, expert = marks.striking_cells(effect, theme.MAX_MARKS // 2)
    data = {
        "layer": row,
        "expert": expert,
        "unit": theme.unit_names(labels, row, expert),
        "weight": weight[row, expert],
        "value": effect[row, expert],
    }
    x = alt.X("weight:Q", title="share of the mix, mean over tokens")
    y = alt.Y("value:Q", title=f"effect ({unit})")
    base = marks.chart(data, x=x, y=y)
    tips = marks.tooltip(
        ("unit:N", "expert"),
        ("weight:Q", "share of the mix", ".3f"),
        ("value:Q", f"effect ({unit})", ".4g"),
    )
    dots = base.mark_circle(size=55, color=theme.BLUE, opacity=0.75).encode(tooltip=tips)
    layers = [
        marks.dashed_rule({"weight": [1 / effect.shape[1]]}, x=x),
        dots.add_params(marks.pick("layer", "expert")),
    ]
    if picked is not None:
        layers.append(marks.ring(base, {"weight": [weight[picked]], "value": [effect[picked]]}))
    return marks.plot_figure(
        layers,
        (420, 260),
        theme.title(
            "Effect against use", "a dot is an expert of a layer; dashed: even share", width=420
        ),
        theme.alt_description(f"Scatter of {effect.size} experts: share of the mix and effect"),
    )


@remembered
def patch_map(
    share: Float[np.ndarray, "layer position"],
    positions: Int[np.ndarray, " position"],
    pieces: Sequence[str],
    labels: Sequence[str],
    *,
    title: str,
    subtitle: str,
) -> alt.LayerChart:
    """Share of the difference that comes back when one value of the clean run is put in.

    Args:
        share: 1 is all of it, 0 nothing.
        positions: of the tokens that were patched.
        pieces: the tokens of the positions, as "clean" or "clean | corrupt".
        labels: of the rows.
        title: of the figure.
        subtitle: its second line.

    Returns:
        A chart with the selection "pick" of the fields token and layer.
    """
    n_layers, n_positions = share.shape
    names = [f"{int(p)} {piece}" for p, piece in zip(positions, pieces, strict=True)]
    row, column = marks.grid(share.shape)
    data = {
        "token": np.asarray(positions)[column],
        "layer": row,
        "x": np.asarray(names)[column],
        "y": np.asarray(labels)[row],
        "value": share.ravel(),
    }
    x = alt.X("x:O", title="token", sort=names, axis=token_axis(120))
    base = marks.chart(data, x=x, y=marks.layer_y(labels))
    cells = base.mark_rect(invalid=None).encode(
        color=alt.Color("value:Q", title="recovered", scale=theme.diverging((-1.0, 1.0), 0.0)),
        tooltip=marks.tooltip(("x:N", "token"), ("y:N", "layer"), ("value:Q", "recovered", ".3f")),
    )
    best = np.unravel_index(np.nanargmax(share), share.shape)
    step = theme.cell_step(n_positions, 460, low=8, high=34)
    return marks.cell_figure(
        [cells.add_params(marks.pick("token", "layer"))],
        (step, theme.cell_step(n_layers, 420, low=6, high=24)),
        theme.title(title, subtitle, width=max(step * n_positions, 360)),
        theme.alt_description(
            f"{title}: {share.size} patches, the largest share {fixed(float(np.nanmax(share)), 2)} "
            f"at {labels[int(best[0])]}, token {names[int(best[1])]}"
        ),
    )
