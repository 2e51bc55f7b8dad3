"""Nodes of a graph taken out of the model, beside random directions in their place.

Axes: T tokens, D width, M modes, N draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from grok.dictionaries.attribution.modes import MODES, ModeRun, run_additions
from grok.dictionaries.attribution.reading import PromptFeatures
from grok.dictionaries.attribution.rows import Columns, Rows, Target
from grok.dictionaries.attribution.steering import turned
from grok.errors import GrokError
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.dictionaries.attribution.graph import RouteGraph
    from grok.runner.model import Model


class Node(NamedTuple):
    """A node of a graph, by its fields in `RouteGraph`."""

    kind: str
    site: str
    token: int
    group: int = -1
    feature: int = -1

    @classmethod
    def of(cls, graph: RouteGraph, which: int) -> Node:
        """That node of a graph."""
        fields = (graph.kinds, graph.sites, graph.tokens, graph.groups, graph.features)
        return cls(*(field[which].item() for field in fields))


@dataclass(frozen=True, eq=False)
class NodeCheck:
    """What a target does without some nodes.

    Attributes:
        predicted: change of the target, minus the sum of the nodes' edges to it.
        measured: by mode, in the order of `modes` [M].
        random: the same with all that they write turned together at random [M, N].
        modes: as `grok.dictionaries.attribution.modes.MODES`.
        value: of the target in the plain run; of a feature before its threshold.
    """

    predicted: float
    measured: np.ndarray
    random: np.ndarray
    modes: tuple[str, ...]
    value: float


def check_nodes(
    model: Model,
    read: PromptFeatures,
    nodes: Sequence[Node],
    target: Target,
    *,
    random: int = 8,
    seed: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> NodeCheck:
    """Takes nodes out together and measures what a router or a feature does without them.

    Args:
        model: that the prompt was read with, in float32.
        read: the prompt.
        nodes: features, words, errors and biases of the stream.
        target: a router's logit, the difference of two, or a feature that reads `router.input`.
        random: directions drawn as a control.
        seed: of the draws.
        progress: told (runs done, runs in all); what it raises ends the check.

    Raises:
        GrokError: no such target, or a node that nothing writes to the stream.
    """
    rows = Rows(model, read)
    covector = rows.covector(target)
    measure = _Measure(read, target, covector.value)
    row, columns = rows.of([covector])[0], rows.columns
    added: dict[HookPoint, np.ndarray] = {}
    predicted = 0.0
    for node in nodes:
        for point, value in _written(read, node).items():
            there = added.setdefault(point, np.zeros((read.tokens.size, value.size)))
            there[node.token] -= value
        predicted -= float(row[_column(columns, node)])
    steps = len(MODES) * (1 + random)
    measured, drawn = np.zeros(len(MODES)), np.zeros((len(MODES), random))
    rng = np.random.default_rng(seed)
    for i in range(1 + random):
        own = added if not i else _turned(added, rng)
        for m, mode in enumerate(MODES):
            found = measure.of(run_additions(model, read, own, mode, measure.layer))
            if i:
                drawn[m, i - 1] = found
            else:
                measured[m] = found
            if progress is not None:
                progress(i * len(MODES) + m + 1, steps)
    return NodeCheck(predicted, measured, drawn, MODES, covector.value)


class _Measure:
    """How far a target is from what it was.

    Attributes:
        layer: whose router's inputs it needs; None where logits do.
    """

    def __init__(self, read: PromptFeatures, target: Target, value: float) -> None:
        self._read, self._target, self._value = read, target, value
        self._token = read.position(target.token)
        self.layer: int | None = None
        if target.kind == "feature":
            design = read.dictionary.design
            point = design.sources[design.groups[target.group].reads[0]]
            if point.site != "router.input":
                raise GrokError(
                    f"{point}: a feature's strength is measured where it reads router.input. "
                    "Test what the router makes of the node instead."
                )
            self.layer = point.layer
        elif target.kind != "router":
            raise GrokError(f"kind is {target.kind!r:.40}; expected router or feature.")

    def of(self, run: ModeRun) -> float:
        """The change of the target in a run."""
        read, target = self._read, self._target
        if run.inputs is None:
            z = run.logits[read.row(target.layer), self._token]
            other = z.mean() if target.other is None else z[target.other]
            return float(z[target.index] - other) - self._value
        params = read.dictionary.params
        column = np.asarray(params["encoder"][target.group][0][:, target.index], np.float64)
        bias = float(params["encoder_bias"][target.group][target.index])
        return float(run.inputs[self._token] @ column) + bias - self._value


def _written(read: PromptFeatures, node: Node) -> dict[HookPoint, np.ndarray]:
    """What a node adds to each site of the stream [D]."""
    design, params, t = read.dictionary.design, read.dictionary.params, node.token
    if node.kind == "feature":
        strength = float(read.features[node.group][t, node.feature])
        rows = np.asarray(params["decoder"][node.group][node.feature], np.float64)
        writes = design.groups[node.group].writes
        return {design.targets[one]: strength * row for one, row in zip(writes, rows, strict=True)}
    points = {str(point): point for point in (*design.targets, *read.values)}
    point = points.get(node.site)
    if point in design.targets and node.kind in ("error", "bias", "skip"):
        m = design.targets.index(point)
        found = {
            "error": lambda: read.errors[m][t],
            "bias": lambda: params["decoder_bias"][m],
            "skip": lambda: read.skips[m][t],
        }[node.kind]()
        return {point: np.asarray(found, np.float64)}
    if point is not None and node.kind in ("embedding", "experts"):
        return {point: read.values[point][t].astype(np.float64)}
    raise GrokError(f"Nothing writes {node.kind!r:.40} to the stream, so it can't be taken out.")


def _column(columns: Columns, node: Node) -> int:
    same = (columns.kinds == node.kind) & (columns.tokens == node.token)
    if node.kind == "feature":
        same &= (columns.groups == node.group) & (columns.features == node.feature)
    else:
        same &= columns.sites == node.site
    found = np.flatnonzero(same)
    if len(found) != 1:
        raise GrokError(f"There is no node {tuple(node)} in this prompt.")
    return int(found[0])


def _turned(
    added: dict[HookPoint, np.ndarray], rng: np.random.Generator
) -> dict[HookPoint, np.ndarray]:
    """All rows [T, D] of all sites `turned` together."""
    every = np.concatenate(list(added.values()))
    there = every.any(1)
    every[there] = turned(every[there], rng)
    return dict(zip(added, np.split(every, len(added)), strict=True))
