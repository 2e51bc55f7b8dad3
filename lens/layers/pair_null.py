"""Pairs of layers beside unrelated directions: every pair and its null.

Axes: layer (L), draw, expert (E).

The null is the rotation null (`lens.routers.random_rotations`): each pair keeps the two routers as
they are and lies at a random angle. A thousand draws of it for all pairs take seconds,
because one set of random corners serves every pair. The permutation null
(`lens.routers.shuffled_coordinates`) costs a product of all columns a draw; its pairs are pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from lens.finding import Finding
from lens.layers.draws import DRAWS, SEED, affordable_matchings
from lens.layers.references import BEATEN, Reference
from lens.layers.similarity import check_metric, layer_similarity
from lens.recipe.steps import remembered
from lens.routers.gram import RouterGram
from lens.routers.matching import SUBSET_EXPERTS, mean_matched
from lens.routers.random_rotations import layer_corners, spectrum
from lens.stats.draws import check_draws
from lens.stats.exponential_tail import exponential_tail_p, pooled_tail_p
from lens.stats.p_values import benjamini_hochberg

# A batch of drawn blocks in memory, in numbers.
BATCH = 2**23
# With more experts all pairs of a series share their corners.
MANY_EXPERTS = 16

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is to do; may raise to stop."""


@dataclass(frozen=True, eq=False)
class LayerNull:
    """All pairs of layers against what a reference gives.

    Attributes:
        metric: id of the similarity.
        similarity: what is set against the null; where directions were taken away, that of
            what is left.
        mean, sd: of the null of each pair; not a number on the diagonal.
        z: similarity less the mean, over the spread.
        p: share of drawn pairs at least as alike, see `lens.stats.exponential_tail`.
        q: the same, adjusted for all pairs being looked at (Benjamini–Hochberg).
        draws: how many there were, of each pair (rotation) or of the set (permutation).
        seed: of the random numbers.
        method: what was drawn, for people.
        reference: what the pairs are set against.
        directions: m, how many directions that all layers share were taken away first.
        share: part of the second moment that went with them.
        sets: similarities in each drawn set of layers, where whole sets are drawn and all
            their pairs together are the null of each pair.
    """

    metric: str
    similarity: Float[np.ndarray, "layer layer"]
    mean: Float[np.ndarray, "layer layer"]
    sd: Float[np.ndarray, "layer layer"]
    z: Float[np.ndarray, "layer layer"]
    p: Float[np.ndarray, "layer layer"]
    q: Float[np.ndarray, "layer layer"]
    draws: int
    seed: int
    method: str
    reference: Reference = "unrelated"
    directions: int = 0
    share: float = 0.0
    sets: Float[np.ndarray, "draw drawn_layer drawn_layer"] | None = None

    def found(self, level: float = 0.05) -> int:
        """Number of pairs that are more alike than the null at this false discovery rate."""
        return int(np.count_nonzero(self.q[np.triu_indices(len(self.q), 1)] <= level))


def pairs_finding(null: LayerNull) -> Finding:
    """How many pairs of layers beat what they are set against."""
    found, pairs = null.found(), len(null.q) * (len(null.q) - 1) // 2
    beaten = f"alike more than {BEATEN[null.reference]}"
    said = f"{found:,} of {pairs:,} pairs of layers are {beaten}"
    if pairs == 1:
        said = f"The one pair of layers is {'' if found else 'not '}{beaten}"
    none = f"No pair of layers is alike beyond {BEATEN[null.reference]}"
    return Finding(
        f"{said if found or pairs == 1 else none}.",
        "found" if found else "not told from chance",
        f"{said} at a false discovery rate of 5 % ({null.method}; {null.draws:,} draws, "
        f"seed {null.seed}).",
        effect=found / pairs,
        effect_name="share of pairs",
        beats=null.method,
        draws=null.draws,
        seed=null.seed,
    )


def place_among_pairs(
    similarity: Float[np.ndarray, "layer layer"],
) -> Float[np.ndarray, "layer layer"]:
    """Share of all other pairs that are less alike than each pair; ties count half.

    Needs no null: 0.5 is the pair in the middle. Not a number on the diagonal, nor where
    there is one pair only.
    """
    upper = np.triu_indices(len(similarity), 1)
    values = similarity[upper]
    place = np.full(similarity.shape, np.nan)
    if len(values) > 1:
        ordered = np.sort(values)
        below = np.searchsorted(ordered, values, "left")
        ties = np.searchsorted(ordered, values, "right") - below - 1
        place[upper] = place.T[upper] = (below + ties / 2) / (len(values) - 1)
    return place


def layer_null(
    gram: RouterGram,
    metric: str = "cka",
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    progress: Progress | None = None,
) -> LayerNull:
    """Every pair of layers against unrelated directions: the rotation null.

    Each layer keeps its own geometry and nothing of what it has in common with others, so
    that a model whose layers all read the same few directions beats it everywhere; see
    `lens.layers.shared_directions` for the null that keeps those.

    Matching more than 10 experts takes an assignment a pair and draw; there the pairs are
    pooled: random pairs of layers are drawn, about 10 seconds of them, and stand for all.

    Unchanged by what leaves the metric unchanged. Reading it: z of 2 is twice the
    spread of unrelated pairs above their mean; q of at most 0.05 marks the pairs of
    which at most one in twenty is expected to be there by chance.

    Args:
        gram: inner products of the view to be compared.
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
        draws: random rotations of each pair. Metrics that match experts do it anew in each.
        seed: of the rotations.
        progress: told about every layer that is done.

    Raises:
        LensError: unknown metric, or a number of draws that cannot be asked for.
    """
    check_draws(draws)
    similarity = layer_similarity(gram, metric)
    n = gram.n_layers
    if metric == "matched_cosine" and gram.n_experts > SUBSET_EXPERTS and n > 1:
        return _pooled_matchings(gram, similarity, draws, seed, progress)
    mean, sd, p = (np.full((n, n), np.nan) for _ in range(3))
    turns = layer_corners(gram, draws, np.random.default_rng(seed))
    for a, values in turned_similarities(gram, metric, turns):
        rest = slice(a + 1, None)
        mean[a, rest], sd[a, rest] = values.mean(axis=0), values.std(axis=0)
        p[a, rest] = exponential_tail_p(similarity[a, rest], values)
        if progress is not None:
            progress(a + 1, n - 1)
    method = "each layer turned at random"
    if metric == "matched_cosine":
        method += ", matched anew in every draw"
    return _summary(metric, similarity, (mean, sd, p), draws, seed, method)


def _pooled_matchings(
    gram: RouterGram,
    similarity: Float[np.ndarray, "layer layer"],
    draws: int,
    seed: int,
    progress: Progress | None,
) -> LayerNull:
    """The matched cosine of many experts against random pairs of layers, turned at random."""
    rng = np.random.default_rng(seed)
    n_draws = min(draws, 50)
    upper = np.triu_indices(gram.n_layers, 1)
    wanted = max(affordable_matchings(gram.n_experts) // n_draws, 4)
    chosen = rng.permutation(len(upper[0]))[:wanted]
    turns = layer_corners(gram, n_draws, rng)
    pool = []
    for done, pair in enumerate(chosen):
        two = [upper[0][pair], upper[1][pair]]
        routers = RouterGram(gram.own[two], gram.sums[two], gram.d_model)
        pool.append(next(turned_similarities(routers, "matched_cosine", turns))[1][:, 0])
        if progress is not None:
            progress(done + 1, len(chosen))
    values = np.concatenate(pool)
    same = np.ones_like(similarity)
    p = np.full_like(similarity, np.nan)
    p[upper] = pooled_tail_p(similarity[upper], values)
    return _summary(
        "matched_cosine",
        similarity,
        (values.mean() * same, values.std() * same, p),
        n_draws,
        seed,
        f"layers turned at random and matched anew, {len(chosen)} pairs of layers pooled",
    )


@remembered
def drawn_pairs(null: LayerNull) -> Float[np.ndarray, " draw"]:
    """Similarities of all pairs of layers in all drawn sets together, from the least up."""
    assert null.sets is not None, "whole sets were drawn"
    return np.sort(null.sets[:, *np.triu_indices(null.sets.shape[1], 1)].ravel())


def permutation_null(
    gram: RouterGram,
    sets: Iterable[RouterGram],
    against: LayerNull,
    *,
    seed: int = SEED,
) -> Iterator[LayerNull]:
    """Every pair of layers against shuffled coordinates, pairs pooled: draw by draw.

    A draw costs a product of all columns, so there are few, and the result so far is
    given after each. Every pair of a draw is measured in the mean and spread of its
    own rotation null, and all of them together are the null of each pair: 2,016 values
    a draw for 64 layers. Pooling assumes that shuffling changes all pairs alike, in
    those units.

    Args:
        gram: inner products of the view to be compared.
        sets: draws, from `lens.routers.shuffled_coordinates.permuted_sets`.
        against: the rotation null of the same set and metric.
        seed: the one that `sets` was made with, to be kept with the result.
    """
    metric = against.metric
    similarity = layer_similarity(gram, metric)
    upper = np.triu_indices(gram.n_layers, 1)
    z = (similarity[upper] - against.mean[upper]) / against.sd[upper]
    pooled = np.empty(0)
    for draws, drawn in enumerate(sets, start=1):
        values = layer_similarity(drawn, metric)[upper]
        pooled = np.append(pooled, (values - against.mean[upper]) / against.sd[upper])
        p = np.full(similarity.shape, np.nan)
        p[upper] = pooled_tail_p(z, pooled)
        centre, spread = pooled.mean(), max(float(pooled.std()), 1e-9)
        yield replace(
            _summary(
                metric,
                similarity,
                (against.mean + centre * against.sd, spread * against.sd, p),
                draws,
                seed,
                f"coordinates of each layer shuffled, {len(pooled):,} pairs pooled",
            ),
            reference="shuffled",
        )


def _summary(
    metric: str,
    similarity: np.ndarray,
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
    draws: int,
    seed: int,
    method: str,
) -> LayerNull:
    """Each pair's place in its null, of mean, spread and p of each, above the diagonal."""
    mean, sd, p = drawn
    upper = np.triu_indices(len(similarity), 1)
    z, q = np.full(similarity.shape, np.nan), np.full(similarity.shape, np.nan)
    z[upper] = (similarity[upper] - mean[upper]) / np.maximum(sd[upper], 1e-300)
    q[upper] = benjamini_hochberg(p[upper])
    mean, sd, z, p, q = (_mirrored(one) for one in (mean, sd, z, p, q))
    return LayerNull(
        metric,
        similarity,
        mean=mean,
        sd=sd,
        z=z,
        p=p,
        q=q,
        draws=draws,
        seed=seed,
        method=method,
    )


def _mirrored(upper: np.ndarray) -> np.ndarray:
    """A symmetric matrix from its part above the diagonal; the diagonal is not a number."""
    whole = np.where(np.tri(len(upper), dtype=bool), upper.T, upper)
    np.fill_diagonal(whole, np.nan)
    return whole


def null_of_pair(
    gram: RouterGram, a: int, b: int, metric: str, *, draws: int = DRAWS, seed: int = SEED
) -> Float[np.ndarray, " draw"]:
    """Similarities of two layers of the set after each was turned at random; sorted."""
    pair = RouterGram(gram.own[[a, b]], gram.sums[[a, b]], gram.d_model)
    turns = layer_corners(pair, check_draws(draws), np.random.default_rng(seed))
    _, values = next(turned_similarities(pair, metric, turns))
    return np.sort(values[:, 0])


def adjacent_null(
    gram: RouterGram, metric: str = "cka", *, draws: int = DRAWS, seed: int = SEED
) -> Float[np.ndarray, "draw pair"]:
    """Similarities of adjacent layers, draw by draw, if every layer were turned at random.

    Each pair gets rotations of its own: turning all layers makes those of adjacent
    pairs independent of each other, so a row is one draw of the whole series. With more
    than 16 experts the pairs take the same rotations in random order.
    """
    rng = np.random.default_rng(seed)
    check_draws(draws)
    many = gram.n_experts > MANY_EXPERTS
    turns = layer_corners(gram, draws, rng) if many else None
    columns = []
    for layer in range(gram.n_layers - 1):
        two = [layer, layer + 1]
        pair = RouterGram(gram.own[two], gram.sums[two], gram.d_model)
        drawn = layer_corners(gram, draws, rng) if turns is None else turns
        _, values = next(turned_similarities(pair, metric, drawn))
        columns.append(rng.permutation(values[:, 0]) if many else values[:, 0])
    return np.stack(columns, axis=1) if columns else np.empty((draws, 0))


def turned_similarities(
    gram: RouterGram, metric: str, turns: Float[np.ndarray, "draw rank rank"]
) -> Iterator[tuple[int, Float[np.ndarray, "draw pair"]]]:
    """For every layer but the last, its drawn similarities with the layers after it."""
    check_metric(metric)
    n, n_experts, draws = gram.n_layers, gram.n_experts, len(turns)
    if n < 2:
        return
    values, roots = spectrum(gram.own, gram.d_model)
    rank = values.shape[1]
    turns = turns[:, :rank, :rank]  # a corner of a corner
    squares = np.einsum("lr->l", values)  # of the whole router
    if metric in ("cka", "principal_angles"):
        weights, size = values, np.sqrt(np.einsum("lr,lr->l", values, values))
        if metric == "principal_angles":
            weights = (values > 0).astype(float)
            size = weights.sum(axis=1)
        squared = turns**2
        for a in range(n - 1):
            after = slice(a + 1, None)
            both = np.minimum(size[a], size[after]) if metric != "cka" else size[a] * size[after]
            yield a, (weights[a] @ squared) @ weights[after].T / both
    elif metric == "matched_cosine":
        unit = roots / np.sqrt(np.einsum("ler,ler->le", roots, roots))[:, :, None]
        unit, narrow = unit.astype(np.float32), turns.astype(np.float32)
        batch = max(1, BATCH // (draws * n_experts**2))
        for a in range(n - 1):
            half = (unit[a] @ narrow).reshape(-1, rank)  # [draw · E, R]
            parts = []
            for start in range(a + 1, n, batch):
                some = unit[start : start + batch]
                cosines = half @ some.reshape(-1, rank).T
                blocks = cosines.reshape(draws, n_experts, len(some), n_experts)
                parts.append(mean_matched(blocks.transpose(0, 2, 1, 3)))
            yield a, np.concatenate(parts, axis=1)
    else:  # what depends on the trace of the product alone; weights sum to 0 as in `null`
        flat = turns.reshape(draws, -1)
        for a in range(n - 1):
            after = slice(a + 1, None)
            mixed = roots[a].T @ roots[after]  # [pair, R, R]
            trace = flat @ mixed.reshape(len(mixed), -1).T
            if metric == "euclidean":
                distance = np.sqrt(np.maximum(squares[a] + squares[after] - 2 * trace, 0))
                yield a, 1 / (1 + distance)
            else:
                yield a, trace / np.sqrt(squares[a] * squares[after])
