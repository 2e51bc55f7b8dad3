"""The numbers behind the figures as CSV text; the header row names units.

Numbers keep nine significant digits, enough for float32 to come back exactly.
What is not a number is an empty field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lens.experts.unequal_experts import DEALT, MIXTURES
from lens.layers.pair_null import LayerNull, place_among_pairs
from lens.layers.references import REFERENCE_LABELS
from lens.layers.similarity import LAYER_METRICS
from lens.storage.csv_text import matrix_csv, table_csv
from lens.words import percent

if TYPE_CHECKING:
    from lens.clustering.maps import LayerMap
    from lens.clustering.trees import LayerTree
    from lens.experts.chains import SignificantChains
    from lens.experts.measures import ExpertMeasures
    from lens.experts.unequal_experts import ExpertInequality
    from lens.layers.similarity import AdjacentLayers, LayerPair
    from lens.layers.transitions import Transitions


def layer_similarity_csv(
    similarity: Float[np.ndarray, "layer layer"], labels: Sequence[str], metric: str
) -> str:
    """Similarity of every layer with every other."""
    entry = LAYER_METRICS[metric]
    low, high = entry.domain
    return matrix_csv(similarity, labels, labels, f"{entry.label} ({low:g} to {high:g})")


def layer_null_csv(
    null: LayerNull, similarity: Float[np.ndarray, "layer layer"], labels: Sequence[str]
) -> str:
    """One row for each pair of layers: similarity, its place among all pairs, null, z, p and q."""
    a, b = np.triu_indices(len(labels), 1)
    entry = LAYER_METRICS[null.metric]
    low, high = entry.domain
    drawn = f"{null.method}; {null.draws} draws, seed {null.seed}"
    share = percent(null.share, 1)
    taken = f"{null.directions} shared directions taken away, {share} of the second moment"
    return table_csv(
        {
            "layer": np.asarray(labels)[a],
            "with layer": np.asarray(labels)[b],
            f"{entry.label} ({low:g} to {high:g})": similarity[a, b],
            "place among all pairs (0 to 1)": place_among_pairs(similarity)[a, b],
            f"the same with {taken}": null.similarity[a, b],
            f"mean by chance ({REFERENCE_LABELS[null.reference]}: {drawn})": null.mean[a, b],
            "spread by chance": null.sd[a, b],
            "z (spreads)": null.z[a, b],
            "p": null.p[a, b],
            "q (Benjamini–Hochberg over all pairs)": null.q[a, b],
        }
    )


def adjacent_csv(
    adjacent: AdjacentLayers,
    labels: Sequence[str],
    metric: str,
    found: Transitions | None = None,
) -> str:
    """One row for each pair of adjacent layers."""
    pairs = np.asarray(adjacent.pairs)
    against: dict[str, Any] = {}
    if found is not None:
        against = {
            "change from the pair before": found.change,
            f"p of the change, all pairs together ({found.draws} draws, seed {found.seed})": (
                found.p
            ),
            "transition (beyond chance and |Δ| > 2σ; 1 yes, 0 no)": found.found.astype(int),
        }
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
        | against
    )


def pair_csv(pair: LayerPair, labels_a: Sequence[str], labels_b: Sequence[str]) -> str:
    """Cosines between the experts of two layers."""
    return matrix_csv(pair.cosines, labels_a, labels_b, "cosine (−1 to 1)")


def expert_measures_csv(
    measures: ExpertMeasures, labels: Sequence[str], lengths: ExpertInequality | None = None
) -> str:
    """One row for each expert of each layer; with `lengths` beside equal experts."""
    against: dict[str, Any] = {}
    if lengths is not None:
        against = {
            "part of the layer's squared length (0 to 1)": lengths.value.ravel(),
            "p of the part, against equal experts": lengths.p.ravel(),
            "q (Benjamini–Hochberg over all experts)": lengths.q.ravel(),
            "equal experts that gave p": np.where(lengths.dealt, DEALT, MIXTURES).ravel(),
        }
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
        | against
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


def significant_chains_csv(found: SignificantChains, labels: Sequence[str]) -> str:
    """One row for each match between adjacent layers, and the chain it belongs to."""
    links = found.links
    if links is None:
        return table_csv({"layer": [], "expert (index in its layer)": []})
    link, expert = (grid.ravel() for grid in np.indices(links.score.shape))
    number = {
        (chain.first + i, e): n
        for n, chain in enumerate(found.chains)
        for i, e in enumerate(chain.experts)
    }
    drawn = f"experts mixed within their layers; {links.draws} draws a link, seed {links.seed}"
    return table_csv(
        {
            "chain": [number[int(a), int(e)] for a, e in zip(link, expert, strict=True)],
            "layer": np.asarray(labels)[link],
            "expert (index in its layer)": expert,
            "next layer": [labels[int(a) + 1] for a in link],
            "matched expert": links.partner[link, expert],
            "cosine (−1 to 1)": links.score[link, expert],
            f"p ({drawn})": links.p[link, expert],
            "q (Benjamini–Hochberg over all links)": links.q[link, expert],
            f"beats mixed experts (q ≤ {found.level:g}; 1 yes, 0 no)": (
                links.q[link, expert] <= found.level
            ).astype(int),
            "p of the step, all its experts together": links.step_p[link],
            "q of the step (Benjamini–Hochberg over all steps)": links.step_q[link],
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
            share = f"{percent(float(layer_map.explained[axis]), 2)} of variance"
        columns[f"{layer_map.method} {axis + 1} ({share})"] = layer_map.points[:, axis]
    return table_csv(columns)


def token_layer_csv(
    values: np.ndarray, what: str, pieces: Sequence[str], labels: Sequence[str]
) -> str:
    """A value for every token (rows) in every layer (columns); `what` names it with its unit."""
    rows = [f"{t} {piece}" for t, piece in enumerate(pieces)]
    return matrix_csv(np.asarray(values).T, rows, labels, what)
