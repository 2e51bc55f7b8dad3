"""Figure of how compact groups of layers are, for every number of groups, beside chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from lens.clustering.tree_null import LEVEL, WEAK, groups_in_words
from lens.errors import LensError
from lens.figures import theme

if TYPE_CHECKING:
    from lens.clustering.tree_null import GroupNull

BEYOND, WITHIN = "beyond chance", "not beyond chance"


def silhouette_by_groups(null: GroupNull, cut: int | None = None) -> alt.LayerChart:
    """Silhouette of the cut into k groups for every k, with the band of unrelated layers.

    Args:
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
    found = null.p_any <= LEVEL
    data = {
        "groups": null.k,
        "silhouette": null.silhouette,
        "mean": null.mean,
        "low": null.low,
        "high": null.high,
        "p": null.p,
        "p_any": null.p_any,
        "finding": np.where(found, BEYOND, WITHIN),
    }
    known = np.concatenate([null.silhouette, null.low, null.high])
    low, high = float(np.nanmin(known, initial=0)), float(np.nanmax(known, initial=0))
    high = max(high, 1.25 * WEAK)
    base = alt.Chart(theme.embed(data)).encode(
        x=alt.X(
            "groups:Q",
            title="number of groups",
            axis=alt.Axis(values=null.k.tolist(), grid=False, format="d"),
            scale=alt.Scale(domain=[1.6, float(null.k[-1]) + 0.4], nice=False, zero=False),
        )
    )
    y = alt.Y("silhouette:Q", title="silhouette (−1 to 1)", scale=alt.Scale(domain=[low, high]))
    tooltip = [
        alt.Tooltip("groups:Q"),
        alt.Tooltip("silhouette:Q", format=".3f"),
        alt.Tooltip("low:Q", title="chance, 2.5 %", format=".4f"),
        alt.Tooltip("high:Q", title="chance, 97.5 %", format=".4f"),
        alt.Tooltip("p:Q", title="p of this number", format=".2g"),
        alt.Tooltip("p_any:Q", title="p of all together", format=".2g"),
    ]
    weak = alt.Chart(theme.embed({"silhouette": [WEAK], "text": ["compact from here"]}))
    layers = [
        base.mark_area(color=theme.BAND_GREY, opacity=0.45).encode(y=alt.Y("low:Q"), y2="high:Q")
        if len(null.k) > 1
        else base.mark_rule(color=theme.BAND_GREY, strokeWidth=12).encode(
            y=alt.Y("low:Q"), y2="high:Q"
        ),
        base.mark_line(color=theme.MID_GREY, strokeDash=[2, 3]).encode(y="mean:Q"),
        weak.mark_rule(color=theme.MID_GREY, strokeDash=[8, 4], strokeWidth=1).encode(y=y),
        weak.mark_text(
            align="right", dy=-6, fontSize=10, color=theme.MID_GREY, tooltip=None
        ).encode(y=y, x=alt.value("width"), text="text:N"),
    ]
    if cut is not None and cut in null.k:
        rule = alt.Chart(theme.embed({"groups": [cut]}))
        layers.append(
            rule.mark_rule(color=theme.ORANGE, strokeWidth=2, strokeDash=[6, 3]).encode(
                x="groups:Q"
            )
        )
    layers += [
        base.mark_line(color=theme.BLUE, strokeWidth=1.5, tooltip=None).encode(y=y),
        base.mark_point(size=80, filled=True, opacity=1, stroke=theme.BLUE, strokeWidth=1.5)
        .encode(
            y=y,
            fill=alt.Fill(
                "finding:N",
                title=f"all numbers together, {100 * LEVEL:.0f} %",
                scale=alt.Scale(domain=[BEYOND, WITHIN], range=[theme.BLUE, "#FFFFFF"]),
                legend=alt.Legend(orient="top", titleLimit=200),
            ),
            tooltip=tooltip,
        )
        .add_params(alt.selection_point(name="pick", fields=["groups"], empty=False)),
    ]
    return theme.layered(*layers).properties(
        width=380,
        height=220,
        autosize=theme.NATURAL,
        title=theme.title(
            "Are the groups compact?",
            "silhouette of each cut of the tree",
            f"grey: 95 % of {null.draws} unrelated sets (seed {null.seed})",
            f"orange: the cut into {cut} groups" if cut in null.k else "",
            width=420,
        ),
        description=theme.alt_description(
            f"Silhouette for {null.k[0]} to {null.k[-1]} groups beside unrelated layers",
            groups_in_words(null),
            f"Chance: {null.method}",
        ),
    )
