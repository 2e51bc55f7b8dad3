"""Support of the branches of a tree: how often each comes back when coordinates are drawn anew.

Axes: merge (the branches of a tree, in the order of `LayerTree.linkage`), layer (L), draw,
d_model (d), expert (E).

Take as many coordinates of the residual stream as there are, with replacement, the same
ones for all layers; compute similarities and the tree anew. The support of a branch is
the share of such trees in which the same layers, and no others, form a branch. It is
stability against which coordinates are looked at, not the probability that the branch is
true: a tree of layers without groups has branches that come back too, because the layers
that happen to be most alike still are in most of the draws. So the branches of sets that
keep what a reference keeps (`lens.clustering.reference_sets`) get their support in the
same way.

Source: Felsenstein, 1985, for trees of species.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.clustering.reference_sets import ClusteredLayers, Columns, drawn_columns
from lens.clustering.tree_null import blocks
from lens.clustering.trees import LayerTree
from lens.errors import LensError
from lens.layers.bootstrap import resampled_counts
from lens.layers.references import Reference
from lens.layers.similarity import distances_of, layer_similarity
from lens.routers.gram import gram_of_columns
from lens.routers.router_set import RouterSet

DRAWS = 100
SEED = 0
BLOCK = 10
# Branches of drawn sets that stand beside the tree's own, and the sets.
DRAWN_BRANCHES = 100
MOST_SETS = 10
# Of the supports of drawn branches, for the level that a branch should exceed.
QUANTILE = 0.95


@dataclass(frozen=True, eq=False)
class BranchSupport:
    """The branches of a tree with their bootstrap support, beside that of drawn sets.

    Attributes:
        members: which layers each branch holds.
        support: share of resampled trees that have the branch. The last branch, of all
            layers, is in every tree: not a number.
        drawn: support of branches of trees of drawn sets, all of them together.
        level: 95 % quantile of `drawn`; not a number when there are none.
        draws: resampled trees, of this set and of each drawn one.
        sets: drawn sets.
        seed: of the random numbers.
        reference: what drawn sets keep.
    """

    members: Bool[np.ndarray, "merge layer"]
    support: Float[np.ndarray, " merge"]
    drawn: Float[np.ndarray, " branch"]
    level: float
    draws: int
    sets: int
    seed: int
    reference: Reference

    @property
    def stable(self) -> Bool[np.ndarray, " merge"]:
        """Branches with more support than 95 of 100 branches of drawn sets have."""
        return np.nan_to_num(self.support, nan=0.0) > np.nan_to_num(self.level, nan=np.inf)


def branches(linkage: Float[np.ndarray, "merge 4"]) -> Bool[np.ndarray, "merge layer"]:
    """Which layers each merge of a tree brings together."""
    n = len(linkage) + 1
    members = np.zeros((2 * n - 1, n), bool)
    members[:n] = np.eye(n, dtype=bool)
    for i, (first, second) in enumerate(linkage[:, :2].astype(int)):
        members[n + i] = members[first] | members[second]
    return members[n:]


def recurrences(
    members: Bool[np.ndarray, "merge layer"],
    columns: Columns,
    metric: str,
    method: str,
    draws: int,
    seed: int,
) -> Int[np.ndarray, " merge"]:
    """In how many trees of resampled coordinates each branch comes back: one block of draws."""
    known = {row.tobytes(): i for i, row in enumerate(np.packbits(members, axis=1))}
    found = np.zeros(len(members), np.int64)
    for linkage in resampled_trees(columns, metric, method, draws, seed):
        for row in np.packbits(branches(linkage), axis=1):
            place = known.get(row.tobytes())
            if place is not None:
                found[place] += 1
    return found


def resampled_trees(
    columns: Columns, metric: str, method: str, draws: int, seed: int
) -> Iterator[Float[np.ndarray, "merge 4"]]:
    """Trees of the layers over coordinates taken anew, as scipy's merges.

    A coordinate taken m times counts m times in every inner product: its row is
    multiplied by √m.
    """
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        counts = resampled_counts(rng, 1, columns.shape[1])[0]
        kept = np.flatnonzero(counts)
        weighted = columns[:, kept] * np.sqrt(counts[kept])[:, None]
        yield _merges(weighted, metric, method)


def _merges(columns: Columns, metric: str, method: str) -> Float[np.ndarray, "merge 4"]:
    from scipy.cluster.hierarchy import linkage

    distances = distances_of(layer_similarity(gram_of_columns(columns), metric), metric)
    return linkage(distances[np.triu_indices(len(distances), 1)], method=method)


def drawn_support(
    layers: ClusteredLayers, method: str, draws: int, seed: int
) -> Float[np.ndarray, " branch"]:
    """Support of the branches of one drawn set."""
    columns, metric = drawn_columns(layers, layers.columns(), seed), layers.metric
    members = branches(_merges(columns, metric, method))[:-1]
    counts = [
        recurrences(members, columns, metric, method, n, own)
        for n, own in blocks(draws, seed, BLOCK)
    ]
    return np.sum(counts, axis=0) / draws


def sets_wanted(n_layers: int) -> int:
    """Drawn sets that give about a hundred branches, 10 at most; none for 2 layers."""
    if n_layers < 3:
        return 0
    return int(np.clip(-(-DRAWN_BRANCHES // (n_layers - 2)), 1, MOST_SETS))


def check_support_draws(draws: int) -> int:
    """A number of draws as given, or an error that says how many can be asked for."""
    if not 10 <= draws <= 10_000:
        raise LensError(f"draws: found {draws}; expected 10 to 10,000.")
    return int(draws)


def summary(
    members: Bool[np.ndarray, "merge layer"],
    counts: Int[np.ndarray, " merge"],
    draws: int,
    drawn: list[Float[np.ndarray, " branch"]],
    seed: int,
    reference: Reference,
) -> BranchSupport:
    """Counts of `recurrences` so far beside what drawn sets gave so far."""
    support = counts / max(draws, 1)
    support[-1] = np.nan
    pool = np.sort(np.concatenate(drawn)) if drawn else np.empty(0)
    level = float(np.quantile(pool, QUANTILE)) if len(pool) else float("nan")
    return BranchSupport(members, support, pool, level, draws, len(drawn), seed, reference)


def branch_support(
    layers: ClusteredLayers, tree: LayerTree, *, draws: int = DRAWS, seed: int = SEED
) -> BranchSupport:
    """Bootstrap support of every branch of a tree, beside that of branches of drawn sets.

    Reading it: a branch in 95 of 100 resampled trees does not hang on which coordinates
    are looked at. It should also be well above `level`, which 95 of 100 branches of
    drawn sets stay below.

    Args:
        layers: what the tree was made of.
        tree: from `lens.clustering.trees.layer_tree`, of their gram and metric.
        draws: resampled trees, of this set and of each drawn one.
        seed: of the random numbers.

    Raises:
        LensError: unknown metric, or a number of draws that cannot be asked for.
    """
    check_support_draws(draws)
    members, columns = branches(tree.linkage), layers.columns()
    counts = sum(
        recurrences(members, columns, layers.metric, tree.method, n, own)
        for n, own in blocks(draws, seed, BLOCK)
    )
    drawn = [
        drawn_support(layers, tree.method, draws, own)
        for own in set_seeds(seed, sets_wanted(len(columns)))
    ]
    return summary(members, np.asarray(counts), draws, drawn, seed, layers.reference)


def set_seeds(seed: int, sets: int) -> list[int]:
    """A seed for each drawn set, none of them one of the tree's own blocks."""
    return np.random.SeedSequence([seed, 1]).generate_state(sets).tolist() if sets else []


def seconds_a_draw(routers: RouterSet) -> float:
    """About how long one resampled tree takes: weights copied, multiplied, and pairs summed up."""
    n_columns = routers.n_layers * routers.n_experts
    copied = 7e-9 * n_columns * routers.d_model
    return 3e-4 + copied + n_columns**2 * (routers.d_model / 3e11 + 5e-9)
