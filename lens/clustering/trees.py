"""Trees of layers, cuts through them, and what a cut is worth.

Axes: layer (L). Distances come from `lens.layers.similarity.layer_distances`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.layers.similarity import layer_distances
from lens.recipe.steps import remembered
from lens.routers.gram import RouterGram, standardized_gram
from lens.routers.router_set import RouterSet

LINKAGES = ("average", "complete", "single", "ward")


@dataclass(frozen=True, eq=False)
class LayerTree:
    """A hierarchy of layers.

    Attributes:
        linkage: one merge a row, in scipy's form: two clusters, height, size.
        order: rows of the layers from left to right, so ordered that neighbours
            are as alike as the tree allows.
        distances: what was clustered.
        cophenetic: correlation between the heights at which layers meet and their
            distances. Near 1 the tree tells what the distances say; well below 0.7
            it doesn't. Not a number when it is undefined.
        method: an entry of `LINKAGES`.
    """

    linkage: Float[np.ndarray, "merge 4"]
    order: Int[np.ndarray, " layer"]
    distances: Float[np.ndarray, "layer layer"]
    cophenetic: float
    method: str = "average"


def tree_of_distances(distances: Float[np.ndarray, "layer layer"], method: str) -> LayerTree:
    """The hierarchy of layers with these distances, leaves in optimal order."""
    from scipy.cluster.hierarchy import cophenet, leaves_list, linkage

    if method not in LINKAGES:
        raise LensError(
            f"linkage: found {str(method)[:40]!r}; expected one of {', '.join(LINKAGES)}."
        )
    n = len(distances)
    if n < 2:
        raise LensError(
            f"A tree of layers needs at least 2 layers; this router set has {n}. "
            "Load a model with more layers."
        )
    condensed = distances[np.triu_indices(n, 1)]
    merges = linkage(condensed, method=method, optimal_ordering=True)
    heights = cophenet(merges)
    varied = np.ptp(heights) > 0 and np.ptp(condensed) > 0
    agreement = float(np.corrcoef(heights, condensed)[0, 1]) if varied else float("nan")
    return LayerTree(merges, leaves_list(merges).astype(np.int64), distances, agreement, method)


def layer_tree(gram: RouterGram, metric: str = "cka", method: str = "average") -> LayerTree:
    """Layers clustered by how alike their routers are.

    The distances are √(2 − 2·similarity) (for "euclidean" the distance itself);
    with CKA and with the cosine they are Euclidean, so that Ward's method is in
    its right as well.

    Raises:
        LensError: unknown metric or linkage, or fewer than 2 layers.
    """
    return tree_of_distances(layer_distances(gram, metric), method)


def classic_tree(routers: RouterSet) -> LayerTree:
    """Ward's linkage of raw routers, flattened and standardised (classic).

    Depends on how experts are labelled and on what softmax cannot see; offered
    beside `layer_tree` because it is the variant people know.
    """
    return tree_of_distances(standardized_distances(routers), "ward")


def standardized_distances(
    routers: RouterSet, view: str = "raw"
) -> Float[np.ndarray, "layer layer"]:
    """Euclidean distances between flattened routers after standardising each weight."""
    inner = standardized_gram(routers, view)
    squares = np.diag(inner)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * inner, 0))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return distances


@remembered
def cut_tree(tree: LayerTree, k: int) -> Int[np.ndarray, " layer"]:
    """The tree cut into at most k clusters, numbered 1 … k from the left.

    Fewer than k come out only when layers are exactly equally far apart.

    Raises:
        LensError: k is not between 1 and the number of layers.
    """
    from scipy.cluster.hierarchy import fcluster

    n = len(tree.order)
    if not 1 <= k <= n:
        raise LensError(f"clusters: found {k}; expected 1 to {n}, the number of layers.")
    found = fcluster(tree.linkage, k, criterion="maxclust")
    number: dict[int, int] = {}
    for layer in tree.order:
        number.setdefault(int(found[layer]), len(number) + 1)
    return np.array([number[int(cluster)] for cluster in found])


def silhouette(
    distances: Float[np.ndarray, "layer layer"], labels: Int[np.ndarray, " layer"]
) -> float:
    """Mean silhouette of a clustering.

    For each layer (b − a) / max(a, b), with a its mean distance to its own
    cluster and b that to the nearest other one; 0 for a layer on its own.
    Reading it: 1 is tight and apart, 0 is arbitrary, below 0 wrongly assigned.
    Not a number with one cluster or with a cluster for each layer.
    Source: Rousseeuw, 1987.
    """
    clusters, index = np.unique(labels, return_inverse=True)
    n, k = len(index), len(clusters)
    if not 1 < k < n:
        return float("nan")
    members = np.eye(k)[index]  # [L, k]
    sizes = members.sum(axis=0)
    total = distances @ members
    own = np.arange(n), index
    own_group = total[own] / np.maximum(sizes[index] - 1, 1)
    mean = total / sizes
    mean[own] = np.inf
    nearest = mean.min(axis=1)
    larger = np.maximum(own_group, nearest)
    values = np.divide(nearest - own_group, larger, out=np.zeros(n), where=larger > 0)
    return float(np.where(sizes[index] > 1, values, 0).mean())


def depth_terciles(n_layers: int) -> Int[np.ndarray, " layer"]:
    """0 for the early, 1 for the middle and 2 for the late third of the layers."""
    return np.arange(n_layers) * 3 // n_layers


def depth_agreement(labels: Int[np.ndarray, " layer"]) -> float:
    """Adjusted Rand index between a clustering and the early, middle and late third.

    Reading it: 1 is the same partition, 0 what chance gives, below 0 less than
    chance. Source: Hubert and Arabie, 1985.
    """
    terciles = depth_terciles(len(labels))
    _, index = np.unique(labels, return_inverse=True)
    table = np.zeros((index.max() + 1, 3))
    np.add.at(table, (index, terciles), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together = pairs(table)
    rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    everything = pairs(np.array([len(labels)]))
    expected = rows * columns / everything if everything else 0.0
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def dendrogram_segments(
    tree: LayerTree,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The lines of a dendrogram as (x0, y0, x1, y1), three for each merge.

    x is the position in `tree.order`, from 0; y the height of the merge. The
    three lines of a merge are its left leg, its bar and its right leg.
    """
    n = len(tree.order)
    x, y = node_places(tree)
    lines = np.empty((n - 1, 3, 4))
    for i, (left, bar, right) in enumerate(dendrogram_nodes(tree)):
        lines[i] = [
            (x[left], y[left], x[left], y[bar]),
            (x[left], y[bar], x[right], y[bar]),
            (x[right], y[bar], x[right], y[right]),
        ]
    x0, y0, x1, y1 = lines.reshape(-1, 4).T.copy()
    return x0, y0, x1, y1


def node_places(tree: LayerTree) -> tuple[np.ndarray, np.ndarray]:
    """Place of every node, layers first and then merges: middle of its bar, and its height."""
    n = len(tree.order)
    x, y = np.zeros(2 * n - 1), np.zeros(2 * n - 1)
    x[tree.order] = np.arange(n)
    for i, (first, second, height, _) in enumerate(tree.linkage):
        x[n + i], y[n + i] = (x[int(first)] + x[int(second)]) / 2, height
    return x, y


def dendrogram_nodes(tree: LayerTree) -> Int[np.ndarray, "merge 3"]:
    """The node that each line of `dendrogram_segments` belongs to.

    A leg belongs to the node below it, whose stem it is; a bar to its own merge.
    """
    n = len(tree.order)
    x, _ = node_places(tree)
    nodes = np.empty((n - 1, 3), np.int64)
    for i, pair in enumerate(tree.linkage[:, :2].astype(int)):
        left, right = sorted(pair.tolist(), key=lambda node: x[node])
        nodes[i] = left, n + i, right
    return nodes
