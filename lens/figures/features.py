"""Figures of learned features: where one's tokens go, how strong it is, what it changes, a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from lens.features.card import FeatureCard, feature_name
from lens.features.in_text.doses import Doses
from lens.features.store import FeatureMap
from lens.figures import marks, theme
from lens.recipe.steps import remembered
from lens.words import percent

MOST_CELLS = 12


@remembered
def feature_routes(card: FeatureCard) -> alt.LayerChart:
    """Share of a feature's tokens that go to each expert, beside the share of all tokens.

    Args:
        card: of the feature.

    Returns:
        A chart with the selection "pick" of the fields layer and expert.
    """
    rows = card.strongest_routes(MOST_CELLS)
    names = [f"L{a}·E{e}" for a, e in zip(rows["layer"], rows["expert"], strict=True)]
    data = {
        "y": names,
        "layer": rows["layer"],
        "expert": rows["expert"],
        "share": rows["share"],
        "base": rows["base"],
        "expected": rows["share"] - rows["excess"],
        "found": np.where(rows["found"], "yes", "no"),
    }
    y = alt.Y("y:N", title=None, sort=names, axis=marks.axis_labels())
    x = alt.X("share:Q", title="share of tokens", scale=alt.Scale(domain=[0, 1]),
              axis=alt.Axis(format="%"))  # fmt: skip
    tips = marks.tooltip(
        ("y:N", "expert"),
        ("share:Q", "of the feature's tokens", ".1%"),
        ("expected:Q", "of the same words in the same texts", ".1%"),
        ("base:Q", "of all tokens", ".1%"),
        ("found:N", "beyond chance"),
    )
    base = marks.chart(data, x=x, y=y, tooltip=tips)
    bars = base.mark_bar(height=10, opacity=0.9).encode(
        color=marks.highlight("datum.found === 'yes'")
    )
    expected = base.mark_tick(color=theme.ORANGE, thickness=3, size=16).encode(
        x=alt.X("expected:Q", title="share of tokens")
    )
    every = base.mark_tick(color=theme.MID_GREY, thickness=2, size=16).encode(
        x=alt.X("base:Q", title="share of tokens")
    )
    return marks.plot_figure(
        [bars.add_params(marks.pick("layer", "expert")), every, expected],
        (440, alt.Step(20)),
        theme.title(
            "Where its tokens go",
            "bar: its tokens, blue where beyond chance; orange: the same words in the same kinds "
            "of text; grey: all tokens",
            width=440,
        ),
        theme.alt_description(
            f"Shares of tokens of {card.title} that {len(names)} experts take",
            f"the first is {names[0]} with {percent(float(rows['share'][0]))}" if names else "",
        ),
    )


@remembered
def strength_histogram(card: FeatureCard) -> alt.LayerChart:
    """How strong a feature is where it is active, over bins that grow by a constant factor."""
    used = np.flatnonzero(card.counts)
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    data = {
        "low": card.edges[first:last],
        "high": card.edges[first + 1 : last + 1],
        "tokens": card.counts[first:last],
    }
    x = alt.X("low:Q", title="strength", scale=alt.Scale(type="log", nice=False, zero=False))
    bars = marks.chart(
        data,
        x=x,
        x2=alt.X2("high:Q"),
        y=alt.Y("tokens:Q", title="tokens"),
        tooltip=marks.tooltip(("low:Q", "from", ".3g"), ("high:Q", "to", ".3g"), ("tokens:Q",)),
    )
    return marks.plot_figure(
        [bars.mark_bar(color=theme.BLUE)],
        (440, 160),
        theme.title("How strong it is", f"active at {percent(card.rate, 2)} of tokens", width=440),
        theme.alt_description(
            f"Histogram of the strength of {card.title} at {card.n} tokens where it is active"
        ),
    )


@remembered
def feature_map(
    found: FeatureMap,
    labels: Sequence[str],
    picked: tuple[int, int] | None = None,
    given: Mapping[tuple[int, int], str] | None = None,
) -> alt.LayerChart:
    """All features on a plane, coloured by the kind of text in which each is active most.

    Args:
        found: the map.
        labels: names of the kinds of text.
        picked: group and number of the feature to ring.
        given: names that somebody gave to features, by group and number, for the tooltip.

    Returns:
        A chart with the selection "pick" of the fields group and feature.
    """
    few, given = _thinned(found, picked), given or {}
    data = {
        "x": found.x[few],
        "y": found.y[few],
        "group": found.group[few],
        "feature": found.feature[few],
        "name": [
            feature_name(layer, feature, given.get((group, feature), ""))
            for layer, group, feature in zip(
                found.layer[few].tolist(),
                found.group[few].tolist(),
                found.feature[few].tolist(),
                strict=True,
            )
        ],
        "text": [labels[i] for i in found.label[few]],
        "rate": found.rate[few],
    }
    bare = alt.Axis(labels=False, ticks=False, grid=False)
    base = marks.chart(
        data,
        x=alt.X("x:Q", title=None, axis=bare),
        y=alt.Y("y:Q", title=None, axis=bare),
        color=alt.Color(
            "text:N",
            title="most active in",
            scale=alt.Scale(domain=list(labels), range=theme.palette(len(labels))),
            legend=alt.Legend(orient="bottom", columns=4),
        ),
        tooltip=marks.tooltip(("name:N", "feature"), ("text:N",), ("rate:Q", "active at", ".2%")),
    )
    dots = base.mark_circle(size=22, opacity=0.75).add_params(marks.pick("group", "feature"))
    layers = [dots]
    at = _place(found, picked)
    if at is not None:
        layers.append(marks.ring(base, {"x": [found.x[at]], "y": [found.y[at]]}))
    shown = "" if len(few) == len(found.x) else f", {len(few):,} of them drawn"
    return marks.plot_figure(
        layers,
        (640, 460),
        theme.title(
            "All features",
            f"those that write alike lie together; {len(found.x):,} that were ever active{shown}",
            width=640,
        ),
        theme.alt_description(f"Map of {len(found.x)} features by what they write"),
    )


@remembered
def feature_doses(found: Doses, name: str) -> alt.LayerChart:
    """Share of routes that change at each dose of a feature, beside its controls.

    Args:
        found: effects of the doses.
        name: of the feature.
    """
    share = 1 / max(found.routes, 1)
    x = alt.X("dose:N", title=None, sort=list(found.names), axis=marks.axis_labels(0))
    y = alt.Y("share:Q", title="routes that change", axis=alt.Axis(format="%"))
    n = len(found.random)
    each = {
        "dose": np.tile(np.array(found.names), n),
        "share": found.random.ravel() * share,
        "routes": found.random.ravel(),
        "what": ["a random direction"] * found.random.size,
    }
    tips = marks.tooltip(("what:N",), ("dose:N",), ("share:Q", "of routes", ".1%"), ("routes:Q",))
    ticks = marks.chart(each, x=x, y=y, tooltip=tips).mark_tick(
        color=theme.MID_GREY, thickness=2, size=30, opacity=0.6
    )

    rows = {
        "dose": list(found.names),
        "share": found.own * share,
        "routes": found.own,
        "what": [name] * len(found.own),
    }
    dots = marks.chart(rows, x=x, y=y, tooltip=tips).mark_point(
        filled=True, size=90, color=theme.BLUE, opacity=1
    )
    return marks.plot_figure(
        [ticks, dots],
        (440, 220),
        theme.title(
            "Routes that change",
            f"blue: {name}; grey: {n} random directions as long, each at the same tokens; of "
            f"{found.routes:,} routes",
            width=440,
        ),
        theme.alt_description(
            f"Share of routes that change at {len(found.names)} doses of {name}",
            "; ".join(
                f"{dose}: {percent(own * share, 1)}, random directions {percent(low * share, 1)} "
                f"to {percent(high * share, 1)}"
                for dose, own, low, high in zip(
                    found.names, found.own, found.random.min(0), found.random.max(0), strict=True
                )
            ),
        ),
    )


MOST_DOTS = 6000


def _thinned(found: FeatureMap, picked: tuple[int, int] | None) -> np.ndarray:
    n = len(found.x)
    few = np.arange(n) if n <= MOST_DOTS else np.linspace(0, n - 1, MOST_DOTS).astype(int)
    at = _place(found, picked)
    return few if at is None else np.union1d(few, [at])


def _place(found: FeatureMap, picked: tuple[int, int] | None) -> int | None:
    if picked is None:
        return None
    at = np.flatnonzero((found.group == picked[0]) & (found.feature == picked[1]))
    return int(at[0]) if len(at) else None
