"""Figures as PNG and SVG bytes, without a browser and without network."""

from __future__ import annotations

import altair as alt
import vl_convert

# The Vega-Lite version that Altair writes, in vl-convert's notation ("6.1").
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
BACKGROUND = "#FFFFFF"


def figure_png(chart: alt.TopLevelMixin, scale: float = 2) -> bytes:
    """The figure as PNG on white, `scale` times its size on screen."""
    return vl_convert.vegalite_to_png(_exported(chart), vl_version=VEGA_LITE, scale=scale)


def figure_svg(chart: alt.TopLevelMixin) -> str:
    """The figure as SVG text on white."""
    return vl_convert.vegalite_to_svg(_exported(chart), vl_version=VEGA_LITE)


def _exported(chart: alt.TopLevelMixin) -> dict:
    return {**chart.to_dict(), "background": BACKGROUND}
