"""The numbers behind the figures as CSV text; the header row names units.

Numbers keep nine significant digits, enough for float32 to come back exactly.
What is not a number is an empty field.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lens.similarity import LAYER_METRICS

if TYPE_CHECKING:
    from lens.clustering import LayerTree
    from lens.embedding import LayerMap
    from lens.experts import ExpertMeasures
    from lens.matching import ExpertChains
    from lens.similarity import AdjacentLayers, LayerPair


def table_csv(columns: Mapping[str, Any]) -> str:
    """Columns of equal length as CSV, their names (with units) as the header row."""
    return _text([list(columns), *zip(*(list(c) for c in columns.values()), strict=True)])


def matrix_csv(
    matrix: Float[np.ndarray, "row column"],
    rows: Sequence[str],
    columns: Sequence[str],
    corner: str,
) -> str:
    """A matrix as CSV with names on both sides; the corner says what the numbers are."""
    body = ([name, *values] for name, values in zip(rows, matrix, strict=True))
    return _text([[corner, *columns], *body])


def layer_similarity_csv(
    similarity: Float[np.ndarray, "layer layer"], labels: Sequence[str], metric: str
) -> str:
    """Similarity of every layer with every other."""
    entry = LAYER_METRICS[metric]
    low, high = entry.domain
    return matrix_csv(similarity, labels, labels, f"{entry.label} ({low:g} to {high:g})")


def adjacent_csv(adjacent: AdjacentLayers, labels: Sequence[str], metric: str) -> str:
    """One row for each pair of adjacent layers."""
    pairs = np.asarray(adjacent.pairs)
    return table_csv(
        {
            "layer": np.asarray(labels)[pairs[:, 0]],
            "next layer": [labels[b] for b in pairs[:, 1]],
            f"similarity ({LAYER_METRICS[metric].label})": adjacent.similarity,
            "L2 norm of the change (units of the weights)": adjacent.change_l2,
            "classic transition (|Δ| > 2σ; 1 yes, 0 no)": np.asarray(
                adjacent.classic_transitions, dtype=int
            ),
        }
    )


def pair_csv(pair: LayerPair, labels_a: Sequence[str], labels_b: Sequence[str]) -> str:
    """Cosines between the experts of two layers."""
    return matrix_csv(pair.cosines, labels_a, labels_b, "cosine (−1 to 1)")


def expert_measures_csv(measures: ExpertMeasures, labels: Sequence[str]) -> str:
    """One row for each expert of each layer."""
    layer, expert = (grid.ravel() for grid in np.indices(measures.norm.shape))
    return table_csv(
        {
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": expert,
            "L2 norm (units of the weights)": measures.norm.ravel(),
            "variance (weights squared)": measures.variance.ravel(),
            "L1 / L2 (no unit)": measures.l1_l2.ravel(),
            "P(selected), isotropic prior (0 to 1)": measures.breadth.ravel(),
            "highest cosine with another layer's expert (−1 to 1)": measures.max_similarity.ravel(),
        }
    )


def expert_pairs_csv(
    values: Float[np.ndarray, "layer expert expert"], labels: Sequence[str]
) -> str:
    """Correlation of experts within each layer, and its mean over layers by index (classic)."""
    a, b = np.triu_indices(values.shape[1], 1)
    columns: dict[str, Any] = {"expert": a, "with expert": b}
    columns["mean over layers by index (classic; correlation, −1 to 1)"] = values[:, a, b].mean(0)
    for label, layer in zip(labels, values, strict=True):
        columns[f"{label} (correlation, −1 to 1)"] = layer[a, b]
    return table_csv(columns)


def across_layers_csv(
    similarity: Float[np.ndarray, "expert layer layer"], labels: Sequence[str]
) -> str:
    """Cosine between equal indexes of two layers, one column an index (classic)."""
    a, b = np.triu_indices(len(labels), 1)
    columns: dict[str, Any] = {
        "layer": np.asarray(labels)[a],
        "with layer": np.asarray(labels)[b],
    }
    for expert, matrix in enumerate(similarity):
        columns[f"E{expert} (cosine, −1 to 1)"] = matrix[a, b]
    return table_csv(columns)


def chains_csv(chains: ExpertChains, labels: Sequence[str]) -> str:
    """Experts followed from layer to layer by their best match, one row a chain and step."""
    n_chains, n_layers = chains.expert.shape
    chain, layer = (grid.ravel() for grid in np.indices((n_chains, n_layers)))
    score = np.concatenate([np.asarray(chains.score), np.full((n_chains, 1), np.nan)], axis=1)
    return table_csv(
        {
            "chain": chain,
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": np.asarray(chains.expert).ravel(),
            "cosine with its match in the next layer (−1 to 1)": score.ravel(),
        }
    )


def linkage_csv(tree: LayerTree, labels: Sequence[str]) -> str:
    """The merges of a tree, lowest first; groups that a merge made are named by its number."""
    names = list(labels) + [f"merge {i}" for i in range(len(tree.linkage))]
    return table_csv(
        {
            "merge": np.arange(len(tree.linkage)),
            "first": [names[int(i)] for i in tree.linkage[:, 0]],
            "second": [names[int(i)] for i in tree.linkage[:, 1]],
            "height (distance)": tree.linkage[:, 2],
            "layers in the group": tree.linkage[:, 3].astype(int),
        }
    )


def clusters_csv(labels: Sequence[str], clusters: Mapping[str, Int[np.ndarray, " layer"]]) -> str:
    """The group of every layer, one column a way of grouping."""
    return table_csv({"layer": list(labels), **clusters})


def layer_map_csv(layer_map: LayerMap, labels: Sequence[str]) -> str:
    """Places of the layers on a map."""
    columns: dict[str, Any] = {"layer": list(labels)}
    for axis in range(layer_map.points.shape[1]):
        share = "no unit"
        if layer_map.explained is not None:
            share = f"{float(layer_map.explained[axis]):.2%} of variance"
        columns[f"{layer_map.method} {axis + 1} ({share})"] = layer_map.points[:, axis]
    return table_csv(columns)


def token_layer_csv(
    values: np.ndarray, what: str, pieces: Sequence[str], labels: Sequence[str]
) -> str:
    """A value for every token (rows) in every layer (columns); `what` names it with its unit."""
    rows = [f"{t} {piece}" for t, piece in enumerate(pieces)]
    return matrix_csv(np.asarray(values).T, rows, labels, what)


def load_csv(
    load: Float[np.ndarray, "layer expert"], labels: Sequence[str], low: float, high: float
) -> str:
    """Load of every expert with the band of choices at random."""
    layer, expert = (grid.ravel() for grid in np.indices(load.shape))
    return table_csv(
        {
            "layer": np.asarray(labels)[layer],
            "expert (index in its layer)": expert,
            "load (share of assignments)": load.ravel(),
            "chance, low (2.5 %)": np.full(load.size, low),
            "chance, high (97.5 %)": np.full(load.size, high),
        }
    )


def _text(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_field(value) for value in row] for row in rows)
    return out.getvalue()


def _field(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return f"{float(value):.9g}" if np.isfinite(value) else ""
    return value
