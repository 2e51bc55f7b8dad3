"""Figures of interventions: what moves, what the model then expects, every expert, every patch."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import theme
from lens.figures.traces.token_maps import token_window, visible, window_text

WIDTH = 680


def moved_map(
    overlap: Float[np.ndarray, "layer token"],
    pieces: Sequence[str],
    labels: Sequence[str],
    *,
    layer: int,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Which tokens go to other experts after an intervention in one layer.

    Args:
        overlap: share of experts in common, 1 where nothing moved.
        layer: row of the intervention, marked by a line.
        picked: (token, layer) to outline.

    Returns:
        A chart with the selection "pick" of the fields token and layer.
    """
    n_layers, n_tokens = overlap.shape
    window = token_window(n_tokens, n_layers, picked=picked[0] if picked else None)
    names = [f"{t} {visible(piece)}" for t, piece in enumerate(pieces)]
    row, place = (grid.ravel() for grid in np.indices((n_layers, len(window))))
    token = place + window.start
    step = theme.cell_step(len(window), WIDTH, low=9, high=30)
    height = theme.cell_step(n_layers, 420, low=6, high=24)
    data = {
        "token": token,
        "layer": row,
        "x": np.asarray(names)[token],
        "y": np.asarray(labels)[row],
        "value": 1 - overlap[row, token],
    }
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "x:O",
            title="token",
            scale=alt.Scale(domain=[names[t] for t in window]),
            axis=theme.axis_labels(-90, labelLimit=110),
        ),
        y=alt.Y("y:O", title="layer", sort=list(labels), axis=theme.axis_labels()),
    )
    pick = alt.selection_point(name="pick", fields=["token", "layer"], empty=False)
    scale = alt.Scale(domain=[0, 1], range=["#8C8C8C30", theme.ORANGE], clamp=True)
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title="experts exchanged", scale=scale),
        tooltip=[
            alt.Tooltip("x:N", title="token"),
            alt.Tooltip("y:N", title="layer"),
            alt.Tooltip("value:Q", title="share of experts exchanged", format=".2f"),
        ],
    )
    marks = [cells.add_params(pick)]
    where = alt.Chart(theme.embed({"y": [labels[layer]]})).encode(y=alt.Y("y:O", sort=list(labels)))
    marks.append(
        where.mark_tick(thickness=3, size=height, color=theme.BLUE, tooltip=None).encode(
            x=alt.value(0)
        )
    )
    if picked is not None and picked[0] in window:
        marks += theme.outlined(base, {"x": [names[picked[0]]], "y": [labels[picked[1]]]}, step)
    share = float((overlap < 1).mean())
    part = window_text(window, n_tokens)
    return theme.layered(*marks).properties(
        width=alt.Step(step),
        height=alt.Step(height),
        autosize=theme.NATURAL,
        title=theme.title(
            "Tokens that go to other experts",
            f"share of a token's experts exchanged; blue: the layer of the intervention; "
            f"{share:.1%} of all cells moved. {part}",
            width=step * len(window),
        ),
        description=theme.alt_description(
            f"Heatmap of exchanged experts: {share:.1%} of {overlap.size} cells moved", part
        ),
    )


def moved_by_layer(
    moved: Float[np.ndarray, " layer"],
    others: Float[np.ndarray, "other layer"],
    labels: Sequence[str],
    *,
    name: str,
) -> alt.LayerChart:
    """Share of tokens with other experts, by layer, beside the same on other experts."""
    order = list(labels)
    x = alt.X("x:O", title="layer", sort=order, axis=theme.axis_labels())
    y = alt.Y("value:Q", title="share of tokens", scale=alt.Scale(domain=[0, 1]))
    marks: list[alt.Chart] = []
    if len(others):
        band = {"x": order, "value": others.min(axis=0), "high": others.max(axis=0)}
        marks.append(
            alt.Chart(theme.embed(band))
            .mark_area(color=theme.BAND_GREY, opacity=0.3)
            .encode(x=x, y=y, y2="high:Q")
        )
        mean = {"x": order, "value": others.mean(axis=0)}
        marks.append(
            alt.Chart(theme.embed(mean))
            .mark_line(color=theme.MID_GREY, strokeDash=[5, 4])
            .encode(x=x, y=y)
        )
    own = alt.Chart(theme.embed({"x": order, "value": moved})).encode(x=x, y=y)
    marks.append(own.mark_line(color=theme.ORANGE))
    marks.append(
        own.mark_point(color=theme.ORANGE, filled=True, size=40).encode(
            tooltip=[
                alt.Tooltip("x:N", title="layer"),
                alt.Tooltip("value:Q", title="share of tokens moved", format=".3f"),
            ]
        )
    )
    return theme.layered(*marks).properties(
        width=420,
        height=210,
        autosize=theme.FLEXIBLE,
        title=theme.title(
            "Routing changed downstream",
            f"orange: {name}; grey: range and mean of the same on the layer's other experts",
            width=420,
        ),
        description=theme.alt_description(
            f"Share of tokens with other experts by layer, at most {float(moved.max()):.2f}"
        ),
    )


def change_by_token(
    kl: Float[np.ndarray, " token"],
    others: Float[np.ndarray, "other token"],
    pieces: Sequence[str],
    *,
    name: str,
    picked: int | None = None,
) -> alt.LayerChart:
    """KL of the next-token distribution after each token, beside the same on other experts.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    n = len(kl)
    window = token_window(n, 2, picked=picked)
    names = [f"{t} {visible(piece)}" for t, piece in enumerate(pieces)]
    token = np.asarray(window)
    order = [names[t] for t in window]
    x = alt.X(
        "x:O",
        title="after token",
        scale=alt.Scale(domain=order),
        axis=theme.axis_labels(-90, labelLimit=110),
    )
    y = alt.Y("value:Q", title="KL (nats)", scale=alt.Scale(zero=True))
    data = {"token": token, "x": order, "value": kl[token]}
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    pick = alt.selection_point(name="pick", fields=["token"], empty=False)
    ring = alt.condition(
        f"datum.token === {-1 if picked is None else picked}",
        alt.value(theme.ORANGE),
        alt.value(theme.BLUE),
    )
    marks = [
        base.mark_bar()
        .encode(
            color=ring,
            tooltip=[alt.Tooltip("x:N", title="token"), alt.Tooltip("value:Q", format=".4f")],
        )
        .add_params(pick)
    ]
    if len(others):
        grey = {
            "x": order,
            "value": others[:, token].mean(axis=0),
            "high": others[:, token].max(axis=0),
        }
        beside = alt.Chart(theme.embed(grey)).encode(x=x)
        marks.append(
            beside.mark_rule(color=theme.MID_GREY, size=1.5, tooltip=None).encode(y=y, y2="high:Q")
        )
        marks.append(beside.mark_tick(color=theme.MID_GREY, thickness=2, tooltip=None).encode(y=y))
    part = window_text(window, n)
    return theme.layered(*marks).properties(
        width=alt.Step(theme.cell_step(len(window), WIDTH, low=9, high=30)),
        height=170,
        autosize=theme.NATURAL,
        title=theme.title(
            "Change of the next-token distribution",
            f"KL(as it is ‖ changed) in nats; bars: {name}; grey: mean and largest of the same on "
            f"the layer's other experts. {part}",
            width=WIDTH,
        ),
        description=theme.alt_description(
            f"KL after {len(window)} tokens, mean {float(kl.mean()):.3g}, largest "
            f"{float(kl.max()):.3g} nats",
            part,
        ),
    )


def effects_in_layer(
    experts: Sequence[int],
    use: Float[np.ndarray, " expert"],
    effect: Float[np.ndarray, " expert"],
    label: str,
    *,
    own: int,
    instead: float | None = None,
) -> alt.LayerChart:
    """Effect of the same intervention on a layer's experts against their use.

    Args:
        experts: indexes; use: share of tokens that use each; effect: mean KL, nats.
        label: of the layer.
        own: the expert that was asked for.
        instead: effect of taking another expert from the same tokens.

    Returns:
        A chart with the selection "pick" of the field expert.
    """
    names = [f"E{int(expert)}" for expert in experts]
    data = {
        "expert": list(experts),
        "name": names,
        "unit": [f"{label}·{name}" for name in names],
        "use": use,
        "value": effect,
        "own": [int(expert) == own for expert in experts],
    }
    x = alt.X(
        "use:Q",
        title="share of tokens that use it",
        axis=alt.Axis(format="%"),
        scale=alt.Scale(domain=[0, 1], nice=False, padding=12),
    )
    y = alt.Y("value:Q", title="KL (nats)", scale=alt.Scale(zero=True))
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    pick = alt.selection_point(name="pick", fields=["expert"], empty=False)
    colour = alt.condition("datum.own", alt.value(theme.ORANGE), alt.value(theme.MID_GREY))
    marks = [
        base.mark_circle(size=75, opacity=1)
        .encode(
            color=colour,
            tooltip=[
                alt.Tooltip("unit:N", title="expert"),
                alt.Tooltip("use:Q", title="share of tokens", format=".1%"),
                alt.Tooltip("value:Q", title="KL (nats)", format=".4g"),
            ],
        )
        .add_params(pick),
        base.transform_filter("datum.own || datum.use > 0.2")
        .mark_text(dx=0, dy=-11, fontSize=11, tooltip=None)
        .encode(text="name:N", color=colour),
    ]
    at = list(experts).index(own)
    title = [f"orange: {label}·E{own}; grey: the same on the layer's other experts"]
    if instead is not None:
        beside = alt.Chart(theme.embed({"use": [use[at]], "value": [instead]})).encode(x=x, y=y)
        marks.append(
            beside.mark_point(
                shape="diamond", size=110, color=theme.BLUE, strokeWidth=2.5, opacity=1
            ).encode(
                tooltip=[
                    alt.Tooltip("value:Q", title="same tokens, their other expert", format=".4g")
                ]
            )
        )
        title.append("blue: the same tokens lose their other expert instead")
    return theme.layered(*marks).properties(
        width=420,
        height=210,
        autosize=theme.FLEXIBLE,
        title=theme.title("Change beside use", *title, width=420),
        description=theme.alt_description(
            f"Mean KL of {len(names)} experts of {label} against their use; "
            f"{label}·E{own} {float(effect[at]):.3g} nats, used by {float(use[at]):.0%}",
            "" if instead is None else f"same tokens without their other expert {instead:.3g}",
        ),
    )


def next_tokens_changed(
    pieces: Sequence[str],
    before: Float[np.ndarray, " candidate"],
    after: Float[np.ndarray, " candidate"],
    *,
    following: str,
) -> alt.LayerChart:
    """Probabilities of the likeliest next tokens, as they were and as they are."""
    names = [f"{i + 1}  {visible(piece)}" for i, piece in enumerate(pieces)]
    y = alt.Y(
        "name:O", title=None, sort=names, axis=alt.Axis(grid=False, ticks=False, labelOverlap=False)
    )
    scale = alt.Scale(domain=["as it is", "changed"], range=[theme.BLUE, theme.ORANGE])
    link = alt.Chart(theme.embed({"name": names, "value": before, "other": after}))
    both = {
        "name": names * 2,
        "value": np.concatenate([before, after]),
        "run": ["as it is"] * len(names) + ["changed"] * len(names),
        "change": np.tile(np.asarray(after) - np.asarray(before), 2),
    }
    x = alt.X("value:Q", title="probability", scale=alt.Scale(zero=True))
    dots = alt.Chart(theme.embed(both)).encode(x=x, y=y)
    marks = [
        link.mark_rule(color=theme.BAND_GREY, size=2, tooltip=None).encode(x=x, x2="other:Q", y=y),
        dots.mark_point(filled=True, size=70, opacity=1).encode(
            color=alt.Color("run:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
            tooltip=[
                alt.Tooltip("name:N", title="token"),
                alt.Tooltip("run:N", title="run"),
                alt.Tooltip("value:Q", title="probability", format=".4f"),
                alt.Tooltip("change:Q", title="change", format="+.4f"),
            ],
        ),
    ]
    return theme.layered(*marks).properties(
        width=420,
        height=alt.Step(20),
        autosize=theme.FLEXIBLE,
        title=theme.title(f"Next token after {visible(following)}", "probabilities", width=300),
        description=theme.alt_description(
            "Next tokens before and after: "
            + ", ".join(
                f"{visible(p)} {float(a):.3f} to {float(b):.3f}"
                for p, a, b in zip(pieces, before, after, strict=True)
            )
        ),
    )
