"""Figures of interventions: what moves, what the model then expects, every expert, every patch."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Bool, Float, Int

from lens.figures import theme
from lens.figures.routing import token_window, visible, window_text

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


# --- all experts ------------------------------------------------------------------------


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
    load: Float[np.ndarray, "layer expert"],
    labels: Sequence[str],
    *,
    unit: str,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Effect of every expert against its share of the text's assignments.

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
        "load": load[row, expert],
        "value": effect[row, expert],
    }
    x = alt.X("load:Q", title="share of the layer's assignments")
    y = alt.Y("value:Q", title=f"effect ({unit})")
    base = alt.Chart(theme.embed(data)).encode(x=x, y=y)
    pick = alt.selection_point(name="pick", fields=["layer", "expert"], empty=False)
    even = alt.Chart(theme.embed({"load": [1 / effect.shape[1]]}))
    marks = [
        even.mark_rule(color=theme.MID_GREY, strokeDash=[5, 4]).encode(x=x),
        base.mark_circle(size=55, color=theme.BLUE, opacity=0.75)
        .encode(
            tooltip=[
                alt.Tooltip("unit:N", title="expert"),
                alt.Tooltip("load:Q", title="share", format=".3f"),
                alt.Tooltip("value:Q", title=f"effect ({unit})", format=".4g"),
            ]
        )
        .add_params(pick),
    ]
    if picked is not None:
        at = {"load": [load[picked]], "value": [effect[picked]]}
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
            f"Scatter of {effect.size} experts: share of assignments and effect"
        ),
    )


# --- patches ----------------------------------------------------------------------------


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
