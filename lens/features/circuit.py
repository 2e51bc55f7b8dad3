"""A route's graph as people look at it: a few of its nodes, the others folded or counted.

Errors are folded into a node for each layer, and biases into one; both are always there. Of
features and words those are drawn that carry most influence, and those that were pinned. What
several nodes of the graph give through one folded node is summed, so no weight is lost on the way.

Axes: N nodes and M edges of the graph, D drawn nodes, K edges between them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from lens.errors import LensError

TARGET, FEATURE, GROUP, OTHERS = "target", "feature", "group", "others"
WORD, MISSED, FIXED = "word", "missed", "fixed"
LOST = ("error", "experts")  # kinds of the graph that are what a dictionary misses
FIRST, MOST = 30, 150  # features and words that are drawn at first, and at most
EDGES = 3  # that are drawn for each node, beside the largest of each
WORDS_ROW = -1  # stands for a layer where words and biases are drawn


class Graph(Protocol):
    """A graph of a route; the runner's graphs have it. See `grok.dictionaries.attribution`."""

    @property
    def kinds(self) -> np.ndarray: ...
    @property
    def layers(self) -> np.ndarray: ...
    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def groups(self) -> np.ndarray: ...
    @property
    def features(self) -> np.ndarray: ...
    @property
    def values(self) -> np.ndarray: ...
    @property
    def influence(self) -> np.ndarray: ...
    @property
    def open(self) -> np.ndarray: ...
    @property
    def sources(self) -> np.ndarray: ...
    @property
    def targets(self) -> np.ndarray: ...
    @property
    def weights(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Shown:
    """What is asked of a drawing.

    Attributes:
        most: features and words that are drawn, by influence.
        pinned: keys of nodes that are drawn whatever their influence.
        groups: keys of features that are drawn as one node, by the name of that node.
        over_tokens: one node for a feature at all its tokens.
        folded: features that are not pinned are one node a layer.
    """

    most: int = FIRST
    pinned: Collection[str] = ()
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)
    over_tokens: bool = False
    folded: bool = False


@dataclass(frozen=True, eq=False)
class Circuit:
    """Nodes that are drawn, and the edges between them.

    Attributes:
        keys: of nodes [D]: "target", "4-17@3" (group, feature, token), "4-17" (at all tokens),
            "group NAME", "others 4", "word 3", "missed 4" (layers), "fixed".
        kinds: [D], as the names of this module.
        layers: [D]; −1 for words and biases.
        tokens: [D], where it has most influence; −1 where it is of all tokens.
        members: nodes of the graph that each stands for.
        influence: on the target [D]; 1 for the target itself.
        values: of the target and of features, summed [D].
        open: whether what it is made of was looked into [D].
        sources, targets: of edges [K], places among the nodes.
        weights: what the source gives to the target [K].
        shares: sizes of weights over the size of all inputs of the target [K].
        strong: edges that are drawn [K].
        hidden: what comes from features and words that are not drawn [D].
        left_out: what the graph itself was cut by, and rounding [D].
        not_drawn: features and words that are not drawn.
    """

    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: np.ndarray
    tokens: np.ndarray
    members: tuple[np.ndarray, ...]
    influence: np.ndarray
    values: np.ndarray
    open: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    shares: np.ndarray
    strong: np.ndarray
    hidden: np.ndarray
    left_out: np.ndarray
    not_drawn: int

    def at(self, key: str) -> int:
        """The place of a node.

        Raises:
            LensError: it is not drawn.
        """
        if key not in self.keys:
            raise LensError(f"{key:.60}: no such node is drawn. Choose one of the drawing.")
        return self.keys.index(key)


class Edge(NamedTuple):
    """One input or output of a node: the other node's place, weight, and share of the inputs."""

    other: int
    weight: float
    share: float


def edges_of(circuit: Circuit, key: str) -> tuple[list[Edge], list[Edge]]:
    """Inputs and outputs of a node, the largest first.

    Raises:
        LensError: it is not drawn.
    """
    node = circuit.at(key)

    def listed(ends: np.ndarray, others: np.ndarray) -> list[Edge]:
        at = np.flatnonzero(ends == node)
        at = at[np.argsort(-circuit.shares[at], kind="stable")]
        return [
            Edge(int(others[i]), float(circuit.weights[i]), float(circuit.shares[i])) for i in at
        ]

    return (
        listed(circuit.targets, circuit.sources),
        listed(circuit.sources, circuit.targets),
    )


def circuit_of(graph: Graph, shown: Shown | None = None) -> Circuit:
    """The drawing of a graph.

    Args:
        graph: with one target or several.
        shown: what is asked of it; the most influential nodes where None.
    """
    shown = Shown() if shown is None else shown
    keys = _keys(graph, shown)
    units = _units(graph, keys)
    drawn = _drawn(graph, shown, units)
    if shown.folded:
        fold = (units.kinds[units.of] == FEATURE) & ~drawn[units.of]
        others = np.array([f"{OTHERS} {layer}" for layer in graph.layers])
        known = units.names[drawn]
        units = _units(graph, np.where(fold, others, keys))
        drawn = np.isin(units.names, known) | (units.kinds == OTHERS)
    return _summed(graph, units, drawn)


class _Units(NamedTuple):
    """What nodes of a graph are drawn as: keys, kinds and influence of each; `of` each node [N]."""

    names: np.ndarray
    kinds: np.ndarray
    influence: np.ndarray
    of: np.ndarray


def _units(graph: Graph, keys: np.ndarray) -> _Units:
    names, of = np.unique(keys, return_inverse=True)
    kinds = np.array([_kind(str(name)) for name in names])
    influence = np.zeros(len(names))
    np.add.at(influence, of, graph.influence)
    influence[kinds == TARGET] = 1.0
    return _Units(names, kinds, influence, of)


def _keys(graph: Graph, shown: Shown) -> np.ndarray:
    """The key of what each node of the graph is drawn as."""
    named = {key: name for name, keys in shown.groups.items() for key in keys}
    found = []
    n_targets = int((graph.kinds == TARGET).sum())
    for i, kind in enumerate(graph.kinds):
        if kind == TARGET:
            found.append(TARGET if n_targets == 1 else f"{TARGET} {i}")
        elif kind == FEATURE:
            every = f"{graph.groups[i]}-{graph.features[i]}"
            one = f"{every}@{graph.tokens[i]}"
            name = named.get(one, named.get(every))
            plain = every if shown.over_tokens else one
            found.append(plain if name is None else f"{GROUP} {name}")
        elif kind == "embedding":
            found.append(f"{WORD} {graph.tokens[i]}")
        else:
            found.append(f"{MISSED} {graph.layers[i]}" if kind in LOST else FIXED)
    return np.array(found)


def _kind(key: str) -> str:
    first = key.split(" ", 1)[0]
    return first if first in (TARGET, GROUP, OTHERS, WORD, MISSED, FIXED) else FEATURE


def _drawn(graph: Graph, shown: Shown, units: _Units) -> np.ndarray:
    """Which of the possible nodes are drawn."""
    kinds = units.kinds
    drawn = np.isin(kinds, (TARGET, MISSED, FIXED, GROUP))
    drawn |= np.isin(units.names, list(shown.pinned))
    for i in np.flatnonzero(graph.kinds == FEATURE):  # pinned at a token, drawn for all, or so
        every = f"{graph.groups[i]}-{graph.features[i]}"
        if every in shown.pinned or f"{every}@{graph.tokens[i]}" in shown.pinned:
            drawn[units.of[i]] = True
    ranked = np.argsort(-units.influence, kind="stable")
    ranked = ranked[np.isin(kinds[ranked], (FEATURE, WORD))][: max(shown.most, 0)]
    drawn[ranked if not shown.folded else ranked[kinds[ranked] == WORD]] = True
    return drawn


def _summed(graph: Graph, units: _Units, drawn: np.ndarray) -> Circuit:
    """Nodes and edges between those that are drawn, of what each node of the graph is part of."""
    names, kinds, influence = units.names, units.kinds, units.influence
    order = np.flatnonzero(drawn)
    order = order[np.lexsort((-influence[order], kinds[order] != TARGET))]
    n = len(order)
    place = np.full(len(names), -1)
    place[order] = np.arange(n)
    of_node = place[units.of]
    members = tuple(np.flatnonzero(of_node == i) for i in range(n))
    strongest = [own[np.argmax(graph.influence[own])] for own in members]
    own_kinds = tuple(str(kind) for kind in kinds[order])
    ground = np.isin(own_kinds, (WORD, FIXED))
    spread = np.isin(own_kinds, (MISSED, FIXED, OTHERS))
    opened = np.array([bool(graph.open[own].all()) for own in members])
    sums, sizes = np.zeros(n), np.zeros(n)
    source, target, w = of_node[graph.sources], of_node[graph.targets], graph.weights
    there = (target >= 0) & (source != target)
    np.add.at(sums, target[there], w[there])
    np.add.at(sizes, target[there], np.abs(w[there]))
    hidden = np.zeros(n)
    unseen = there & (source < 0)
    np.add.at(hidden, target[unseen], w[unseen])
    seen = there & (source >= 0)
    codes, at = np.unique(source[seen] * n + target[seen], return_inverse=True)
    weights = np.bincount(at, w[seen], minlength=len(codes)).astype(np.float64)
    sources, targets = codes // n, codes % n
    shares = np.abs(weights) / np.maximum(sizes[targets], 1e-30)
    values = np.array(
        [
            float(graph.values[own].sum()) if kind in (TARGET, FEATURE, GROUP, OTHERS) else np.nan
            for own, kind in zip(members, own_kinds, strict=True)
        ]
    )
    inner = np.zeros(n)  # what a folded node's members give to each other
    within = (target >= 0) & (source == target)
    np.add.at(inner, target[within], w[within])
    left_out = np.where(opened, values - sums - inner, np.nan)
    own_influence = influence[order]
    flow = own_influence[targets] * shares
    flow[np.isin(own_kinds, FIXED)[sources]] *= 1e-9  # biases give to all and tell nothing apart
    return Circuit(
        keys=tuple(str(name) for name in names[order]),
        kinds=own_kinds,
        layers=np.where(ground, WORDS_ROW, graph.layers[strongest]),
        tokens=np.where(spread, -1, graph.tokens[strongest]),
        members=members,
        influence=own_influence,
        values=values,
        open=opened,
        sources=sources,
        targets=targets,
        weights=weights,
        shares=shares,
        strong=_strong(sources, targets, flow, n),
        hidden=hidden,
        left_out=left_out,
        not_drawn=int((~drawn & np.isin(kinds, (FEATURE, WORD))).sum()),
    )


def _strong(sources: np.ndarray, targets: np.ndarray, flow: np.ndarray, n: int) -> np.ndarray:
    """The edges that carry most influence, and of each node the largest out and in."""
    order = np.argsort(-flow, kind="stable")
    strong = np.zeros(len(flow), bool)
    strong[order[: EDGES * n]] = True
    for ends in (sources, targets):
        strong[order[np.unique(ends[order], return_index=True)[1]]] = True
    return strong
