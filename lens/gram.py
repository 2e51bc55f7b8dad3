"""One product of all router columns with all others; every static measure starts here.

Axes: layer (L), expert (E). `dot[a, i, b, j]` is the inner product of expert i of
layer a with expert j of layer b.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from lens.errors import LensError
from lens.routers import RouterSet

MAX_COLUMNS = 16384
# Below this share of its length before centring, a canonical column is rounding.
VANISHED = 1e-6


@dataclass(frozen=True, eq=False)
class RouterGram:
    """Inner products of all router columns, and what is read off them.

    The product runs in float32 and is then kept as float64: cosines are good to
    about 1e-6, far below their spread of 1/√d under chance.

    Attributes:
      dot: inner products.
      sums: sum of each column over d_model, for Pearson correlations.
      d_model: length of the columns.
      layer_ids: the model's numbers of the layers, for messages.
    """

    dot: Float[np.ndarray, "layer expert layer expert"]
    sums: Float[np.ndarray, "layer expert"]
    d_model: int
    layer_ids: np.ndarray | None = None

    @property
    def n_layers(self) -> int:
        return self.dot.shape[0]

    @property
    def n_experts(self) -> int:
        return self.dot.shape[1]

    @property
    def blocks(self) -> Float[np.ndarray, "layer layer expert expert"]:
        """The same numbers as one expert × expert block per pair of layers (a view)."""
        return self.dot.transpose(0, 2, 1, 3)

    @cached_property
    def own(self) -> Float[np.ndarray, "layer expert expert"]:
        """Each layer's block with itself."""
        layers = np.arange(self.n_layers)
        return self.dot[layers, :, layers, :]

    @cached_property
    def norms(self) -> Float[np.ndarray, "layer expert"]:
        """L2 norm of every column."""
        return np.sqrt(np.einsum("lee->le", self.own))

    @cached_property
    def cosines(self) -> Float[np.ndarray, "layer expert layer expert"]:
        """Cosine similarity of every column with every other, within [-1, 1]."""
        unit = 1 / self.norms
        cosines = self.dot * unit[:, :, None, None]
        cosines *= unit
        np.clip(cosines, -1, 1, out=cosines)
        flat = cosines.reshape(self.n_layers * self.n_experts, -1)
        np.fill_diagonal(flat, 1)
        return cosines

    @cached_property
    def effective_dimension(self) -> float:
        """Number of directions that the columns share out between them: (tr S)² / tr S².

        S is the second moment of all columns over the residual stream. Between 1
        and the number of columns; a small value says that few shared directions
        carry most of the weight, which by itself makes unrelated layers look alike.
        """
        flat = self.dot.reshape(self.n_layers * self.n_experts, -1)
        return float(np.trace(flat) ** 2 / np.vdot(flat, flat))


def router_gram(
    routers: RouterSet, view: str = "canonical", *, max_columns: int = MAX_COLUMNS
) -> RouterGram:
    """The Gram matrix of all router columns: the one product that touches d_model.

    Args:
      routers: the set.
      view: "canonical" (what softmax can see; the default) or "raw".
      max_columns: router columns that are compared at most; the result takes
        8 bytes times their square.

    Raises:
      LensError: a column vanishes in this view, or there are too many columns.
    """
    n_columns = routers.n_layers * routers.n_experts
    if n_columns > max_columns:
        raise LensError(
            f"{routers.n_layers} layers of {routers.n_experts} experts are {n_columns:,} router "
            f"columns; at most {max_columns:,} are compared at once. Save fewer layers."
        )
    gram = gram_of_columns(routers.columns(view), routers.layer_ids)
    if view == "canonical":
        _check_canonical(routers, gram)
    return gram


def gram_of_columns(
    columns: Float[np.ndarray, "layer d_model expert"],
    layer_ids: np.ndarray | None = None,
) -> RouterGram:
    """The Gram matrix of columns given as an array.

    Each layer is divided by a power of two before the product and multiplied
    back after it, so that neither huge nor tiny weights leave float32's range.
    """
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
    sums = flat.sum(axis=2, dtype=np.float64)
    flat = flat.reshape(n_layers * n_experts, d_model)
    dot = (flat @ flat.T).astype(np.float64).reshape(n_layers, n_experts, n_layers, n_experts)
    scale = np.ldexp(1.0, exponent)
    if not (exponent == exponent[0]).all() or exponent[0] != 0:
        dot *= scale[:, None, None, None]
        dot *= scale[:, None]
        sums *= scale[:, None]
    return RouterGram(dot, sums, d_model, layer_ids)


def _check_canonical(routers: RouterSet, gram: RouterGram) -> None:
    """Refuse columns that are nothing but what all experts of their layer share."""
    peak = np.abs(routers.routers).max(axis=(1, 2))
    raw = np.linalg.norm(routers.routers / peak[:, None, None], axis=1) * peak[:, None]  # [L, E]
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
