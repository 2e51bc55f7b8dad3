"""The effect that a finding rests on, as a dot beside the band that chance gives."""

from __future__ import annotations

import altair as alt

from lens.figures import marks, theme
from lens.finding import Finding
from lens.recipe.steps import remembered
from lens.words import significant


@remembered
def effect_on_chance(finding: Finding) -> alt.LayerChart:
    """One line: grey where 95 % of the draws lie, a dot where the data are.

    Args:
        finding: with an effect and a null.
    """
    low, high, effect = finding.null_low, finding.null_high, finding.effect
    pad = 0.12 * (max(high, effect) - min(low, effect)) or 1.0
    domain = alt.Scale(domain=[min(low, effect) - pad, max(high, effect) + pad], nice=False)
    axis = alt.Axis(tickCount=4, grid=False, domain=False, format="~g")
    x = alt.X("x:Q", title=None, scale=domain, axis=axis)
    tips = marks.tooltip(("x:Q", "chance, 2.5 %", ".4g"), ("x2:Q", "chance, 97.5 %", ".4g"))
    band = marks.chart({"x": [low], "x2": [high]}, x=x, x2=alt.X2("x2:Q"), tooltip=tips)
    dot = marks.chart({"x": [effect]}, x=x, tooltip=marks.tooltip(("x:Q", "effect", ".4g")))
    colour = theme.BLUE if finding.found else theme.MID_GREY
    return marks.plot_figure(
        [
            band.mark_bar(color=theme.BAND_GREY, opacity=0.55, height=12, cornerRadius=2),
            dot.mark_circle(size=130, color=colour, opacity=1),
        ],
        (300, 26),
        theme.title(finding.effect_name, "dot: here; grey: 95 % of what chance gives"),
        theme.alt_description(
            f"{finding.effect_name}: {significant(effect)}",
            f"chance gives {significant(low)} to {significant(high)} in 95 % of the draws",
        ),
    )
