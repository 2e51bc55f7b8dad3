"""Colours, sizes and the embedding of data that all figures share.

Figures are read on light and on dark backgrounds and are exported on white. So no
text gets a fixed colour, except text that stands on a cell whose own colour is known:
`look` has the colours for a background, and who draws the figure adds them.

Data goes into a specification as a plain dictionary, not as an object of Altair's: it
would check every row of it, which takes a second for a 64 × 64 heatmap instead of
milliseconds. Its rows are a tuple, since Altair copies lists whenever charts are put
together. No process-wide setting of Altair is touched.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt
import numpy as np

from lens.words import significant

if TYPE_CHECKING:
    from lens.stats.chance import Chance

# Okabe and Ito's palette for colour-blind readers; its black is a grey here, since
# black is lost on a dark background.
OKABE_ITO = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#8C8C8C",
)
# Of lines and marks, 4.3 : 1 on white and on the page's dark background alike. Too weak for text,
# whose colour the surroundings set: see `look`.
MID_GREY = "#7A7A7A"
BAND_GREY = "#9A9A9A"
# A blue and an orange that grey print tells apart, and a browser on either background.
BLUE = "#1769AA"
ORANGE = "#E07B00"
ON_LIGHT = "#111111"
ON_DARK = "#FFFFFF"

Scheme = Literal["viridis", "cividis"]
# Name to values, all of one length.
Columns = Mapping[str, object]

# Marks that a browser still draws without a wait.
MAX_MARKS = 20_000

# How a chart fills the room it has. Natural: the plot has the size asked for, and axes and
# legends come on top. Flexible: all together have the width asked for, which a page may
# set; the plot keeps its height. Without either Streamlit fits all into both, and a plot
# under a long title is left with a few pixels.
NATURAL = alt.AutoSizeParams(type="pad", contains="content")
FLEXIBLE = alt.AutoSizeParams(type="fit-x", contains="padding")

PER_INDEX = "an expert's index is not the same expert in another layer"
UNRELATED = "unrelated directions"
NO_CHANCE = "chance level not computed"


def embed(columns: Columns) -> dict[str, tuple[dict[str, object], ...]]:
    """Columns of equal length as data inside the specification.

    Floats keep six significant digits; what is not finite becomes null, which no
    mark draws. Exact values belong into the tables.
    """
    names = list(columns)
    series = [_plain(columns[name]) for name in names]
    if len({len(values) for values in series}) > 1:
        sizes = ", ".join(
            f"{name} {len(values)}" for name, values in zip(names, series, strict=True)
        )
        raise ValueError(f"columns of different lengths: {sizes}")
    rows = zip(*series, strict=True)
    return {"values": tuple(dict(zip(names, row, strict=True)) for row in rows)}


def _plain(values: object) -> list[object]:
    array = np.asarray(values)
    if array.dtype.kind != "f":
        return list(array.tolist())
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in array.tolist()]


def cell_step(count: int, room: float, low: float = 3, high: float = 44) -> float:
    """Side of one cell in pixels so that `count` of them fill about `room`.

    Args:
        count: cells side by side.
        room: pixels.
        low: smallest side.
        high: largest side.
    """
    return float(np.clip(np.floor(room / max(count, 1)), low, high))


def title(text: str, *subtitle: str, width: float = 480) -> alt.TitleParams:
    """A left-aligned title whose second lines state units and the chance level."""
    characters = max(64, int(width / 6))
    parts = [part if part[-1] in ".;:" else f"{part}." for part in subtitle if part]
    if len(parts) == 1:
        parts = [part for part in subtitle if part]
    lines = [line for part in parts for line in textwrap.wrap(part, characters)]
    return alt.TitleParams(
        text=text,
        subtitle=lines,
        anchor="start",
        frame="group",
        subtitlePadding=4,
        offset=10,
    )


def look(dark: bool = False) -> dict[str, Any]:
    """Vega's settings for text, axes and grid, on white or on the page's dark background.

    Every text has a contrast of at least 4.5 : 1, which `MID_GREY` has on neither.
    """
    text, soft, grid = (
        ("#E6EBF2", "#AEB9C7", "#2E3A4C") if dark else ("#18212B", "#56606B", "#E3E7EC")
    )
    names = {"labelColor": soft, "titleColor": soft, "labelFontSize": 11, "titleFontSize": 11}
    plain = {"titleFontWeight": "normal", "titlePadding": 6}
    return {
        "axis": {**names, **plain, "gridColor": grid, "domainColor": grid, "tickColor": grid},
        "legend": {**names, **plain, "offset": 10, "titleLimit": 0},
        "title": {"color": text, "subtitleColor": soft},
        "text": {"color": soft},
        "view": {"stroke": None},
    }


def chance_text(chance: Chance | float | None, name: str = UNRELATED) -> str:
    """A level to compare with, drawn or a plain number, in words.

    Args:
        chance: the level; None where there is none.
        name: what gives it.
    """
    if chance is None:
        return NO_CHANCE
    if isinstance(chance, int | float | np.floating):
        return f"{name} {significant(float(chance))}"
    low, high = significant(chance.low), significant(chance.high)
    return f"{name} {significant(chance.mean)} (95 % {low} to {high})"


def chance_mean(chance: Chance | float | None) -> float | None:
    """The mean of a `Chance`; a plain number and None pass through."""
    return chance if chance is None or isinstance(chance, int | float) else float(chance.mean)


def fitted_domain(values: np.ndarray, *, middle: float | None = None) -> tuple[float, float]:
    """A colour domain fitted to values: 1st to 99th percentile, symmetric about `middle`."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return (0.0, 1.0)
    low, high = np.percentile(finite, [1, 99])
    if middle is not None:
        reach = max(abs(low - middle), abs(high - middle))
        low, high = middle - reach, middle + reach
    if not high > low:
        pad = max(abs(high), 1.0) * 1e-3
        low, high = low - pad, high + pad
    return (float(low), float(high))


def diverging(
    domain: tuple[float, float], middle: float, *, constant: float | None = None
) -> alt.Scale:
    """Blue below the middle, orange above it; the middle is the chance level.

    Args:
        domain: limits of the colours; values beyond them get the last one.
        middle: the chance level.
        constant: spreads values up to about this far from 0 (a symmetric log scale).
    """
    low, high = domain
    inside = middle if low < middle < high else (low + high) / 2
    bent: dict[str, Any] = {} if constant is None else {"type": "symlog", "constant": constant}
    return alt.Scale(scheme="blueorange", domain=[low, high], domainMid=inside, clamp=True, **bent)


def sequential(
    domain: tuple[float, float],
    *,
    scheme: Scheme = "viridis",
    bend: float = 1.0,
    reverse: bool = False,
) -> alt.Scale:
    """Viridis or cividis, from the low end to the high one.

    Args:
        domain: limits of the colours; values beyond them get the last one.
        scheme: of colours.
        bend: exponent of a power scale; less than 1 spreads the low end.
        reverse: turns the colours round.
    """
    bent: dict[str, Any] = {} if bend == 1 else {"type": "pow", "exponent": bend}
    return alt.Scale(scheme=scheme, domain=list(domain), clamp=True, reverse=reverse, **bent)


def ink(values: np.ndarray, scale: alt.Scale) -> np.ndarray:
    """Black or white for text on cells of these values, whichever reads on the cell's colour."""
    spec = scale.to_dict()
    bend, constant = spec.get("exponent", 1.0), spec.get("constant")

    def bent(values: np.ndarray | float) -> np.ndarray:
        x = np.asarray(values, dtype=float)
        size = np.abs(x) ** bend if constant is None else np.log1p(np.abs(x) / constant)
        return np.asarray(np.sign(x) * size)

    limits = spec["domain"]
    low, high, shown = bent(limits[0]), bent(limits[1]), bent(np.clip(values, *limits))
    if "domainMid" in spec:
        middle = bent(spec["domainMid"])
        reach = np.where(shown < middle, middle - low, high - middle)
        dark = np.nan_to_num(np.abs(shown - middle) / reach) > 0.66
    else:
        share = np.nan_to_num((shown - low) / (high - low))
        dark = (1 - share if spec.get("reverse") else share) < 0.55
    return np.where(dark, ON_DARK, ON_LIGHT)


def palette(count: int) -> list[str]:
    """So many colours that differ as long as there are eight or fewer."""
    return [OKABE_ITO[i % len(OKABE_ITO)] for i in range(count)]


def expert_colour(expert: int) -> tuple[str, str]:
    """Colour of an expert among those of its layer, and that of text on it."""
    ground = palette(expert + 1)[-1]
    return ground, ON_DARK if ground == OKABE_ITO[4] else ON_LIGHT


def most_cells_a_side() -> int:
    """Rows of the largest square matrix that a figure draws cell by cell."""
    return int(np.sqrt(MAX_MARKS))


def expert_names(label: str, count: int) -> list[str]:
    """Names of a layer's experts: "L12·E0", "L12·E1" and so on."""
    return [f"{label}·E{e}" for e in range(count)]


def unit_names(
    labels: Sequence[str],
    layer: np.ndarray,
    expert: np.ndarray,
    given: Mapping[tuple[int, int], str] | None = None,
) -> list[str]:
    """Names of (layer, expert) pairs, by row and index: "L12·E3", or "L12·E3, German endings".

    Args:
        labels: of the layers.
        layer, expert: the pairs.
        given: names that somebody gave to some of them.
    """
    names = [
        (f"{labels[int(a)]}·E{int(e)}", (int(a), int(e)))
        for a, e in zip(layer, expert, strict=True)
    ]
    return [f"{name}, {given[at]}" if given and at in given else name for name, at in names]


def row_names(count: int, group: int) -> list[str]:
    """Names of rows that hold one expert index, or a group of neighbouring ones."""
    if group == 1:
        return [f"E{e}" for e in range(count)]
    return [f"E{e}–{min(e + group, count) - 1}" for e in range(0, count, group)]


def title_of(spec: Mapping[str, Any]) -> str:
    """The first line of the title of a figure given as Vega-Lite."""
    return str(spec["title"]["text"])


def chart_title(chart: alt.TopLevelMixin) -> str:
    """The first line of a figure's title."""
    return title_of(chart.to_dict())


def alt_text(chart: alt.TopLevelMixin) -> str:
    """The figure's description for readers who do not see it."""
    return str(getattr(chart, "description", "") or "")


def alt_description(*parts: str) -> str:
    """Sentences joined into one alternative text."""
    return " ".join(part.strip().rstrip(".") + "." for part in parts if part)
