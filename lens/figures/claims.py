"""A figure of what dictionaries claim that layers do, and of what the layers did."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Bool, Float, Int

from lens.figures import marks, theme
from lens.recipe.steps import remembered
from lens.words import fixed

SHAPES = ("circle", "square", "triangle-up")
COLOURS = (theme.BLUE, theme.ORANGE, theme.OKABE_ITO[6])


@remembered
def layer_claims_chart(
    names: Sequence[str],
    layers: Int[np.ndarray, " layer"],
    claims: Float[np.ndarray, "dictionary layer"],
    measured: Float[np.ndarray, "mode layer"],
    disputed: Bool[np.ndarray, " layer"],
    *,
    title: str,
) -> alt.LayerChart:
    """Predicted and measured changes of a choice without each layer's experts.

    Args:
        names: of the dictionaries, at most three.
        layers: whose experts are taken out.
        claims: predicted changes, in logits.
        measured: changes in the model, attention patterns held and free.
        disputed: layers about which claims differ.
        title: of the figure.
    """
    labels = [
        f"L{layer}{' *' if told else ''}" for layer, told in zip(layers, disputed, strict=True)
    ]
    x = marks.layer_x(labels)
    change = "change of the choice (logits)"
    y = alt.Y("value:Q", title=change)
    did = {
        "x": labels,
        "value": measured[1],
        "held": measured[0],
        "disputed": np.where(disputed, "yes", "no"),
    }
    tips: list[marks.Tip] = [
        ("x:N", "layer"),
        ("value:Q", "change in the model", "+.3f"),
        ("held:Q", "with attention held", "+.3f"),
        ("disputed:N", "disputed"),
    ]
    bars = marks.chart(did, x=x, y=y).mark_bar(color=theme.BAND_GREY).encode(
        tooltip=marks.tooltip(*tips)
    )  # fmt: skip
    held = marks.chart(did, x=x, y=alt.Y("held:Q", title=change)).mark_tick(
        color=theme.MID_GREY, thickness=2, tooltip=None
    )
    zero = marks.dashed_rule({"value": [0.0]}, silent=True, y=y)
    far = int(np.argmax(np.ptp(claims, axis=0)))
    said_there = (f"{n} {fixed(float(c), 2)}" for n, c in zip(names, claims[:, far], strict=True))
    return marks.plot_figure(
        [marks.read_aloud(bars, tips), held, zero, _points(names, labels, claims, x, y)],
        (520, 240),
        theme.title(
            title,
            "bar: the change in the model without the layer's experts; grey line: with "
            "attention held; points: what each dictionary claims; *: disputed",
            width=520,
        ),
        theme.alt_description(
            f"{title}: {len(labels)} layers, {int(disputed.sum())} disputed",
            f"claims differ most in L{layers[far]}: {', '.join(said_there)}, measured "
            f"{fixed(float(measured[1, far]), 2)}",
        ),
    )


def _points(
    names: Sequence[str], labels: Sequence[str], claims: np.ndarray, x: alt.X, y: alt.Y
) -> alt.Chart:
    """What each dictionary claims of each layer."""
    columns = {
        "x": list(labels) * len(names),
        "value": claims.ravel(),
        "name": np.repeat(np.array(names), len(labels)),
    }
    domain = list(names)
    shapes = alt.Scale(domain=domain, range=list(SHAPES[: len(names)]))
    colours = alt.Scale(domain=domain, range=list(COLOURS[: len(names)]))
    tips: list[marks.Tip] = [("x:N", "layer"), ("name:N", "by"), ("value:Q", "claimed", "+.3f")]
    base = marks.chart(columns, x=x, y=y).mark_point(filled=True, size=75, opacity=0.95)
    points = base.encode(
        shape=alt.Shape("name:N", title=None, scale=shapes, legend=alt.Legend(orient="bottom")),
        color=alt.Color("name:N", title=None, scale=colours),
        tooltip=marks.tooltip(*tips),
    )
    return marks.read_aloud(points, tips)
