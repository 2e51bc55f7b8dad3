"""Inner products of all router columns; every static measure starts here.

Axes: layer (L), expert (E), d_model (d). Up to `HELD_COLUMNS` router columns all
inner products are computed at once and held. Above that only each layer's own
block is, and a layer's products with the others are computed when asked for: the
columns of 128 layers of 256 experts would take 8.6 GB of products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.routers.router_set import RouterSet

HELD_COLUMNS = 4096
MAX_COLUMNS = 32768
# Below this share of its length before centring, a canonical column is rounding.
VANISHED = 1e-6


@dataclass(frozen=True, eq=False)
class RouterGram:
    """Inner products of router columns, and what is read off them.

    Products run in float32 and are then kept as float64: cosines are good to
    about 1e-6, far below their spread of 1/√d under chance.

    Attributes:
        own: each layer's columns with each other.
        sums: sum of each column over d_model, for Pearson correlations.
        d_model: length of the columns.
        held: all inner products, None above `HELD_COLUMNS` columns.
        columns: the columns, each layer divided by its `scale`; None where the
            products are held.
        scale: a power of two for each layer, so that neither huge nor tiny weights
            leave float32's range in a product; None where the products are held.
        layer_ids: the model's numbers of the layers, for messages.
    """

    own: Float[np.ndarray, "layer expert expert"]
    sums: Float[np.ndarray, "layer expert"]
    d_model: int
    held: Float[np.ndarray, "layer expert layer expert"] | None = None
    columns: Float[np.ndarray, "layer expert d_model"] | None = None
    scale: Float[np.ndarray, " layer"] | None = None
    layer_ids: np.ndarray | None = None

    @property
    def n_layers(self) -> int:
        return self.own.shape[0]

    @property
    def n_experts(self) -> int:
        return self.own.shape[1]

    @cached_property
    def norms(self) -> Float[np.ndarray, "layer expert"]:
        """L2 norm of every column."""
        return np.sqrt(np.einsum("lee->le", self.own))

    @cached_property
    def overlaps(self) -> Float[np.ndarray, "layer layer"]:
        """Sum over experts i and j of ⟨a_i, b_j⟩² for every two layers a and b, itself included."""
        found = np.empty((self.n_layers, self.n_layers))
        for layer in range(self.n_layers):
            after = self.row(layer, layer)
            found[layer, layer:] = np.einsum("ebf,ebf->b", after, after)
            found[layer:, layer] = found[layer, layer:]
        return found

    def row(self, layer: int, start: int = 0) -> Float[np.ndarray, "expert other expert"]:
        """Inner products of a layer's columns with those of the layers from row `start` on."""
        if self.held is not None:
            return self.held[layer, :, start:]
        assert self.columns is not None and self.scale is not None  # what is held has neither
        others = self.columns[start:]
        product = self.columns[layer] @ others.reshape(-1, self.d_model).T
        blocks = product.astype(np.float64).reshape(self.n_experts, -1, self.n_experts)
        blocks *= (self.scale[layer] * self.scale[start:])[:, None]
        if start <= layer:
            blocks[:, layer - start] = self.own[layer]
        return blocks

    def pair(self, a: int, b: int) -> Float[np.ndarray, "expert expert"]:
        """Inner products of the columns of layer a (rows) with those of layer b."""
        if self.held is not None:
            return self.held[a, :, b]
        if a == b:
            return self.own[a]
        assert self.columns is not None and self.scale is not None
        product = (self.columns[a] @ self.columns[b].T).astype(np.float64)
        return product * (self.scale[a] * self.scale[b])

    def cosine_row(self, layer: int) -> Float[np.ndarray, "expert other expert"]:
        """Cosines of a layer's columns with those of all layers, within [-1, 1]."""
        cosines = self.row(layer) / self.norms[layer][:, None, None]
        cosines /= self.norms
        np.clip(cosines, -1, 1, out=cosines)
        np.fill_diagonal(cosines[:, layer], 1)
        return cosines

    def cosine_pair(self, a: int, b: int) -> Float[np.ndarray, "expert expert"]:
        """Cosines of the columns of layer a (rows) with those of layer b, within [-1, 1]."""
        cosines = self.pair(a, b) / (self.norms[a][:, None] * self.norms[b])
        np.clip(cosines, -1, 1, out=cosines)
        if a == b:
            np.fill_diagonal(cosines, 1)
        return cosines

    @cached_property
    def own_cosines(self) -> Float[np.ndarray, "layer expert expert"]:
        """Cosines between the columns of each layer."""
        return np.stack([self.cosine_pair(layer, layer) for layer in range(self.n_layers)])


def router_gram(
    routers: RouterSet,
    view: str = "canonical",
    *,
    max_columns: int = MAX_COLUMNS,
    held_columns: int = HELD_COLUMNS,
) -> RouterGram:
    """The inner products of all router columns: the products that touch d_model.

    Args:
        routers: the set.
        view: "canonical" (what softmax can see; the default) or "raw".
        max_columns: router columns that are compared at most.
        held_columns: up to so many, all products are computed now and held, in
            8 bytes times their square.

    Raises:
        LensError: a column vanishes in this view, or there are too many columns.
    """
    n_columns = routers.n_layers * routers.n_experts
    if n_columns > max_columns:
        raise LensError(
            f"{routers.n_layers} layers of {routers.n_experts} experts are {n_columns:,} router "
            f"columns; at most {max_columns:,} are compared. Save fewer layers."
        )
    gram = gram_of_columns(routers.columns(view), routers.layer_ids, held_columns=held_columns)
    if view == "canonical":
        _check_canonical(routers, gram)
    return gram


def gram_of_columns(
    columns: Float[np.ndarray, "layer d_model expert"],
    layer_ids: np.ndarray | None = None,
    *,
    held_columns: int = HELD_COLUMNS,
) -> RouterGram:
    """The inner products of columns given as an array, see `router_gram`."""
    n_layers, d_model, n_experts = columns.shape
    flat = columns.transpose(0, 2, 1).astype(np.float32, order="C")  # [L, E, d]
    peak = np.maximum(flat.max(axis=(1, 2)), -flat.min(axis=(1, 2))).astype(np.float64)
    if not np.isfinite(peak).all():
        layer = int(np.argmin(np.isfinite(peak)))
        name = layer if layer_ids is None else layer_ids[layer]
        raise LensError(
            f"Layer {name}: the router times its norm scale leaves the range of float32; expected "
            "weights below 1e38. Check the norm scales."
        )
    exponent = np.frexp(peak)[1]
    flat = np.ldexp(flat, -exponent[:, None, None], out=flat)
    flat.flags.writeable = False
    scale = np.ldexp(1.0, exponent)
    sums = flat.sum(axis=2, dtype=np.float64) * scale[:, None]
    if n_layers * n_experts <= held_columns:
        rows = flat.reshape(n_layers * n_experts, d_model)
        dot = (rows @ rows.T).astype(np.float64).reshape(n_layers, n_experts, n_layers, n_experts)
        if not (exponent == 0).all():
            dot *= scale[:, None, None, None]
            dot *= scale[:, None]
        layers = np.arange(n_layers)
        own = dot[layers, :, layers, :]
        return RouterGram(own, sums, d_model, held=dot, layer_ids=layer_ids)
    own = (flat @ flat.transpose(0, 2, 1)).astype(np.float64) * (scale**2)[:, None, None]
    return RouterGram(own, sums, d_model, columns=flat, scale=scale, layer_ids=layer_ids)


def _check_canonical(routers: RouterSet, gram: RouterGram) -> None:
    """Refuse columns that are nothing but what all experts of their layer share."""
    raw = np.empty(gram.norms.shape)
    for layer, weights in enumerate(routers.routers):
        peak = max(weights.max(), -weights.min())
        raw[layer] = np.linalg.norm(weights / peak, axis=0) * float(peak)
    if routers.norm_scales is not None:
        raw = raw * np.abs(routers.norm_scales).max(axis=1)[:, None]
    gone = gram.norms <= VANISHED * raw
    if gone.any():
        layer, expert = (int(i) for i in np.argwhere(gone)[0])
        name = routers.layer_ids[layer]
        raise LensError(
            f"Layer {name}, expert {expert}: the router column equals the mean of its layer's "
            "columns, so nothing is left of it in the canonical view; expected experts that "
            "differ. Check the extraction, or look at the raw view."
        )


def standardized_gram(routers: RouterSet, view: str = "raw") -> Float[np.ndarray, "layer layer"]:
    """Inner products of layers after every weight was standardised across layers.

    The classic preparation: each layer flattened to one row, each of its
    d_model × expert entries brought to mean 0 and variance 1 over the layers.
    An entry that is the same in all layers counts 0. It depends on how experts
    are labelled, and on what softmax cannot see; it is kept for comparison.
    """
    rows = routers.columns(view).reshape(routers.n_layers, -1)
    rows = rows - rows.mean(axis=0)
    spread = np.sqrt(np.einsum("lf,lf->f", rows, rows) / len(rows))
    np.divide(rows, spread, out=rows, where=spread > 0)
    return (rows @ rows.T).astype(np.float64)
