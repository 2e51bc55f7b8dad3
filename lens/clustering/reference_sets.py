"""Sets of layers without anything to find, by what they keep: trees and maps are set against them.

Axes: set (drawn ones), layer (L), pair (of layers, in the order of `np.triu_indices`).

Any set of layers can be drawn as a tree, cut into groups and laid out as a map. So the same is
done with sets that keep something of the layers and make the rest arbitrary:

- "shared": every layer is a random mixture of all layers. What all layers share stays, see
  `lens.layers.shared_directions`; the largest shared directions can be taken away before, from
  the layers that are clustered as from those they are set against.
- "unrelated": every layer is turned at random. It keeps its own router, and nothing that it has
  in common with others.
- "shuffled": every layer's coordinates are shuffled, which also keeps how unevenly its weight
  lies over coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.layers.draws import rotation_draws
from lens.layers.pair_null import layer_null, turned_similarities
from lens.layers.references import Reference
from lens.layers.shared_directions import (
    FEWEST_LAYERS,
    MIXED_COLUMNS,
    SharedDirections,
    columns_without_shared,
    mixed_columns,
    mixed_layers,
    without_shared,
)
from lens.layers.similarity import LAYER_METRICS, distances_of, layer_similarity
from lens.routers.gram import RouterGram, router_gram
from lens.routers.matching import SUBSET_EXPERTS
from lens.routers.random_rotations import layer_corners, unrelated_sets
from lens.routers.router_set import RouterSet
from lens.routers.shuffled_coordinates import permuted_sets
from lens.words import percent

SEED = 0
# Up to so many columns whole sets are drawn: 5 ms turned, 20 ms mixed. Beyond, pair by pair.
WHOLE_COLUMNS = 512
MOMENT_DRAWS = 400
# Sets that tell how much layers and pairs vary: mixed ones of a few layers, shuffled whole ones.
MIXED_SETS = 10
SHUFFLED_SETS = 3
FEWEST_MIXED = 5  # layers of a set that tells layers from pairs

# What was drawn, for sentences, and how.
DRAWN: dict[Reference, str] = {
    "shared": "layers mixed from all layers",
    "unrelated": "unrelated layers",
    "shuffled": "layers with shuffled coordinates",
}

Distances = Float[np.ndarray, "layer layer"]
Columns = Float[np.ndarray, "layer d_model expert"]


@dataclass(frozen=True)
class ClusterSettings:
    """What is clustered, and what it is set against.

    Attributes:
        metric: an id of `lens.layers.similarity.LAYER_METRICS`.
        view: of the routers, "canonical" or "raw".
        reference: what drawn sets keep.
        directions: how many that all layers share are taken away before; None by the rule of
            `without_shared`. Of no meaning for references other than "shared".
    """

    metric: str = "cka"
    view: str = "canonical"
    reference: Reference = "shared"
    directions: int | None = None


def default_reference(n_layers: int, view: str) -> Reference:
    """What layers are set against if nothing is chosen: what they share, where that is known."""
    return "shared" if view == "canonical" and n_layers >= FEWEST_LAYERS else "unrelated"


@dataclass(frozen=True, eq=False)
class ClusteredLayers:
    """The layers of a tree or of a map, and what they are set against.

    Attributes:
        routers: the set.
        gram: inner products of what is clustered: of the routers in their view, or what is
            left of them without the largest directions that all layers share.
        settings: the metric and the reference.
        shared: what was taken away; None for references other than "shared".
    """

    routers: RouterSet
    gram: RouterGram
    settings: ClusterSettings
    shared: SharedDirections | None = None

    @property
    def metric(self) -> str:
        return self.settings.metric

    @property
    def reference(self) -> Reference:
        return self.settings.reference

    @property
    def unchanged(self) -> bool:
        """Whether layers are as similar as the routers themselves: nothing was taken away."""
        return self.shared is None or (not self.shared.directions and self.metric != "euclidean")

    def columns(self) -> Columns:
        """The columns that `gram` holds the products of."""
        columns = self.routers.columns(self.settings.view)
        if self.shared is None:
            return columns
        return columns_without_shared(columns, self.shared.directions)

    @property
    def pairwise(self) -> bool:
        """Whether sets are drawn pair by pair, because there are too many columns."""
        return self.gram.n_layers * self.gram.n_experts > WHOLE_COLUMNS and self.gram.n_layers > 3

    @property
    def words(self) -> str:
        """What was drawn, and what was taken away before."""
        drawn = {
            "shared": "every layer mixed at random from all layers",
            "unrelated": "every layer turned at random",
            "shuffled": "coordinates of every layer shuffled",
        }[self.reference]
        if self.pairwise:
            drawn += ", similarities drawn pair by pair from what such layers have"
        m = self.shared.directions if self.shared else 0
        if self.shared is None or not m:
            return drawn
        taken = "the largest shared direction" if m == 1 else f"the {m} largest shared directions"
        share = percent(self.shared.share)
        return f"{drawn}; {taken} taken away before, {share} of the second moment"


def clustered_layers(
    routers: RouterSet,
    settings: ClusterSettings,
    *,
    gram: RouterGram | None = None,
    shared: SharedDirections | None = None,
) -> ClusteredLayers:
    """What is clustered of a router set.

    Args:
        routers: the set.
        settings: metric, view and reference.
        gram: inner products in this view, if known.
        shared: from `without_shared` with these directions, if known.

    Raises:
        LensError: layers cannot be set against what they share.
    """
    if settings.reference != "shared":
        gram = router_gram(routers, settings.view) if gram is None else gram
        return ClusteredLayers(routers, gram, settings)
    if default_reference(routers.n_layers, settings.view) != "shared":
        raise LensError(
            f"reference: found 'shared' for {routers.n_layers} layers in the {settings.view} view; "
            f"expected {FEWEST_LAYERS} layers or more in the canonical one. Choose 'unrelated'."
        )
    if shared is None:
        gram = router_gram(routers) if gram is None else gram
        shared = without_shared(gram, settings.directions)
    return ClusteredLayers(routers, shared.gram, settings, shared)


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Similarity of each pair of layers in drawn sets.

    Attributes:
        mean, sd: of each pair by itself.
        skewness: of all pairs.
        layer_sd: spread of what a layer adds to its similarity with every other one.
    """

    mean: Float[np.ndarray, " pair"]
    sd: Float[np.ndarray, " pair"]
    skewness: float
    layer_sd: float = 0.0


def pair_moments(layers: ClusteredLayers) -> PairMoments | None:
    """Moments for draws of a set too large to be drawn as a whole; None for others."""
    if not layers.pairwise:
        return None
    gram, metric = layers.gram, layers.metric
    if layers.reference == "shared":
        most = max(MIXED_COLUMNS, FEWEST_MIXED * (gram.n_experts - 1))
        drawn = mixed_layers(gram, MIXED_SETS, SEED, columns=most)
        return _mixed_moments(gram.n_layers, np.stack([layer_similarity(s, metric) for s in drawn]))
    if layers.reference == "shuffled":
        sets = permuted_sets(layers.columns(), SHUFFLED_SETS, SEED)
        return _shuffled_moments(np.stack([layer_similarity(one, metric) for one in sets]))
    return _turned_moments(gram, metric)


def _turned_moments(gram: RouterGram, metric: str) -> PairMoments:
    """Of each pair by its own rotation null: rotations are independent pair by pair."""
    upper = np.triu_indices(gram.n_layers, 1)
    if metric == "matched_cosine" and gram.n_experts > SUBSET_EXPERTS:
        null = layer_null(gram, metric, draws=rotation_draws(metric, 1, gram.n_experts))
        return PairMoments(null.mean[upper], null.sd[upper], 0.0)
    draws = rotation_draws(metric, len(upper[0]), gram.n_experts, MOMENT_DRAWS)
    turns = layer_corners(gram, draws, np.random.default_rng(SEED))
    rows = [values for _, values in turned_similarities(gram, metric, turns)]
    values = np.concatenate(rows, axis=1)
    mean, sd = values.mean(axis=0), values.std(axis=0)
    skewness = float((((values - mean) / np.maximum(sd, 1e-300)) ** 3).mean())
    return PairMoments(mean, sd, skewness)


def _mixed_moments(n_layers: int, similarity: Float[np.ndarray, "set layer layer"]) -> PairMoments:
    """Of mixed layers, which are alike in distribution: one mean, and two spreads."""
    found = _layers_and_pairs(similarity)
    n_pairs = n_layers * (n_layers - 1) // 2
    mean, sd = np.full(n_pairs, found.mean), np.full(n_pairs, found.sd)
    return PairMoments(mean, sd, found.skewness, found.layer_sd)


def _shuffled_moments(similarity: Float[np.ndarray, "set layer layer"]) -> PairMoments:
    """Of shuffled layers, each of which keeps what it adds: weights that few coordinates carry."""
    found = _layers_and_pairs(similarity)
    first, second = np.triu_indices(similarity.shape[1], 1)
    mean = found.mean + found.layers[first] + found.layers[second]
    return PairMoments(mean, np.full(len(mean), found.sd), found.skewness)


@dataclass(frozen=True, eq=False)
class _LayersAndPairs:
    """Similarity s_ab of layers as mean + u_a + u_b + e_ab: u of each layer, spreads of u and e."""

    mean: float
    layers: Float[np.ndarray, " layer"]
    layer_sd: float
    sd: float
    skewness: float


def _layers_and_pairs(similarity: Float[np.ndarray, "set layer layer"]) -> _LayersAndPairs:
    """Least squares in every set, and unbiased spreads over all sets (Griffing, 1956, method 4)."""
    sets, n = similarity.shape[:2]
    first, second = np.triu_indices(n, 1)
    n_pairs = len(first)
    values = similarity[:, first, second]
    design = np.zeros((n_pairs, n))
    design[np.arange(n_pairs), first] = design[np.arange(n_pairs), second] = 1
    inverse = np.linalg.pinv(design)
    left = np.eye(n_pairs) - design @ inverse
    rest = values @ left
    layers = values @ inverse.T
    layers -= layers.mean(axis=1, keepdims=True)
    variance = (rest**2).sum() / (sets * (n_pairs - n))
    third = (rest**3).sum() / (sets * (left**3).sum())
    of_layers = (layers**2).sum() / (sets * (n - 1)) - variance / (n - 2)
    return _LayersAndPairs(
        mean=float(values.mean()),
        layers=layers.mean(axis=0),
        layer_sd=float(np.sqrt(max(of_layers, 0.0))),
        sd=float(np.sqrt(variance)),
        skewness=float(third / max(variance, 1e-300) ** 1.5),
    )


def drawn_distances(
    layers: ClusteredLayers, draws: int, seed: int, moments: PairMoments | None = None
) -> Iterator[Distances]:
    """Distances between the layers of sets that keep what the reference keeps.

    Up to 512 columns whole sets are drawn, exactly. Beyond, each pair of layers gets a
    similarity of its own from a gamma distribution (Pearson's type III) with the mean,
    the spread and the skewness that pairs of such layers have, and mixed layers a part
    that each adds to its similarity with all others. What hangs together in triples of
    pairs is left out; it vanishes with L / (d · E), d the effective dimension. Where that
    is small, cophenetic correlations come out too low: of noise in 24 layers of 8 experts
    that share a lognormal γ of σ 1 or a subspace of 32, 25 and 15 of 100 trees have
    p ≤ 0.05 for theirs, and 12 of 100 for any number of groups (40 sets each).

    Args:
        layers: what is clustered.
        draws: how many sets.
        seed: of the random numbers.
        moments: `pair_moments` of the same layers, if known already.
    """
    metric = layers.metric
    if not layers.pairwise:
        for drawn in _whole_sets(layers, draws, seed):
            yield distances_of(layer_similarity(drawn, metric), metric)
        return
    moments = moments or pair_moments(layers)
    assert moments is not None  # of what is drawn pair by pair
    rng = np.random.default_rng(seed)
    n = layers.gram.n_layers
    upper = np.triu_indices(n, 1)
    low, high = LAYER_METRICS[metric].domain
    for _ in range(draws):
        own = moments.layer_sd * rng.standard_normal(n)
        noise = moments.sd * _skewed(rng, moments.skewness, len(upper[0]))
        similarity = np.zeros((n, n))
        values = moments.mean + own[upper[0]] + own[upper[1]] + noise
        similarity[upper] = np.clip(values, low, high)
        yield distances_of(similarity + similarity.T + np.eye(n), metric)


def _whole_sets(layers: ClusteredLayers, draws: int, seed: int) -> Iterator[RouterGram]:
    if layers.reference == "shared":
        return mixed_layers(layers.gram, draws, seed)
    if layers.reference == "shuffled":
        return permuted_sets(layers.columns(), draws, seed)
    return unrelated_sets(layers.gram, draws, seed)


def _skewed(rng: np.random.Generator, skewness: float, size: int) -> Float[np.ndarray, " pair"]:
    """Numbers of mean 0 and spread 1 from a gamma distribution of this skewness."""
    if abs(skewness) < 0.01:
        return rng.standard_normal(size)
    shape = 4 / skewness**2
    return np.sign(skewness) * (rng.gamma(shape, size=size) - shape) / shape**0.5


def drawn_columns(layers: ClusteredLayers, columns: Columns, seed: int) -> Columns:
    """One drawn set, as columns: for what looks at coordinates itself.

    Args:
        layers: what is clustered.
        columns: its `columns`.
        seed: of the random numbers.
    """
    if layers.reference == "shared":
        return mixed_columns(columns, seed)
    rng = np.random.default_rng(seed)
    if layers.reference == "unrelated":
        return _turned_columns(columns, rng)
    orders = [rng.permutation(columns.shape[1]) for _ in columns]
    return np.stack([layer[order] for layer, order in zip(columns, orders, strict=True)])


def _turned_columns(columns: Columns, rng: np.random.Generator) -> Columns:
    """Every layer in a random frame: U Σ Vᵀ → F Σ Vᵀ."""
    _, sizes, right = np.linalg.svd(columns, full_matrices=False)
    shape = (len(columns), columns.shape[1], sizes.shape[1])
    frames = np.linalg.qr(rng.standard_normal(shape))[0]
    frames *= rng.choice([-1.0, 1.0], (shape[0], 1, shape[2]))  # which QR leaves to itself
    return ((frames * sizes[:, None]) @ right).astype(columns.dtype)
