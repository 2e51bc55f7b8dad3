"""Layers that read what all layers share, and no more: the null of "these two are alike".

Axes: layer (L), expert (E), direction (of experts, E − 1 a layer; of the residual stream, m),
column (n = L · (E − 1), all directions of experts of all layers), draw.

Routers of one model read one residual stream, a few directions of which are far larger
than the others for every layer: scales of norms, outlier dimensions, a subspace that all
layers write to. Those alone make any two layers more alike than unrelated directions are.

Put the columns of all layers side by side, X, and multiply them by a random rotation of
the n columns: X → X · O. Every new layer is a random mixture of all layers. The second
moment X Xᵀ stays as it is, exactly, and with it all that the layers share; which layer
reads what is lost. Where all layers draw their columns from one normal distribution,
whatever its covariance, the real set is one more such draw.

Where a few directions carry most of the second moment, little else can be seen beside
them. They can be taken away first: the m largest principal directions of all columns.
Every draw has the very same ones, because it has the same second moment, so that taking
them away needs no correction and no layers that are left out of saying which they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from lens.errors import LensError
from lens.layers.pair_null import LayerNull
from lens.layers.similarity import layer_similarity
from lens.routers.effective_dimension import unbiased_dimension
from lens.routers.expert_mixing import random_orthogonal, zero_sum_basis
from lens.routers.gram import RouterGram, gram_of_columns
from lens.stats.exponential_tail import pooled_tail_p
from lens.stats.p_values import benjamini_hochberg
from lens.words import percent

SEED = 0
CHOICES = (0, 1, 3, 10)
FEWEST_LAYERS = 3  # that share something
# Without a number asked for, directions are taken away until none carries more than this.
LARGEST_SHARE = 0.1
# Directions that are left out of the size of a layer, at most.
LEFT_OUT = 3
# Similarities of drawn pairs that the null consists of, and columns mixed at once.
ENOUGH = 20_000
FEWEST_DRAWS = 10
MOST_DRAWS = 999
MIXED_COLUMNS = 1024
# Passes over the columns that the largest directions are found in, and directions more
# than are asked for, so that the last of them is found as well.
PASSES = 8
EXTRA = 10


@dataclass(frozen=True, eq=False)
class SharedDirections:
    """The directions that were taken away, and what is left of the layers.

    Attributes:
        gram: inner products of what is left, every layer of total squared length 1.
        directions: m, how many were taken away.
        share: part of the second moment that went with them, each layer counted alike.
        largest: part of what is left that its own largest direction carries.
        by_rule: whether m was chosen by the rule of `without_shared`.
    """

    gram: RouterGram
    directions: int
    share: float
    largest: float
    by_rule: bool

    @cached_property
    def dimensions(self) -> float:
        """Effective dimension of what is left, without bias."""
        return unbiased_dimension(self.gram)


def without_shared(gram: RouterGram, directions: int | None = None) -> SharedDirections:
    """Layers without the m largest directions that all of them share.

    The rule: the smallest m of 0, 1, 3 and 10 after which no direction carries more than
    a tenth of what is left. Layers count alike, whatever the size of their weights; their
    size is measured without the largest three directions, of which each has more or
    less by chance.

    Args:
        gram: inner products, canonical.
        directions: m; None for the rule.

    Raises:
        LensError: too few layers, or more directions than they can tell.
    """
    some = [check_directions(gram, directions)] if directions is not None else CHOICES
    for m in [one for one in some if one <= most_directions(gram)]:
        found = _rest_of_products(gram, m) if gram.held is not None else _rest_of_columns(gram, m)
        rest, share, largest = found
        if largest <= LARGEST_SHARE:
            break
    if isinstance(rest, np.ndarray):  # columns
        rest = gram_of_columns(rest.transpose(0, 2, 1), gram.layer_ids)
    return SharedDirections(rest, m, share, largest, by_rule=directions is None)


def most_directions(gram: RouterGram) -> int:
    """How many directions can be taken away: one for eight columns, and 10 at most."""
    return min(gram.n_layers * (gram.n_experts - 1) // 8, CHOICES[-1])


def check_directions(gram: RouterGram, directions: int) -> int:
    """A number of shared directions as given, or an error that says how many can be told."""
    most = most_directions(gram)
    if gram.n_layers < FEWEST_LAYERS or not 0 <= directions <= most:
        raise LensError(
            f"directions: {directions} were to be taken away from {gram.n_layers} layers of "
            f"{gram.n_experts} experts; expected 0 to {most}, and {FEWEST_LAYERS} layers or "
            "more. Choose fewer."
        )
    return int(directions)


def _rest_of_products(gram: RouterGram, m: int) -> tuple[RouterGram, float, float]:
    assert gram.held is not None
    n_layers, n_experts = gram.n_layers, gram.n_experts
    flat = gram.held.reshape(n_layers * n_experts, -1)

    def scaled(size: np.ndarray) -> np.ndarray:
        unit = np.repeat(1 / np.sqrt(size), n_experts)
        return flat * unit[:, None] * unit

    def squares(products: np.ndarray) -> np.ndarray:
        return np.einsum("ii->i", products).reshape(n_layers, n_experts).sum(axis=1)

    size = squares(flat)
    for _ in range(2 if m else 0):
        products = scaled(size)
        size = size * squares(products - _largest(products, min(m, LEFT_OUT))[1])
    products = scaled(size)
    whole = squares(products)
    left = products - _largest(products, m)[1] if m else products
    share = float(1 - (squares(left) / whole).mean())
    unit = np.repeat(1 / np.sqrt(squares(left)), n_experts)
    left = left * unit[:, None] * unit
    largest = float(_largest(left, 1)[0][0] / n_layers)
    held = left.reshape(n_layers, n_experts, n_layers, n_experts)
    layers = np.arange(n_layers)
    sums = np.zeros((n_layers, n_experts))
    own = held[layers, :, layers]
    rest = RouterGram(own, sums, gram.d_model, held=held, layer_ids=gram.layer_ids)
    return rest, share, largest


def _largest(
    products: Float[np.ndarray, "column column"], m: int
) -> tuple[Float[np.ndarray, " direction"], Float[np.ndarray, "column column"]]:
    """The m largest eigenvalues of a Gram matrix, and the products along their directions.

    By subspace iteration from a fixed start. Source: Halko, Martinsson and Tropp, 2011.
    """
    n_columns = len(products)
    start = np.random.default_rng(0).standard_normal((n_columns, min(m + EXTRA, n_columns)))
    frame = np.linalg.qr(products @ start)[0]
    for _ in range(PASSES):
        frame = np.linalg.qr(products @ frame)[0]
    values, inner = np.linalg.eigh(frame.T @ products @ frame)
    vectors = (frame @ inner)[:, ::-1][:, :m]
    values = values[::-1][:m]
    return values, (vectors * values) @ vectors.T


def _rest_of_columns(gram: RouterGram, m: int) -> tuple[np.ndarray, float, float]:
    """The rest of many columns, whose products with each other are never all held."""
    assert gram.columns is not None

    def squares(layers: np.ndarray) -> np.ndarray:
        return np.einsum("led,led->le", layers, layers).sum(axis=1, dtype=np.float64)

    def scaled(layers: np.ndarray, size: np.ndarray) -> np.ndarray:
        return layers * (1 / np.sqrt(size))[:, None, None].astype(np.float32)

    rest = scaled(gram.columns, squares(gram.columns))  # [L, E, d]
    share = 0.0
    if m:
        for _ in range(2):
            few = _frame(rest, min(m, LEFT_OUT))[0]
            rest = scaled(rest, squares(rest) - squares(rest @ few))
        frame = _frame(rest, m)[0]
        whole = squares(rest)
        rest = rest - (rest @ frame) @ frame.T
        share = float(1 - (squares(rest) / whole).mean())
        rest = scaled(rest, squares(rest))
    return rest, share, _frame(rest, 1)[1]


def _frame(
    layers: Float[np.ndarray, "layer expert d_model"], m: int
) -> tuple[Float[np.ndarray, "d_model direction"], float]:
    """The m largest principal directions of all columns, and the part that the first carries."""
    rows = layers.reshape(-1, layers.shape[2])
    start = np.random.default_rng(0).standard_normal((rows.shape[1], m + EXTRA))
    frame = np.linalg.qr(start.astype(np.float32))[0]
    for _ in range(PASSES):
        frame = np.linalg.qr(rows.T @ (rows @ frame))[0]
    along = rows @ frame
    values, inner = np.linalg.eigh(along.T @ along)
    return (frame @ inner)[:, ::-1][:, :m], float(values[-1] / len(layers))


def mixed_layers(
    rest: RouterGram, draws: int, seed: int, *, columns: int = MIXED_COLUMNS
) -> Iterator[RouterGram]:
    """Sets of layers that are random mixtures of all layers, again and again.

    Of sets with more columns than can be mixed at once, as many layers as can, others in
    every draw.

    Args:
        rest: layers of equal size, as `without_shared` leaves them.
        draws: how many sets.
        seed: of the random numbers.
        columns: mixed at once.
    """
    rng = np.random.default_rng(seed)
    n_layers, n_experts = rest.n_layers, rest.n_experts
    n_mixed = min(n_layers, max(columns // (n_experts - 1), 3))
    basis = zero_sum_basis(n_experts)
    every = _products(rest, np.arange(n_layers)) if n_mixed == n_layers else None
    for _ in range(draws):
        flat = every
        if flat is None:
            flat = _products(rest, np.sort(rng.choice(n_layers, n_mixed, replace=False)))
        turn = random_orthogonal(rng, 1, len(flat))[0]
        mixed = (turn.T @ flat @ turn).reshape(n_mixed, n_experts - 1, n_mixed, n_experts - 1)
        held = np.einsum("ep,apbq,fq->aebf", basis, mixed, basis, optimize=True)
        layers = np.arange(n_mixed)
        sums = np.zeros((n_mixed, n_experts))
        yield RouterGram(held[layers, :, layers], sums, rest.d_model, held=held)


def _products(
    rest: RouterGram, some: Int[np.ndarray, " layer"]
) -> Float[np.ndarray, "column column"]:
    """Inner products of the directions that experts of some layers span."""
    basis = zero_sum_basis(rest.n_experts)
    if rest.held is not None:
        blocks = rest.held[some][:, :, some]
        products = np.einsum("ep,aebf,fq->apbq", basis, blocks, basis, optimize=True)
        return products.reshape(len(some) * (rest.n_experts - 1), -1)
    assert rest.columns is not None and rest.scale is not None
    unit = rest.scale[some][:, None, None]
    spanned = basis.T @ (rest.columns[some] * unit)  # [some, E - 1, d]
    flat = spanned.reshape(-1, rest.d_model).astype(np.float32)
    return (flat @ flat.T).astype(np.float64)


def columns_without_shared(
    columns: Float[np.ndarray, "layer d_model expert"], directions: int
) -> Float[np.ndarray, "layer d_model expert"]:
    """Canonical columns as `without_shared` leaves them, for what looks at coordinates itself.

    Args:
        columns: as `RouterSet.columns` gives them.
        directions: m, as `without_shared` found or was asked for.
    """
    rest = _rest_of_columns(gram_of_columns(columns, held_columns=0), directions)[0]
    return np.ascontiguousarray(rest.transpose(0, 2, 1))


def mixed_columns(
    columns: Float[np.ndarray, "layer d_model expert"], seed: int
) -> Float[np.ndarray, "layer d_model expert"]:
    """The columns of one set of layers mixed from all layers, see `mixed_layers`.

    Args:
        columns: from `columns_without_shared`; all layers are mixed at once, which takes
            n² · d_model steps of n = L · (E − 1) columns.
        seed: of the mixture.
    """
    n_layers, d_model, n_experts = columns.shape
    basis = zero_sum_basis(n_experts).astype(columns.dtype)
    flat = (columns @ basis).transpose(1, 0, 2).reshape(d_model, -1)
    turn = random_orthogonal(np.random.default_rng(seed), 1, flat.shape[1])[0]
    mixed = (flat @ turn.astype(columns.dtype)).reshape(d_model, n_layers, n_experts - 1)
    return np.ascontiguousarray(mixed.transpose(1, 0, 2) @ basis.T)


def shared_null(
    shared: SharedDirections,
    metric: str = "cka",
    *,
    draws: int | None = None,
    seed: int = SEED,
) -> LayerNull:
    """Every pair of layers against pairs that share what all layers share, and no more.

    All pairs of all drawn sets together are the null of each pair: layers of a drawn set are
    alike in distribution. Reading it: q of at most 0.05 marks pairs that are more alike
    than the directions that all layers share make any two.

    Args:
        shared: from `without_shared`.
        metric: an id of `lens.layers.similarity.LAYER_METRICS`, of what is left of the layers.
        draws: sets that are mixed; by default as many as give 20,000 pairs, or fewer where
            that would take more than about 4 seconds, but 10.
        seed: of the random numbers.
    """
    rest = shared.gram
    similarity = layer_similarity(rest, metric)
    upper = np.triu_indices(rest.n_layers, 1)
    n_draws = _affordable(rest) if draws is None else draws
    sets = np.stack([layer_similarity(one, metric) for one in mixed_layers(rest, n_draws, seed)])
    null = sets[:, *np.triu_indices(sets.shape[1], 1)].ravel()
    mean, sd = float(null.mean()), float(null.std())
    z, p, q = (np.full(similarity.shape, np.nan) for _ in range(3))
    z[upper] = (similarity[upper] - mean) / max(sd, 1e-300)
    p[upper] = pooled_tail_p(similarity[upper], null)
    q[upper] = benjamini_hochberg(p[upper])
    for matrix in (z, p, q):
        matrix.T[upper] = matrix[upper]
    level = np.full(similarity.shape, mean)
    np.fill_diagonal(level, np.nan)
    return LayerNull(
        metric=metric,
        similarity=similarity,
        mean=level,
        sd=np.where(np.isnan(level), np.nan, sd),
        z=z,
        p=p,
        q=q,
        draws=len(null),
        seed=seed,
        method=f"{taken_in_words(shared)}, {n_draws} sets of layers mixed from all layers",
        reference="shared",
        directions=shared.directions,
        share=shared.share,
        sets=sets,
    )


def _affordable(rest: RouterGram) -> int:
    """Sets that give enough pairs, or that a few seconds allow: a set takes n³ steps."""
    n_layers, n_dims = rest.n_layers, rest.n_experts - 1
    n_mixed = min(n_layers, max(MIXED_COLUMNS // n_dims, 3))
    wanted = -(-ENOUGH // (n_mixed * (n_mixed - 1) // 2))
    seconds = 3e-10 * (n_mixed * n_dims) ** 3
    return max(min(wanted, MOST_DRAWS, int(4 / seconds)), FEWEST_DRAWS)


def taken_in_words(shared: SharedDirections) -> str:
    """The directions that were taken away and what went with them, for people."""
    if not shared.directions:
        return "directions that all layers share kept"
    named = "direction" if shared.directions == 1 else f"{shared.directions} directions"
    return (
        f"the largest {named} that all layers share taken away, "
        f"{percent(shared.share)} of the second moment"
    )
