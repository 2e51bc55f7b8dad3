"""Influence of nodes of an attribution graph, which to look into next, and what may be left out.

A row's sizes, divided by their sum, say how its target is shared out. Influence follows the
shares from the weighted targets down to the leaves. No JAX here.

Axes: R rows (targets, then features that were looked into), C columns (what rows are made of).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SMALLEST = 1e-10
MISSED = ("error", "experts", "other feature")
FIXED = ("bias", "own bias", "attention bias", "skip")


class Scores(NamedTuple):
    """How much of a graph the dictionary explains, from 0 to 1.

    replacement: the share of embeddings among all influence that ends in embeddings or in what is
    missed; completeness: the mean share of inputs that are not missed, over nodes by influence;
    completeness_inner: the same over nodes that have inputs, without leaves, which always
    count as complete. words, fixed, missed, unread: the shares of all influence that end in
    embeddings, in biases and skips, in what the dictionary misses, and in features that were not
    looked into; together 1.
    """

    replacement: float
    completeness: float
    completeness_inner: float
    words: float
    fixed: float
    missed: float
    unread: float


def shares(rows: np.ndarray) -> np.ndarray:
    """Sizes of rows [R, C] over their sums."""
    sizes = np.abs(rows)
    found: np.ndarray = sizes / np.maximum(sizes.sum(1, keepdims=True), SMALLEST)
    return found


def influence(parts: np.ndarray, weights: np.ndarray, column_of: np.ndarray) -> np.ndarray:
    """Influence of each column [C] on the weighted rows, over paths of any length.

    Args:
        parts: shares [R, C].
        weights: of rows that are targets [R]; 0 for others.
        column_of: the column that a row looks into [R]; -1 for targets.
    """
    whole = through(parts, weights, column_of)
    found: np.ndarray = whole.astype(parts.dtype) @ parts
    return found.astype(np.float64)


def through(parts: np.ndarray, weights: np.ndarray, column_of: np.ndarray) -> np.ndarray:
    """What goes through each row [R]: its weight, and its influence; as for `influence`."""
    inner = column_of >= 0
    among = np.zeros((len(parts), len(parts)))
    among[:, inner] = parts[:, column_of[inner]]
    total = now = np.asarray(weights, np.float64)
    while now.any():  # ends: a feature is made of what was there before it
        now = now @ among
        total = total + now
    return total


def scored(
    parts: np.ndarray, weights: np.ndarray, column_of: np.ndarray, kinds: np.ndarray
) -> Scores:
    """Replacement and completeness of a graph.

    Args:
        parts, weights, column_of: as for `influence`.
        kinds: of columns [C]; features that were not looked into count as missed.
    """
    own = through(parts, weights, column_of)
    found = own @ parts
    closed = np.ones(len(kinds), bool)
    closed[column_of[column_of >= 0]] = False
    unread = (kinds == "feature") & closed
    missed = np.isin(kinds, MISSED) | unread
    words, lost = found[kinds == "embedding"].sum(), found[missed].sum()
    kept = 1 - parts[:, missed].sum(1)
    leaves = found.sum() - found[column_of[column_of >= 0]].sum()
    inner = float(kept @ own / max(own.sum(), SMALLEST))
    whole = float((kept @ own + leaves) / max(own.sum() + leaves, SMALLEST))
    ends = [kinds == "embedding", np.isin(kinds, FIXED), np.isin(kinds, MISSED), unread]
    all_ends = max(sum(found[one].sum() for one in ends), SMALLEST)
    shares_of = (float(found[one].sum() / all_ends) for one in ends)
    return Scores(float(words / max(words + lost, SMALLEST)), whole, inner, *shares_of)


def most(values: np.ndarray, share: float) -> np.ndarray:
    """True at the fewest of some values [N] whose sum is a share of all."""
    order = np.argsort(-values, kind="stable")
    running = np.cumsum(values[order])
    n = int(np.searchsorted(running, share * running[-1] * (1 - 1e-12)) + 1) if len(order) else 0
    kept = np.zeros(len(values), bool)
    kept[order[:n]] = True
    return kept


def connected(
    nodes: np.ndarray,
    sources: np.ndarray,
    targets: np.ndarray,
    ends: np.ndarray,
    leaves: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and edges without those that lead nowhere.

    Args:
        nodes: kept [N].
        sources, targets: of edges, as nodes [M].
        ends: nodes that need no edge out [N]: targets and embeddings.
        leaves: nodes that need no edge in [N].

    Returns:
        Kept nodes [N] and kept edges [M].
    """
    nodes = nodes | ends
    while True:
        edges = nodes[sources] & nodes[targets]
        has_out, has_in = np.zeros_like(nodes), np.zeros_like(nodes)
        has_out[sources[edges]] = True
        has_in[targets[edges]] = True
        left = nodes & (ends | (has_out & (has_in | leaves)))
        if (left == nodes).all():
            return nodes, edges
        nodes = left
