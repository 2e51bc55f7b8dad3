"""Figure of the compactness of groups of layers, for every number of groups, beside chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from lens.clustering.reference_sets import DRAWN
from lens.clustering.tree_null import LEVEL, WEAK, groups_in_words
from lens.errors import LensError
from lens.figures import marks, theme
from lens.layers.references import BEATEN
from lens.recipe.steps import remembered
from lens.words import percent

if TYPE_CHECKING:
    from lens.clustering.tree_null import GroupNull


@remembered
def silhouette_by_groups(null: GroupNull, cut: int | None = None) -> alt.LayerChart:
    """Silhouette of the cut into k groups for every k, with the band of drawn sets.

    Args:
        null: silhouettes of every cut, beside those of drawn sets.
        cut: the number of groups shown elsewhere, which is marked.

    Returns:
        A chart with the selection "pick" of the field groups.

    Raises:
        LensError: there are too few layers for any silhouette.
    """
    if not len(null.k):
        raise LensError(
            "A silhouette needs fewer groups than layers and at least 2 groups; expected 3 layers "
            "or more. Load a model with more layers."
        )
    orange = f"orange: the cut into {cut} groups" if cut in null.k else ""
    return marks.plot_figure(
        _silhouette_layers(null, cut),
        (380, 220),
        theme.title(
            "Are the groups compact?",
            "silhouette of each cut of the tree",
            f"grey: 95 % of {null.draws} sets of {DRAWN[null.reference]} (seed {null.seed})",
            orange,
            width=420,
        ),
        theme.alt_description(
            f"Silhouette for {null.k[0]} to {null.k[-1]} groups beside {DRAWN[null.reference]}",
            groups_in_words(null),
            f"Drawn: {null.method}",
        ),
        flexible=False,
    )


def _silhouette_layers(null: GroupNull, cut: int | None) -> list[alt.Chart]:
    """Band and mean of the null, the level of compact groups, the cut, and the silhouettes."""
    known = np.concatenate([null.silhouette, null.low, null.high])
    low, high = float(np.nanmin(known, initial=0)), float(np.nanmax(known, initial=0))
    domain = alt.Scale(domain=[low, max(high, 1.25 * WEAK)])
    x = alt.X(
        "groups:Q",
        title="number of groups",
        axis=alt.Axis(values=null.k.tolist(), grid=False, format="d"),
        scale=alt.Scale(domain=[1.6, float(null.k[-1]) + 0.4], nice=False, zero=False),
    )
    y = alt.Y("silhouette:Q", title="silhouette (−1 to 1)", scale=domain)
    base = marks.chart(_silhouette_columns(null), x=x)
    # A band needs two numbers of groups.
    band = (
        base.mark_area(color=theme.BAND_GREY, opacity=0.45)
        if len(null.k) > 1
        else base.mark_rule(color=theme.BAND_GREY, strokeWidth=12)
    )
    weak = marks.chart({"silhouette": [WEAK], "text": ["compact from here"]}, y=y)
    words = weak.mark_text(align="right", dy=-6, fontSize=10, tooltip=None)
    layers = [
        band.encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(color=theme.MID_GREY, strokeDash=[2, 3]).encode(y=alt.Y("mean:Q")),
        weak.mark_rule(color=theme.MID_GREY, strokeDash=[8, 4], strokeWidth=1),
        words.encode(x=alt.value("width"), text=alt.Text("text:N")),
    ]
    if cut is not None and cut in null.k:
        layers.append(marks.cut_rule({"groups": [cut]}, x=alt.X("groups:Q")))
    return [
        *layers,
        base.mark_line(color=theme.BLUE, strokeWidth=1.5, tooltip=None).encode(y=y),
        _silhouette_points(base.encode(y=y), *_classes(null)),
    ]


def _classes(null: GroupNull) -> tuple[str, str]:
    """Names of the numbers of groups that beat the drawn sets, and of those that do not."""
    return f"beyond {BEATEN[null.reference]}", "not beyond"


def _silhouette_points(base: alt.Chart, beyond: str, within: str) -> alt.Chart:
    """A point for each number of groups, filled where it beats the drawn sets."""
    points: alt.Chart = base.mark_point(
        size=80, filled=True, opacity=1, stroke=theme.BLUE, strokeWidth=1.5
    ).encode(
        fill=alt.Fill(
            "finding:N",
            title=f"at {percent(LEVEL)}",
            scale=alt.Scale(domain=[beyond, within], range=[theme.BLUE, "#FFFFFF"]),
            legend=alt.Legend(orient="top", titleLimit=200, labelLimit=300),
        ),
        tooltip=marks.tooltip(
            ("groups:Q",),
            ("silhouette:Q", "", ".3f"),
            ("low:Q", "chance, 2.5 %", ".4f"),
            ("high:Q", "chance, 97.5 %", ".4f"),
            ("p:Q", "p of this number", ".2g"),
            ("p_any:Q", "p of all together", ".2g"),
        ),
    )
    return points.add_params(marks.pick("groups"))


def _silhouette_columns(null: GroupNull) -> theme.Columns:
    return {
        "groups": null.k,
        "silhouette": null.silhouette,
        "mean": null.mean,
        "low": null.low,
        "high": null.high,
        "p": null.p,
        "p_any": null.p_any,
        "finding": np.where(null.p_any <= LEVEL, *_classes(null)),
    }
