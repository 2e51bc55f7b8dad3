"""Figures of sweeps: the effect of every expert, and of every value put into another run."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Bool, Float, Int

from lens.figures import theme


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
        labels: of the rows.
        what: what was done and measured, for the second line.
        picked: (row, expert) to outline.

    Returns:
        A chart with the selection "pick" of the fields layer (row) and expert.
    """
    n_layers, n_experts = effect.shape
    row, expert = (grid.ravel() for grid in np.indices(effect.shape))
    signed = bool((effect < -0.05 * np.abs(effect).max()).any())
    if signed:
        reach = float(np.abs(effect).max()) or 1.0
        scale = theme.diverging((-reach, reach), 0.0)
    else:
        scale = theme.sequential((0.0, float(effect.max()) or 1.0), bend=0.5)
    step = theme.cell_step(n_experts, 420, low=7, high=40)
    height = theme.cell_step(n_layers, 460, low=7, high=30)
    values = effect[row, expert]
    data = {
        "layer": row,
        "expert": expert,
        "y": np.asarray(labels)[row],
        "value": values,
        "unit": theme.unit_names(labels, row, expert),
        "used": used[row, expert],
        "ink": theme.ink(values, scale),
    }
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "expert:O",
            title="expert; not comparable between layers",
            axis=alt.Axis(labelAngle=0, labelOverlap="parity"),
        ),
        y=alt.Y("y:O", title="layer", sort=list(labels), axis=theme.axis_labels()),
    )
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    marks = [
        base.mark_rect()
        .encode(
            color=alt.Color("value:Q", title=unit, scale=scale),
            tooltip=[
                alt.Tooltip("unit:N", title="expert"),
                alt.Tooltip("value:Q", title=f"effect ({unit})", format=".4g"),
                alt.Tooltip("used:N", title="used by the text"),
            ],
        )
        .add_params(pick)
    ]
    unused = base.transform_filter("!datum.used")
    marks.append(
        unused.mark_text(text="·", fontSize=16, tooltip=None).encode(color=theme.ink_colour())
    )
    if picked is not None:
        at = {"y": [labels[picked[0]]], "expert": [picked[1]]}
        marks += theme.outlined(base, at, step)
    top = np.unravel_index(np.argmax(effect), effect.shape)
    name = f"{labels[int(top[0])]}·E{int(top[1])}"
    return theme.layered(*marks).properties(
        width=alt.Step(step),
        height=alt.Step(height),
        autosize=theme.NATURAL,
        title=theme.title(
            "Effect of every expert",
            f"{what}; · no token of this text uses it",
            width=max(step * n_experts, 420),
        ),
        description=theme.alt_description(
            f"Heatmap of the effect of {effect.size} experts, largest {float(effect.max()):.3g} "
            f"{unit} for {name}",
            f"{int((~used).sum())} are not used by the text",
        ),
    )


def effects_against_use(
    effect: Float[np.ndarray, "layer expert"],
    weight: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    *,
    unit: str,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Effect of every expert against its mean share of the tokens' mixes.

    Returns:
        A chart with the selection "pick" of the fields layer (row) and expert.
    """
    row, expert = (grid.ravel() for grid in np.indices(effect.shape))
    if row.size > theme.MAX_MARKS // 2:
        keep = np.sort(np.argsort(-effect[row, expert])[: theme.MAX_MARKS // 2])
        row, expert = row[keep], expert[keep]
    data = {
        "layer": row,
        "expert": expert,
        "unit": theme.unit_names(labels, row, expert),
        "weight": weight[row, expert],
        "value": effect[row, expert],
    }
    x = alt.X("weight:Q", title="share of the mix, mean over tokens")
    y = alt.Y("value:Q", title=f"effect ({unit})")
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    even = alt.Chart(theme.embed({"weight": [1 / effect.shape[1]]}))
    marks = [
        even.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4]).encode(x=x),
        base.mark_circle(size=55, color=theme.BLUE, opacity=0.75)
        .encode(
            tooltip=[
                alt.Tooltip("unit:N", title="expert"),
                alt.Tooltip("weight:Q", title="share of the mix", format=".3f"),
                alt.Tooltip("value:Q", title=f"effect ({unit})", format=".4g"),
            ]
        )
        .add_params(pick),
    ]
    if picked is not None:
        at = {"weight": [weight[picked]], "value": [effect[picked]]}
        ring = base.properties(data=theme.embed(at))
        marks.append(ring.mark_point(size=150, color=theme.ORANGE, strokeWidth=2.5, tooltip=None))
    return theme.layered(*marks).properties(
        width=420,
        height=260,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Effect against use", "a dot is an expert of a layer; dashed: even share", width=420
        ),
        description=theme.alt_description(
            f"Scatter of {effect.size} experts: share of the mix and effect"
        ),
    )


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
        pieces: the tokens of the positions, as "clean" or "clean | corrupt".
        labels: of the rows.

    Returns:
        A chart with the selection "pick" of the fields token and layer.
    """
    n_layers, n_positions = share.shape
    names = [f"{int(p)} {piece}" for p, piece in zip(positions, pieces, strict=True)]
    row, place = (grid.ravel() for grid in np.indices(share.shape))
    step = theme.cell_step(n_positions, 460, low=8, high=34)
    data = {
        "token": np.asarray(positions)[place],
        "layer": row,
        "x": np.asarray(names)[place],
        "y": np.asarray(labels)[row],
        "value": share[row, place],
    }
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X("x:O", title="token", sort=names, axis=theme.axis_labels(-90, labelLimit=120)),
        y=alt.Y("y:O", title="layer", sort=list(labels), axis=theme.axis_labels()),
    )
    pick = alt.selection_point(name="pick", fields=["token", "layer"], empty=False)
    cells = base.mark_rect(invalid=None).encode(
        color=alt.Color("value:Q", title="recovered", scale=theme.diverging((-1.0, 1.0), 0.0)),
        tooltip=[
            alt.Tooltip("x:N", title="token"),
            alt.Tooltip("y:N", title="layer"),
            alt.Tooltip("value:Q", title="recovered", format=".3f"),
        ],
    )
    best = np.unravel_index(np.nanargmax(share), share.shape)
    return theme.layered(cells.add_params(pick)).properties(
        width=alt.Step(step),
        height=alt.Step(theme.cell_step(n_layers, 420, low=6, high=24)),
        autosize=theme.NATURAL,
        title=theme.title(title, subtitle, width=max(step * n_positions, 360)),
        description=theme.alt_description(
            f"{title}: {share.size} patches, the largest share {float(np.nanmax(share)):.2f} at "
            f"{labels[int(best[0])]}, token {names[int(best[1])]}"
        ),
    )
