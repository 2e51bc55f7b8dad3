"""Trees of layers beside trees by chance: silhouettes and cophenetic correlation.

Axes: draw, k (numbers of groups, from 2 on), layer (L).

Any set of layers can be drawn as a tree and cut into groups. So the same tree is drawn
and cut again for sets that keep what a reference keeps (`lens.clustering.reference_sets`).
What passes is more than that: groups, and also a slow change along depth, which is no
groups. How compact the groups are, the silhouette itself says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.clustering.reference_sets import (
    DRAWN,
    WHOLE_COLUMNS,
    ClusteredLayers,
    PairMoments,
    drawn_distances,
    pair_moments,
)
from lens.clustering.trees import LayerTree, depth_agreement, depth_terciles, silhouette
from lens.finding import Finding
from lens.layers.references import BEATEN, Reference
from lens.routers.gram import standardized_gram
from lens.routers.router_set import RouterSet
from lens.stats.draws import check_draws
from lens.stats.p_values import monte_carlo_p
from lens.words import p_value_text, plain

DRAWS = 200
SEED = 0
MOST_GROUPS = 12
LEVEL = 0.05
# Below this silhouette groups are not compact, however far beyond chance
# (Kaufman and Rousseeuw, 1990).
WEAK = 0.25
# So many draws share one generator; they can be made, kept and shown block by block.
BLOCK = 25
CLASSIC_METHOD = "coordinates of every layer shuffled"


@dataclass(frozen=True, eq=False)
class GroupNull:
    """Silhouette of the groups of a tree, for every number of groups, beside chance.

    Attributes:
        k: numbers of groups.
        silhouette: of the tree cut into k groups.
        mean, low, high: of drawn sets: mean, 2.5 % and 97.5 % quantile.
        p: share of drawn sets whose cut into k groups is at least as compact.
        p_any: the same, with all k looked at together (maximum statistic): below 5 %
            for any k in one of twenty drawn sets.
        cophenetic: of the tree; not a number with 2 layers.
        cophenetic_band: its mean, 2.5 % and 97.5 % quantile by chance.
        cophenetic_p: share of drawn sets whose tree keeps its distances as well.
        draws: sets that were drawn and clustered.
        seed: of the random numbers.
        method: what was drawn, for people.
        reference: what drawn sets keep.
    """

    k: Int[np.ndarray, " k"]
    silhouette: Float[np.ndarray, " k"]
    mean: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    p: Float[np.ndarray, " k"]
    p_any: Float[np.ndarray, " k"]
    cophenetic: float
    cophenetic_band: tuple[float, float, float]
    cophenetic_p: float
    draws: int
    seed: int
    method: str
    reference: Reference

    @property
    def best(self) -> int | None:
        """Place in `k` of the largest silhouette above chance; of those beyond chance, if any."""
        above = self.silhouette - self.mean
        if not np.isfinite(above).any():
            return None
        found = self.p_any <= LEVEL
        return int(np.nanargmax(np.where(found, above, np.nan) if found.any() else above))


def group_numbers(n_layers: int) -> Int[np.ndarray, " k"]:
    """Numbers of groups that have a silhouette: 2 to 12, and fewer than layers."""
    return np.arange(2, min(MOST_GROUPS, n_layers - 1) + 1)


def tree_scores(
    distances: Float[np.ndarray, "layer layer"], method: str
) -> Float[np.ndarray, " score"]:
    """Silhouettes of every cut of a tree, and its cophenetic correlation last."""
    from scipy.cluster.hierarchy import linkage

    condensed = distances[np.triu_indices(len(distances), 1)]
    return _scores(distances, linkage(condensed, method=method))


def _cuts(merges: np.ndarray) -> list[np.ndarray]:
    """Labels of the layers for each of `group_numbers`: all merges but the last ones.

    `lens.clustering.trees.cut_tree` gives the same groups, where no two merges are equally
    high, but goes through the tree for each number again.
    """
    n_layers = len(merges) + 1
    wanted = set(group_numbers(n_layers).tolist())
    labels, found = np.arange(n_layers), []
    for step, (first, second) in enumerate(merges[:, :2].astype(int)):
        if n_layers - step in wanted:
            found.append(labels.copy())
        labels[(labels == first) | (labels == second)] = n_layers + step
    return found[::-1]


def _scores(distances: np.ndarray, merges: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import cophenet

    scores = [silhouette(distances, labels) for labels in _cuts(merges)]
    heights = cophenet(merges)
    condensed = distances[np.triu_indices(len(distances), 1)]
    varied = np.ptp(heights) > 0 and np.ptp(condensed) > 0
    fit = np.corrcoef(heights, condensed)[0, 1] if varied else np.nan
    return np.array([*scores, fit])


def shuffled_classic(
    routers: RouterSet, draws: int, seed: int
) -> Iterator[Float[np.ndarray, "layer layer"]]:
    """Distances of the classic tree after the coordinates of every layer were shuffled."""
    rng = np.random.default_rng(seed)
    raw = routers.routers
    shuffled = np.empty_like(raw)
    for _ in range(draws):
        for layer in range(routers.n_layers):
            np.take(raw[layer], rng.permutation(routers.d_model), axis=0, out=shuffled[layer])
        inner = standardized_gram(RouterSet(shuffled.copy(), top_k=routers.top_k))
        squares = np.diag(inner)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * inner, 0))
        np.fill_diagonal(distances, 0)
        yield (distances + distances.T) / 2


def blocks(draws: int, seed: int, size: int = BLOCK) -> list[tuple[int, int]]:
    """The number of draws and the seed of each block of draws.

    Blocks can be made one after the other, kept, and shown early.
    """
    count = -(-draws // size)
    seeds = np.random.SeedSequence(seed).generate_state(count).tolist()
    return [(min(size, draws - i * size), seeds[i]) for i in range(count)]


def seconds(n_columns: int, draws: int) -> float:
    """About how long draws take: a rotation of all columns each, or, of many, of pairs once."""
    if n_columns <= WHOLE_COLUMNS:
        return draws * (1e-3 + 9e-8 * n_columns**2)
    return draws * 2e-3 + 4.5e-7 * n_columns**2


def drawn_scores(
    layers: ClusteredLayers,
    method: str,
    draws: int,
    seed: int,
    moments: PairMoments | None = None,
) -> Float[np.ndarray, "draw score"]:
    """`tree_scores` of one block of drawn sets."""
    drawn = drawn_distances(layers, draws, seed, moments)
    return np.stack([tree_scores(distances, method) for distances in drawn])


def shuffled_classic_scores(
    routers: RouterSet, draws: int, seed: int
) -> Float[np.ndarray, "draw score"]:
    """`tree_scores` of one block of shuffled sets for the classic tree."""
    return np.stack([tree_scores(d, "ward") for d in shuffled_classic(routers, draws, seed)])


def summary(
    tree: LayerTree,
    drawn: Float[np.ndarray, "draw score"],
    seed: int,
    reference: Reference = "shuffled",
    method: str = CLASSIC_METHOD,
) -> GroupNull:
    """A tree beside the scores of drawn sets; early ones can be summed up as well.

    With s_k the silhouette of the cut into k groups, in units of the spread of all draws
    and the observed one together, p_any of k is the share of sets whose largest s
    reaches s_k, the observed set counted as one of them.

    Args:
        tree: of the layers.
        drawn: from `drawn_scores`, or of `shuffled_classic_scores` for the classic tree.
        seed: of the draws.
        reference: what they keep.
        method: what was drawn, for people.
    """
    observed = _scores(tree.distances, tree.linkage)
    draws = len(drawn)
    with_it = np.vstack([observed, drawn])[:, :-1]
    silhouettes = observed[:-1]
    spread = with_it.std(axis=0)
    scaled = (with_it - with_it.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    scaled = np.where(np.isnan(scaled), -np.inf, scaled)
    if scaled.shape[1]:
        largest = scaled[1:].max(axis=1, keepdims=True)
        p_any = monte_carlo_p(np.where(np.isnan(silhouettes), np.nan, scaled[0]), largest)
        low, high = np.nanquantile(drawn[:, :-1], [0.025, 0.975], axis=0)
    else:
        p_any = low = high = np.empty(0)
    fits = drawn[:, -1]
    known = not np.isnan(fits).any()
    band = (fits.mean(), *np.quantile(fits, [0.025, 0.975])) if known else (np.nan,) * 3
    return GroupNull(
        k=group_numbers(len(tree.order)),
        silhouette=silhouettes,
        mean=drawn[:, :-1].mean(axis=0),
        low=low,
        high=high,
        p=monte_carlo_p(silhouettes, drawn[:, :-1]),
        p_any=p_any,
        cophenetic=float(observed[-1]),
        cophenetic_band=(float(band[0]), float(band[1]), float(band[2])),
        cophenetic_p=float(monte_carlo_p(observed[-1], fits)) if known else float("nan"),
        draws=draws,
        seed=seed,
        method=method,
        reference=reference,
    )


def group_null(
    layers: ClusteredLayers, tree: LayerTree, *, draws: int = DRAWS, seed: int = SEED
) -> GroupNull:
    """Silhouettes of a tree for every number of groups, beside those of drawn sets.

    Args:
        layers: what the tree was made of.
        tree: from `lens.clustering.trees.layer_tree`, of their gram and metric.
        draws: sets that keep what the reference keeps, clustered and cut in the same way.
        seed: of the random numbers.

    Raises:
        LensError: unknown metric, or a number of draws that cannot be asked for.
    """
    check_draws(draws)
    moments = pair_moments(layers)
    parts = [drawn_scores(layers, tree.method, n, own, moments) for n, own in blocks(draws, seed)]
    return summary(tree, np.concatenate(parts), seed, layers.reference, layers.words)


@dataclass(frozen=True)
class DepthAgreement:
    """Agreement of groups of layers with the early, middle and late thirds, beside chance.

    Attributes:
        value: adjusted Rand index, see `lens.clustering.trees.depth_agreement`.
        mean, low, high: of shuffled depths: mean, 2.5 % and 97.5 % quantile.
        p: share of shuffled depths that agree as well.
        draws, seed: of the shuffles.
    """

    value: float
    mean: float
    low: float
    high: float
    p: float
    draws: int
    seed: int


def depth_agreement_null(
    labels: Int[np.ndarray, " layer"], *, draws: int = 999, seed: int = SEED
) -> DepthAgreement:
    """Adjusted Rand index of groups against depth, with the groups fixed and depths shuffled.

    Reading it: chance is 0 on average; p is the share of random orders of the layers
    whose thirds agree with the groups as well as the real ones.
    """
    check_draws(draws)
    n = len(labels)
    members = np.eye(int(labels.max()) + 1)[labels]  # [L, group]
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    # How many layers of each group fall into each third of a shuffled depth.
    table = np.zeros((draws, members.shape[1], 3))
    terciles = depth_terciles(n)
    for third in range(3):
        table[:, :, third] = members[orders[:, terciles == third]].sum(axis=1)

    def pairs(counts: np.ndarray) -> np.ndarray:
        return counts * (counts - 1) / 2

    together = pairs(table).sum(axis=(1, 2))
    rows = pairs(members.sum(axis=0)).sum()
    columns = pairs(np.bincount(terciles, minlength=3)).sum()
    everything = max(n * (n - 1) / 2, 1)
    expected, largest = rows * columns / everything, (rows + columns) / 2
    drawn = np.ones(draws) if largest == expected else (together - expected) / (largest - expected)
    value = depth_agreement(labels)
    low, high = np.quantile(drawn, [0.025, 0.975])
    p_value = float(monte_carlo_p(value, drawn))
    return DepthAgreement(value, float(drawn.mean()), float(low), float(high), p_value, draws, seed)


def groups_in_words(null: GroupNull) -> str:
    """The finding: how many groups stand out, how compact they are, what drawn sets give."""
    best = null.best
    if best is None:
        return "Too few layers, or layers too much alike, to tell groups apart."
    value, groups = null.silhouette[best], int(null.k[best])
    p_value = float(null.p_any[best])
    cuts = "" if len(null.k) == 1 else f" for {len(null.k)} cuts together"
    low, high = plain(null.low[best]), plain(null.high[best])
    against = (
        f"silhouette {plain(value)}, {DRAWN[null.reference]} give {low} to {high} in 95 % of "
        f"{null.draws} draws; p {p_value_text(p_value, null.draws)}{cuts}"
    )
    beaten = BEATEN[null.reference]
    if not p_value <= LEVEL:
        return f"No number of groups stands out beyond {beaten}: at best {groups}, {against}."
    if value < WEAK:
        return (
            f"No compact groups, at best {groups} loose ones, though some layers are more alike "
            f"than {beaten} make them: {against}."
        )
    return f"{groups} groups stand out beyond {beaten}: {against}."


def groups_finding(null: GroupNull, drifts: bool = False) -> Finding:
    """The same as a finding, whose sentence says whether there are groups.

    Args:
        null: silhouettes beside those of drawn sets.
        drifts: whether early and late layers were found to differ: layers without clear-cut
            groups that differ by depth change along it.
    """
    best, detail = null.best, f"{groups_in_words(null)} Drawn sets: {null.method}."
    if best is None:
        few = "These layers are too few, or too much alike, to tell groups apart."
        return Finding(few, "not asked", detail)
    p_value, value = float(null.p_any[best]), float(null.silhouette[best])
    sentence = "No groups of layers stand out from chance."
    if p_value <= LEVEL:
        sentence = "No clear-cut groups, though some layers are more alike than chance makes them."
        if value >= WEAK:
            sentence = f"The layers form {int(null.k[best])} groups."
        elif drifts:
            sentence = "No clear-cut groups: layers drift with depth."
    return Finding(
        sentence,
        "found" if p_value <= LEVEL else "not told from chance",
        detail,
        effect=value,
        effect_name=f"silhouette of {int(null.k[best])} groups",
        null_mean=float(null.mean[best]),
        null_low=float(null.low[best]),
        null_high=float(null.high[best]),
        beats=DRAWN[null.reference],
        p_value=p_value,
        draws=null.draws,
        seed=null.seed,
    )
