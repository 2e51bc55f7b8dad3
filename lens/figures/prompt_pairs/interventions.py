"""Figures of one intervention: what moves, and what the model then expects."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from lens.figures import marks, theme
from lens.figures.token_grid import (
    WIDTH,
    TokenGrid,
    quoted,
    ranked_names,
    token_names,
    token_step,
    token_window,
    token_x,
    visible,
    window_text,
)
from lens.recipe.steps import remembered
from lens.words import counted, fixed, percent, significant


@remembered
def moved_map(
    overlap: Float[np.ndarray, "layer token"],
    pieces: Sequence[str],
    labels: Sequence[str],
    *,
    layer: int,
    picked: tuple[int, int] | None = None,
) -> alt.LayerChart:
    """Tokens that go to other experts after an intervention in one layer.

    Args:
        overlap: share of experts in common, 1 where nothing moved.
        pieces: text of the tokens.
        labels: of the layers.
        layer: row of the intervention, marked by a line.
        picked: (token, layer) to outline.

    Returns:
        A chart with the selection "pick" of the fields token and layer.
    """
    n_layers, n_tokens = overlap.shape
    window = token_window(n_tokens, n_layers, picked=picked[0] if picked else None)
    grid, step = TokenGrid(token_names(pieces), labels, window), token_step(len(window))
    x = token_x(grid.shown, "token")
    base = marks.chart(grid.columns(1 - overlap), x=x, y=marks.layer_y(labels))
    scale = alt.Scale(domain=[0, 1], range=["#8C8C8C30", theme.ORANGE], clamp=True)
    tips: list[marks.Tip] = [
        ("x:N", "token"),
        ("y:N", "layer"),
        ("value:Q", "share of experts exchanged", ".2f"),
    ]
    colour = alt.Color("value:Q", title="experts exchanged", scale=scale)
    where = marks.chart({"y": [labels[layer]]}, x=alt.value(0), y=alt.Y("y:O", sort=list(labels)))
    layers = [
        marks.cells(base, colour, tips, "token", "layer"),
        where.mark_tick(thickness=3, size=grid.height, color=theme.BLUE, tooltip=None),
    ]
    share = float((overlap < 1).mean())
    part = window_text(window, n_tokens)
    return marks.cell_figure(
        layers + grid.outline(base, picked, step),
        (step, grid.height),
        theme.title(
            "Tokens that go to other experts",
            f"share of a token's experts exchanged; blue: the layer of the intervention; "
            f"{percent(share, 1)} of all cells moved. {part}",
            width=step * len(window),
        ),
        theme.alt_description(
            f"Heatmap of exchanged experts: {percent(share, 1)} of {overlap.size} cells moved", part
        ),
    )


@remembered
def moved_by_layer(
    moved: Float[np.ndarray, " layer"],
    others: Float[np.ndarray, "other layer"],
    labels: Sequence[str],
    *,
    name: str,
) -> alt.LayerChart:
    """Share of tokens with other experts, by layer, beside the same on other experts.

    Args:
        moved: shares after the intervention.
        others: the same after it on each of some other experts; may be empty.
        labels: of the layers.
        name: of the intervention.
    """
    order = list(labels)
    x = alt.X("x:O", title="layer", sort=order, axis=marks.axis_labels())
    y = alt.Y("value:Q", title="share of tokens", scale=alt.Scale(domain=[0, 1]))
    layers: list[alt.Chart] = []
    if len(others):
        band = {"x": order, "value": others.min(axis=0), "high": others.max(axis=0)}
        mean = {"x": order, "value": others.mean(axis=0)}
        area = marks.chart(band, x=x, y=y, y2=alt.Y2("high:Q"))
        line = marks.chart(mean, x=x, y=y)
        layers = [
            area.mark_area(color=theme.BAND_GREY, opacity=0.3),
            line.mark_line(color=theme.MID_GREY, strokeDash=[5, 4]),
        ]
    own = marks.chart({"x": order, "value": moved}, x=x, y=y)
    tips = marks.tooltip(("x:N", "layer"), ("value:Q", "share of tokens moved", ".3f"))
    layers += [
        own.mark_line(color=theme.ORANGE),
        own.mark_point(color=theme.ORANGE, filled=True, size=40).encode(tooltip=tips),
    ]
    return marks.plot_figure(
        layers,
        (420, 210),
        theme.title(
            "Routing changed downstream",
            f"orange: {name}; grey: range and mean of the same on the layer's other experts",
            width=420,
        ),
        theme.alt_description(
            f"Share of tokens with other experts by layer, at most {fixed(float(moved.max()), 2)}"
        ),
    )


@remembered
def change_by_token(
    kl: Float[np.ndarray, " token"],
    others: Float[np.ndarray, "other token"],
    pieces: Sequence[str],
    *,
    name: str,
    picked: int | None = None,
) -> alt.LayerChart:
    """KL of the next-token distribution after each token, beside the same on other experts.

    Args:
        kl: KL(as it is ‖ changed), nats.
        others: the same after the intervention on each of some other experts; may be empty.
        pieces: text of the tokens.
        name: of the intervention.
        picked: the token to colour.

    Returns:
        A chart with the selection "pick" of the field token.
    """
    window = token_window(len(kl), 2, picked=picked)
    names = token_names(pieces)
    token, order = np.asarray(window), [names[t] for t in window]
    x = token_x(order, "after token")
    y = alt.Y("value:Q", title="KL (nats)", scale=alt.Scale(zero=True))
    base = marks.chart({"token": token, "x": order, "value": kl[token]}, x=x, y=y)
    is_picked = f"datum.token === {-1 if picked is None else picked}"
    bars = base.mark_bar().encode(
        color=marks.highlight(is_picked, theme.ORANGE, theme.BLUE),
        tooltip=marks.tooltip(("x:N", "token"), ("value:Q", "", ".4f")),
    )
    layers = [bars.add_params(marks.pick("token"))]
    if len(others):
        mean, high = others[:, token].mean(axis=0), others[:, token].max(axis=0)
        beside = marks.chart({"x": order, "value": mean, "high": high}, x=x)
        rule = beside.mark_rule(color=theme.MID_GREY, size=1.5, tooltip=None)
        tick = beside.mark_tick(color=theme.MID_GREY, thickness=2, tooltip=None)
        layers += [rule.encode(y=y, y2=alt.Y2("high:Q")), tick.encode(y=y)]
    part = window_text(window, len(kl))
    return marks.plot_figure(
        layers,
        (alt.Step(token_step(len(window))), 170),
        theme.title(
            "Change of the next-token distribution",
            f"KL(as it is ‖ changed) in nats; bars: {name}; grey: mean and largest of the same on "
            f"the layer's other experts. {part}",
            width=WIDTH,
        ),
        theme.alt_description(
            f"KL after {counted(len(window), 'token')}, mean {significant(float(kl.mean()))}, "
            f"largest {significant(float(kl.max()))} nats",
            part,
        ),
        flexible=False,
    )


@remembered
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
        experts: indexes.
        use: share of tokens that use each.
        effect: mean KL, nats.
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
    base = marks.chart(data, x=x, y=y)
    colour = marks.highlight("datum.own", theme.ORANGE, theme.MID_GREY)
    tips = marks.tooltip(
        ("unit:N", "expert"), ("use:Q", "share of tokens", ".1%"), ("value:Q", "KL (nats)", ".4g")
    )
    dots = base.mark_circle(size=75, opacity=1).encode(color=colour, tooltip=tips)
    named = base.transform_filter("datum.own || datum.use > 0.2")
    words = named.mark_text(dx=0, dy=-11, fontSize=11, tooltip=None)
    layers = [
        dots.add_params(marks.pick("expert")),
        words.encode(text=alt.Text("name:N"), color=colour),
    ]
    at = list(experts).index(own)
    title = [f"orange: {label}·E{own}; grey: the same on the layer's other experts"]
    if instead is not None:
        other = marks.tooltip(("value:Q", "same tokens, their other expert", ".4g"))
        beside = marks.chart({"use": [use[at]], "value": [instead]}, x=x, y=y, tooltip=other)
        layers.append(
            beside.mark_point(
                shape="diamond", size=110, color=theme.BLUE, strokeWidth=2.5, opacity=1
            )
        )
        title.append("blue: the same tokens lose their other expert instead")
    return marks.plot_figure(
        layers,
        (420, 210),
        theme.title("Change beside use", *title, width=420),
        theme.alt_description(
            f"Mean KL of {len(names)} experts of {label} against their use; "
            f"{label}·E{own} {significant(float(effect[at]))} nats, used by "
            f"{percent(float(use[at]))}",
            "" if instead is None else f"same tokens without their other {significant(instead)}",
        ),
    )


@remembered
def next_tokens_changed(
    pieces: Sequence[str],
    before: Float[np.ndarray, " candidate"],
    after: Float[np.ndarray, " candidate"],
    *,
    following: str,
) -> alt.LayerChart:
    """Probabilities of the likeliest next tokens, as they were and as they are.

    Args:
        pieces: text of the tokens.
        before: probability of each in the model as it is.
        after: its probability in the changed one.
        following: the token before them, for the title.
    """
    names = ranked_names(pieces)
    both = {
        "name": names * 2,
        "value": np.concatenate([before, after]),
        "run": ["as it is"] * len(names) + ["changed"] * len(names),
        "change": np.tile(np.asarray(after) - np.asarray(before), 2),
    }
    x = alt.X("value:Q", title="probability", scale=alt.Scale(zero=True))
    y = marks.name_y(names)
    scale = alt.Scale(domain=["as it is", "changed"], range=[theme.BLUE, theme.ORANGE])
    tips = marks.tooltip(
        ("name:N", "token"),
        ("run:N", "run"),
        ("value:Q", "probability", ".4f"),
        ("change:Q", "change", "+.4f"),
    )
    link = marks.chart(
        {"name": names, "value": before, "other": after}, x=x, x2=alt.X2("other:Q"), y=y
    )
    shapes = alt.Scale(domain=scale.domain, range=["circle", "diamond"])
    legend = alt.Legend(orient="top")
    dots = marks.chart(both, x=x, y=y, tooltip=tips).encode(
        color=alt.Color("run:N", title=None, scale=scale, legend=legend),
        shape=alt.Shape("run:N", title=None, scale=shapes, legend=legend),
    )
    return marks.plot_figure(
        [
            link.mark_rule(color=theme.BAND_GREY, size=2, tooltip=None),
            dots.mark_point(filled=True, size=70, opacity=1),
        ],
        (420, alt.Step(20)),
        theme.title(f"Next token after {quoted(following)}", "probabilities", width=300),
        theme.alt_description(
            "Next tokens before and after: "
            + ", ".join(
                f"{visible(p)} {fixed(float(a), 3)} to {fixed(float(b), 3)}"
                for p, a, b in zip(pieces, before, after, strict=True)
            )
        ),
    )
