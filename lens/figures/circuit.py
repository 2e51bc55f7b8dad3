"""A figure of the circuit of a route: layers up, tokens across, the choice on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from lens.features.circuit import (
    FEATURE,
    FIXED,
    GROUP,
    MISSED,
    OTHERS,
    TARGET,
    WORD,
    WORDS_ROW,
    Circuit,
)
from lens.figures import marks, theme
from lens.recipe.steps import remembered

WIDTH, ROW, LABELS = 800, 42, 84  # pixels: of the plot, of a layer, of the tokens' names
SIDE = 60  # of the layers' names
UNIT = (20.0, 48.0)  # pixels of a node across
GAP = 0.2  # between tokens, in nodes
NAMED = 1.8  # width of a feature, which has its name above it, in other nodes
FAINT = 0.12  # edges that are not of the chosen node
# Name, shape and colour of each kind. Blue and orange are the signs of edges.
KINDS: Mapping[str, tuple[str, str, str]] = {
    TARGET: ("the choice", "triangle-up", theme.MID_GREY),
    FEATURE: ("feature", "circle", theme.OKABE_ITO[2]),
    GROUP: ("features you grouped", "cross", theme.OKABE_ITO[2]),
    OTHERS: ("other features of a layer", "circle", theme.BAND_GREY),
    WORD: ("word", "square", theme.BAND_GREY),
    MISSED: ("missed by the dictionary", "diamond", theme.OKABE_ITO[6]),
    FIXED: ("biases", "triangle-down", theme.BAND_GREY),
}
Rows = dict[str, Any]


def circuit_rows(
    circuit: Circuit,
    names: Mapping[str, tuple[str, str]],
    pieces: Mapping[int, str],
    picked: str = "",
) -> tuple[Rows, Rows]:
    """Columns of the nodes and of the edges that are drawn, with their places.

    Args:
        circuit: the nodes and edges.
        names: of nodes by their keys, short and long: "F17" and "L4·F17 on “the”".
        pieces: visible text of tokens, by their places.
        picked: key of the node whose edges stand out; "" for none.
    """
    place = _placed(circuit)
    short, long = zip(*(names[key] for key in circuit.keys), strict=True)
    words = [pieces[t] if t >= 0 else "" for t in circuit.tokens.tolist()]
    nodes: Rows = {
        "key": list(circuit.keys),
        "below": _below(place.x, place.y, np.array(short) != ""),
        "kind": [KINDS[kind][0] for kind in circuit.kinds],
        "short": list(short),
        "name": list(long),
        "x": place.x,
        "y": place.y,
        "row": [place.labels[int(y)] for y in place.y],
        "token": circuit.tokens,
        "piece": words,
        "influence": circuit.influence,
        "value": circuit.values,
        "opened": np.where(circuit.open, "yes", "no"),
    }
    keep = circuit.strong
    if picked in circuit.keys:
        own = circuit.keys.index(picked)
        keep = keep | (circuit.sources == own) | (circuit.targets == own)
    source, target = circuit.sources[keep], circuit.targets[keep]
    lit = np.ones(len(source), bool)
    if picked in circuit.keys:
        lit = (source == own) | (target == own)
    edges: Rows = {
        "from": [long[i] for i in source],
        "to": [long[i] for i in target],
        "x": place.x[source],
        "y": place.y[source],
        "x2": place.x[target],
        "y2": place.y[target],
        "weight": circuit.weights[keep],
        "share": circuit.shares[keep],
        "sign": np.where(circuit.weights[keep] >= 0, "raises", "lowers"),
        "shade": np.where(circuit.weights[keep] >= 0, theme.BLUE, theme.ORANGE),
        "lit": lit,
    }
    return nodes, edges


class _Placed(NamedTuple):
    """Places of nodes, in nodes across and layers up, and the names of rows."""

    x: np.ndarray
    y: np.ndarray
    labels: list[str]


def _placed(circuit: Circuit) -> _Placed:
    """Layers up, words below them and the target above; tokens across, as wide as they need."""
    is_target = np.array([kind == TARGET for kind in circuit.kinds])
    layers = sorted(set(circuit.layers[~is_target].tolist()) - {WORDS_ROW})
    y = np.array([0 if n == WORDS_ROW else 1 + layers.index(n) if n in layers else 0
                  for n in circuit.layers])  # fmt: skip
    y[is_target] = 1 + len(layers)
    top = f"L{int(circuit.layers[is_target][0])} router" if is_target.any() else ""
    labels = ["words", *(f"L{layer}" for layer in layers), top]
    # What is of no token stands at the right, near the target, whose token is the last one.
    last = int(circuit.tokens.max(initial=0)) + 1
    column = [
        last if kind == OTHERS else last + 1 if token < 0 else token
        for kind, token in zip(circuit.kinds, circuit.tokens.tolist(), strict=True)
    ]
    wide = np.array([NAMED if kind in (FEATURE, GROUP) else 1.0 for kind in circuit.kinds])
    x, start = np.zeros(len(column)), 0.0
    for own in sorted(set(column)):
        cells: dict[int, list[int]] = {}
        for i, at in enumerate(column):
            if at == own:
                cells.setdefault(int(y[i]), []).append(i)
        room = {row: float(wide[cell].sum()) for row, cell in cells.items()}
        width = max(room.values())
        for row, cell in cells.items():
            ends = start + (width - room[row]) / 2 + np.cumsum(wide[cell])
            x[cell] = ends - wide[cell] / 2
            if len(cell) == 1:  # so that lines between layers don't lie on each other
                x[cell] += 0.2 * (row % 2)
        start += width + GAP
    return _Placed(x, y.astype(float), labels)


def _below(x: np.ndarray, y: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Every other name of a row, which stands below its node: narrow pages have no room beside."""
    below = np.zeros(len(x), bool)
    for row in set(y.tolist()):
        here = np.flatnonzero((y == row) & named)
        below[here[np.argsort(x[here], kind="stable")][1::2]] = True
    return below


@remembered
def route_circuit(
    nodes: Mapping[str, Any], edges: Mapping[str, Any], *, title: str, picked: str = ""
) -> alt.LayerChart:
    """Features, words and errors that a choice is made of, and what each gives to the next.

    Args:
        nodes, edges: columns, from `circuit_rows`.
        title: of the figure.
        picked: key of the node that is marked; "" for none.

    Returns:
        A chart with the selection "pick" of the field key.
    """
    across = float(max(nodes["x"])) + 0.5
    top = int(max(nodes["y"]))
    unit = float(np.clip(WIDTH / (across + 0.5), *UNIT))
    rows = dict(zip((int(y) for y in nodes["y"]), nodes["row"], strict=True))
    names = ",".join(f"'{rows.get(i, '')}'" for i in range(top + 1))
    low = -LABELS / ROW
    x = alt.X("x:Q", title=None, axis=None, scale=alt.Scale(domain=[-0.2, across + 0.3]))
    y = alt.Y(
        "y:Q",
        title=None,
        scale=alt.Scale(domain=[low, top + 0.8]),
        axis=alt.Axis(
            values=list(range(top + 1)), labelExpr=f"[{names}][datum.value]", domain=False,
            ticks=False,
        ),
    )  # fmt: skip
    base = marks.chart(nodes, x=x, y=y)
    written = [
        base.transform_filter(test)
        .mark_text(fontSize=10, fontWeight="bold", dy=dy, tooltip=None, aria=False)
        .encode(text="short:N")
        for test, dy in (("!datum.below", -13), ("datum.below", 14))
    ]
    layers = [*_lines(edges, x, y), _dots(base, nodes), *written, _token_names(nodes, x, y)]
    if picked in list(nodes["key"]):
        at = list(nodes["key"]).index(picked)
        point = {"x": [float(nodes["x"][at])], "y": [float(nodes["y"][at])]}
        layers.append(marks.ring(marks.chart(point, x=x, y=y), point, 420))
    return marks.plot_figure(
        layers,
        (unit * (across + 0.5) + SIDE, ROW * (top + 0.8) + LABELS),
        theme.title(
            title,
            "line: what one gives to the next, as wide as its share of all that the next gets; "
            "blue raises it, orange and dashed lowers it",
            "larger: more influence on the choice",
            width=WIDTH,
        ),
        theme.alt_description(
            f"{title}: {len(nodes['key'])} nodes and {len(edges['weight'])} edges",
            "most influence have " + ", ".join(str(name) for name in list(nodes["name"])[1:4]),
        ),
        frame=False,
    )


def _dots(base: alt.Chart, nodes: Mapping[str, Any]) -> alt.Chart:
    """The nodes, of which one can be picked."""
    kinds = [kind for kind in KINDS.values() if kind[0] in set(nodes["kind"])]
    tips: list[marks.Tip] = [
        ("name:N", "node"),
        ("kind:N", "kind"),
        ("influence:Q", "influence", ".1%"),
        ("value:Q", "value", ".3f"),
        ("opened:N", "looked into"),
    ]
    domain = [kind[0] for kind in kinds]
    dots = base.mark_point(filled=True, opacity=1, stroke=theme.MID_GREY, strokeWidth=0.6).encode(
        shape=alt.Shape("kind:N", title=None, scale=alt.Scale(
            domain=domain, range=[kind[1] for kind in kinds]),
            legend=alt.Legend(orient="bottom", columns=2, symbolSize=90)),
        fill=alt.Fill("kind:N", title=None, scale=alt.Scale(
            domain=domain, range=[kind[2] for kind in kinds])),
        size=alt.Size("influence:Q", legend=None, scale=alt.Scale(
            type="sqrt", domain=[0, 0.2], range=[45, 330], clamp=True)),
        tooltip=marks.tooltip(*tips),
    )  # fmt: skip
    picked: alt.Chart = marks.read_aloud(dots, tips).add_params(marks.pick("key"))
    return picked


def _lines(edges: Mapping[str, Any], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Edges, the weaker ones first."""
    order = np.argsort(np.asarray(edges["share"]), kind="stable")
    rows = {name: [list(column)[i] for i in order] for name, column in edges.items()}
    tips: list[marks.Tip] = [
        ("from:N", "from"),
        ("to:N", "to"),
        ("weight:Q", "gives", "+.4f"),
        ("share:Q", "share of its inputs", ".1%"),
    ]
    signs = ["raises", "lowers"]
    lines = marks.chart(rows, x=x, y=y).mark_rule().encode(
        x2=alt.X2("x2:Q"),
        y2=alt.Y2("y2:Q"),
        color=alt.Color("shade:N", scale=None, legend=None),
        strokeDash=alt.StrokeDash("sign:N", title=None, scale=alt.Scale(
            domain=signs, range=[[1, 0], [5, 3]]), legend=None),
        strokeWidth=alt.StrokeWidth("share:Q", legend=None, scale=alt.Scale(
            type="sqrt", domain=[0, 0.5], range=[0.5, 5], clamp=True)),
        opacity=alt.condition("datum.lit", alt.value(0.8), alt.value(FAINT)),
        tooltip=marks.tooltip(*tips),
    )  # fmt: skip
    return [marks.read_aloud(lines, tips)]


def _token_names(nodes: Mapping[str, Any], x: alt.X, y: alt.Y) -> alt.Chart:
    """The words below the columns that are theirs."""
    found: dict[int, list[float]] = {}
    for token, at in zip(nodes["token"], nodes["x"], strict=True):
        if token >= 0:
            found.setdefault(int(token), []).append(float(at))
    pieces = dict(zip((int(t) for t in nodes["token"]), nodes["piece"], strict=True))
    columns = {
        "x": [(min(own) + max(own)) / 2 for own in found.values()],
        "y": [-0.45] * len(found),
        "text": [f"{token} {pieces[token]}" for token in found],
    }
    named: alt.Chart = marks.chart(columns, x=x, y=y).mark_text(
        angle=270, align="right", baseline="middle", fontSize=11, limit=LABELS - 20, tooltip=None
    )
    return named.encode(text="text:N")
