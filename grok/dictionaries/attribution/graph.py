"""Attribution graph of a route: from experts back to features of earlier layers and to the words.

Axes: R rows, C columns, N nodes, M edges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from grok.dictionaries.attribution.reading import PromptFeatures
from grok.dictionaries.attribution.rows import TOGETHER, Columns, Rows, Target
from grok.dictionaries.attribution.scores import (
    Scores,
    connected,
    influence,
    most,
    scored,
    shares,
    through,
)
from grok.engine.compiled import bucket
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.config import ModelConfig
    from grok.dictionaries.kinds.dictionary import Dictionary
    from grok.runner.model import Model

BUDGET = 512  # features that are looked into
NODES, EDGES = 0.8, 0.98  # shares of influence that pruning keeps
TARGET, OWN = "target", "own bias"
CELL = 12_000  # operations that take as long as all that is done to a cell, at memory's speed


@dataclass(frozen=True, eq=False)
class RouteGraph:
    """What targets are made of, and what that is made of.

    Nodes are the targets, then features and leaves by falling influence.

    Attributes:
        kinds: of nodes [N]: "target", "feature", "error", "bias", "own bias" (of an encoder or a
            router), "skip", "experts", "attention bias", "embedding".
        sites: of nodes; where a feature is read, where others are added.
        layers, tokens: of nodes [N].
        groups, features: of nodes; -1 where it is no feature.
        values: of targets and features; 1 for leaves.
        influence: on the targets [N].
        open: features that were looked into, and targets [N].
        sources, targets, weights: of edges [M]: weight is what the source gives to the target.
        n_targets: of the nodes, the first.
        asked: the targets.
        scores: of the whole graph, before pruning.
        row_error: how far rows are from their targets, the worst, relative to the sum of sizes.
        pieces: of the prompt.
        candidates: features that were active.
        seconds: that it took.
    """

    kinds: np.ndarray
    sites: np.ndarray
    layers: np.ndarray
    tokens: np.ndarray
    groups: np.ndarray
    features: np.ndarray
    values: np.ndarray
    influence: np.ndarray
    open: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    n_targets: int
    asked: tuple[Target, ...]
    scores: Scores
    row_error: float
    pieces: tuple[str, ...]
    candidates: int
    seconds: float


class GraphPlan(NamedTuple):
    """What a graph takes. bytes: held at once; rows: that are computed; operations: of floats;
    seconds: at the speed of a product that was just timed."""

    bytes: int
    rows: int
    operations: float
    seconds: float


def plan_graph(model: Model, read: PromptFeatures, budget: int = BUDGET, n: int = 1) -> GraphPlan:
    """Memory and time of a graph of `n` targets, before it is made."""
    groups = read.dictionary.design.groups
    active = [int((f != 0).sum()) for f in read.features]
    written = sum(own * len(group.writes) for own, group in zip(active, groups, strict=True))
    rows = n + min(budget, sum(active))
    return _plan(model.config, read.dictionary, read.tokens.size, (rows, sum(active), written))


def expected_plan(
    config: ModelConfig, dictionary: Dictionary, n_tokens: int, budget: int = BUDGET, n: int = 1
) -> GraphPlan:
    """The same before a text was read: as many features are active as the dictionary allows."""
    design = dictionary.design
    each = n_tokens * min(dictionary.activation.k, design.features)
    active = each * len(design.groups)
    written = each * sum(len(group.writes) for group in design.groups)
    return _plan(config, dictionary, n_tokens, (n + min(budget, active), active, written))


def _plan(
    config: ModelConfig, dictionary: Dictionary, t: int, counts: tuple[int, int, int]
) -> GraphPlan:
    rows, active, written = counts
    d, p = config.d_model, bucket(t)
    columns = active + t * (3 * len(dictionary.design.targets) + 2 * config.n_layers + 1)
    held = 4 * (3 * rows * columns + written * d + 4 * TOGETHER * p * d)
    padded = -(-rows // TOGETHER) * TOGETHER
    each = config.n_layers * (8 * p * d * d + 4 * p * p * d) / 2
    operations = padded * each + rows * written * d * 2 + CELL * rows * columns
    return GraphPlan(held, rows, operations, operations / _speed())


def _speed() -> float:
    """Operations a second of one processor, by a product too small to be shared out."""
    a, seconds = np.ones((64, 64), np.float32), []
    for _ in range(32):
        start = time.perf_counter()
        a = a @ a * 0
        seconds.append(time.perf_counter() - start)
    return 2 * 64**3 / max(min(seconds), 1e-6)


def route_graph(
    model: Model,
    read: PromptFeatures,
    targets: Target | Sequence[Target],
    *,
    budget: int = BUDGET,
    weights: Sequence[float] | None = None,
    nodes: float = NODES,
    edges: float = EDGES,
    progress: Callable[[int, int], object] | None = None,
) -> RouteGraph:
    """The graph of one or several targets, the most influential features looked into first.

    Args:
        model: that the prompt was read with, in float32.
        read: the prompt, from `read_features`.
        targets: to explain.
        budget: the most features that are looked into; others stand as they are.
        weights: of targets; all alike by default.
        nodes, edges: shares of influence that are kept; 1 keeps all. Nodes that are cut are
            features: errors, biases and words go with their edges alone.
        progress: told (features looked into, budget); what it raises ends the work.

    Raises:
        GrokError: there is no such target, or no graph of this dictionary.
    """
    start = time.perf_counter()
    asked = (targets,) if isinstance(targets, Target) else tuple(targets)
    if not asked or budget < 0 or not (0 < nodes <= 1 and 0 < edges <= 1):
        raise GrokError("route_graph: expected targets, a budget from 0, and shares up to 1.")
    w = np.ones(len(asked)) / len(asked) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(asked),) or (w < 0).any() or not w.sum():
        raise GrokError(f"weights: expected {len(asked)} of at least 0, and one above it.")
    maker = Rows(model, read)
    grown = Grown(maker, asked, w)
    candidates = int((maker.columns.kinds == "feature").sum())
    limit = min(budget, candidates)
    while grown.n_open < limit and grown.grow(limit - grown.n_open):
        if progress is not None:
            progress(grown.n_open, limit)
    return grown.finished(nodes, edges, read.pieces, candidates, start)


class Grown:
    """Rows so far.

    Attributes:
        rows: [R, C], a last column for what each row has of its own.
        values: of targets and features [R], as the run had them.
        own: layer and token of each row.
        column_of: the column that a row looks into [R]; -1 for targets.
    """

    def __init__(self, maker: Rows, asked: Sequence[Target], weights: np.ndarray) -> None:
        self._maker, self._asked = maker, tuple(asked)
        self._weights = weights / weights.sum()
        covectors = [maker.covector(target) for target in asked]
        self.rows, self.values = self._made(covectors)
        self._parts = shares(self.rows)
        self.own = [(one.layer, one.token) for one in covectors]
        self.column_of = np.full(len(asked), -1)

    def _made(self, covectors: Sequence) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        own = np.array([[one.own] for one in covectors], np.float32)
        rows = np.concatenate([self._maker.of(covectors), own], axis=1)
        return rows, np.array([one.value for one in covectors])

    def _weighted(self) -> np.ndarray:
        out = np.zeros(len(self.rows))
        out[: len(self._weights)] = self._weights
        return out

    @property
    def n_open(self) -> int:
        """Features that were looked into."""
        return len(self.rows) - len(self._asked)

    def grow(self, limit: int) -> int:
        """Looks into the next most influential features that are not yet; the number of them."""
        columns = self._maker.columns
        found = influence(self._parts, self._weighted(), self.column_of)[:-1]
        found[columns.kinds != "feature"] = 0
        found[self.column_of[self.column_of >= 0]] = 0
        best = np.argsort(-found, kind="stable")[: min(TOGETHER, limit)]
        best = best[found[best] > 0]
        if not len(best):
            return 0
        covectors = [
            self._maker.covector(
                Target("feature", int(columns.tokens[c]), int(columns.features[c]),
                       group=int(columns.groups[c]))
            )
            for c in best
        ]  # fmt: skip
        rows, values = self._made(covectors)
        self.rows = np.concatenate([self.rows, rows])
        self._parts = np.concatenate([self._parts, shares(rows)])
        self.values = np.concatenate([self.values, values])
        self.column_of = np.concatenate([self.column_of, best])
        self.own += [(one.layer, one.token) for one in covectors]
        return len(best)

    def finished(
        self, nodes: float, edges: float, pieces: tuple[str, ...], candidates: int, start: float
    ) -> RouteGraph:
        """The graph, pruned."""
        columns, column_of, weights = self._maker.columns, self.column_of, self._weighted()
        parts = self._parts
        kinds = np.concatenate([columns.kinds, [OWN]])
        found = influence(parts, weights, column_of)
        off = np.abs(self.rows.astype(np.float64).sum(1) - self.values)
        off = off / np.maximum(np.abs(self.rows).sum(1), 1e-30)
        table = _Table(columns, self, found)
        flow = parts * through(parts, weights, column_of)[:, None].astype(np.float32)
        return RouteGraph(
            **table.pruned(flow, nodes, edges),
            n_targets=len(self._asked),
            asked=self._asked,
            scores=scored(parts, weights, column_of, kinds),
            row_error=float(off.max()),
            pieces=pieces,
            candidates=candidates,
            seconds=time.perf_counter() - start,
        )


class _Table:
    """Nodes of a graph: targets, columns, and a node for what each row has of its own."""

    def __init__(self, columns: Columns, grown: Grown, found: np.ndarray) -> None:
        r, c = grown.rows.shape
        n_targets = int((grown.column_of < 0).sum())
        first = n_targets + c - 1
        places = list(dict.fromkeys(grown.own))
        own_node = np.array([first + places.index(place) for place in grown.own])
        node_of_row = np.where(grown.column_of < 0, np.arange(r), n_targets + grown.column_of)
        rows, at = np.nonzero(grown.rows)
        self._sources = np.where(at == c - 1, own_node[rows], n_targets + at)
        self._targets = node_of_row[rows]
        self._cells = rows, at
        self._weights = grown.rows[rows, at]
        n = len(places)
        where = np.array(places)
        targets = np.array(grown.own[:n_targets])
        none, ones = np.full(n_targets, -1), np.full(n, -1)
        own = shares(grown.rows)[:, -1]
        open_weight = np.zeros(n)
        sizes = np.where(grown.column_of >= 0, found[grown.column_of], 0.0)
        np.add.at(open_weight, own_node - first, sizes * own)
        self._n_targets = n_targets
        self._columns = {
            "kinds": np.concatenate([[TARGET] * n_targets, columns.kinds, [OWN] * n]),
            "sites": np.concatenate([[""] * n_targets, columns.sites, [""] * n]),
            "layers": np.concatenate([targets[:, 0], columns.layers, where[:, 0]]),
            "tokens": np.concatenate([targets[:, 1], columns.tokens, where[:, 1]]),
            "groups": np.concatenate([none, columns.groups, ones]),
            "features": np.concatenate([none, columns.features, ones]),
            "values": np.concatenate([grown.values[:n_targets], columns.values, np.ones(n)]),
            "influence": np.concatenate([np.zeros(n_targets), found[:-1], open_weight]),
        }
        self._columns["open"] = np.zeros(len(self._columns["kinds"]), bool)
        self._columns["open"][node_of_row] = True

    def pruned(self, flow: np.ndarray, nodes: float, edges: float) -> dict[str, np.ndarray]:
        """Fields of the graph with the most influential features and edges, and every leaf.

        Args:
            flow: influence that goes through each cell [R, C].
            nodes, edges: shares that are kept.
        """
        kinds, own = self._columns["kinds"], self._columns["influence"]
        ends = (kinds == TARGET) | (kinds == "embedding")
        kept = (most(own, nodes) if nodes < 1 else own > 0) | (kinds != "feature")
        through = flow[self._cells]
        through = np.where(kept[self._sources] | ends[self._sources], through, 0.0)
        strong = most(through, edges) if edges < 1 else through > 0
        strong &= through > 0
        sources, targets = self._sources[strong], self._targets[strong]
        weights = self._weights[strong]
        leaves = ~self._columns["open"]
        kept, edge = connected(kept, sources, targets, ends, leaves)
        order = np.flatnonzero(kept)
        rest = order[order >= self._n_targets]
        rest = rest[np.argsort(-own[rest], kind="stable")]
        order = np.concatenate([order[order < self._n_targets], rest])
        place = np.full(len(kinds), -1)
        place[order] = np.arange(len(order))
        fields = {name: values[order] for name, values in self._columns.items()}
        return fields | {
            "sources": place[sources[edge]],
            "targets": place[targets[edge]],
            "weights": weights[edge],
        }
