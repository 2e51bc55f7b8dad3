"""Measures of single experts, from the router's weights alone.

Axes: layer (L), d_model (d), expert (E).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from lens.experts.selection import breadth
from lens.routers.gram import RouterGram
from lens.routers.router_set import RouterSet


@dataclass(frozen=True)
class ExpertMeasures:
    """One number for every expert of every layer, several times over.

    Attributes:
        norm: L2 norm of the router column. Logits grow with it.
        variance: variance of the column's weights (classic).
        l1_l2: L1 norm over L2 norm. √d when all weights are equally large, 1 when
            a single one is all; Gaussian weights give √(2d/π).
        breadth: probability of being selected under an isotropic prior.
        max_similarity: largest cosine with an expert of another layer; not a
            number when there is no other layer.
        cross_layer_variance: variance over layers of each weight of expert k,
            averaged over d_model (classic). Treats equal labels as one expert,
            which they are not.
        breadth_method: how `breadth` was computed.
        baselines: levels by name of the measure: "l1_l2" of Gaussian weights, "breadth" of even
            experts, "max_similarity" of unrelated directions. The first and the last say
            little of a model, whose weights have norm scales and outliers in common.
    """

    norm: Float[np.ndarray, "layer expert"]
    variance: Float[np.ndarray, "layer expert"]
    l1_l2: Float[np.ndarray, "layer expert"]
    breadth: Float[np.ndarray, "layer expert"]
    max_similarity: Float[np.ndarray, "layer expert"]
    cross_layer_variance: Float[np.ndarray, " expert"]
    breadth_method: str
    baselines: dict[str, float] = field(default_factory=dict)


def expert_measures(
    routers: RouterSet, gram: RouterGram, view: str = "canonical", *, elsewhere: bool = True
) -> ExpertMeasures:
    """The measures of all experts.

    Norms, variances and similarities come from the Gram matrix and the sums;
    only the L1 norm reads the weights themselves. Averages over layers of a
    per-index quantity mean nothing, since labels don't carry across layers; the
    one classic measure that takes such an average says so.

    Args:
        routers: the set.
        gram: its Gram matrix in the same view.
        view: "canonical" or "raw".
        elsewhere: whether to look for the most similar experts of other layers, which goes
            through all inner products; else `max_similarity` is not a number.
    """
    d_model, n_experts, n_layers = gram.d_model, gram.n_experts, gram.n_layers
    squares = np.einsum("lee->le", gram.own)
    columns = routers.columns(view)
    absolute = np.abs(columns).sum(axis=1).astype(np.float64)
    selected = breadth(gram, routers.top_k, biases=routers.logit_biases)
    # Σ_ab ⟨w_a, w_b⟩ over layers is the square of the sum of the columns.
    of_sum = (columns.sum(axis=0, dtype=np.float64) ** 2).sum(axis=0)
    across = squares.sum(axis=0) / n_layers - of_sum / n_layers**2
    baselines = {
        "l1_l2": float(np.sqrt(2 * d_model / np.pi)),
        "breadth": routers.top_k / n_experts,
    }
    if n_layers > 1:
        baselines["max_similarity"] = largest_cosine_by_chance(d_model, (n_layers - 1) * n_experts)
    return ExpertMeasures(
        norm=gram.norms,
        variance=np.maximum(squares / d_model - (gram.sums / d_model) ** 2, 0),
        l1_l2=absolute / gram.norms,
        breadth=selected.probability,
        max_similarity=max_similarity(gram) if elsewhere else np.full(squares.shape, np.nan),
        cross_layer_variance=np.maximum(across / d_model, 0)
        if n_layers > 1
        else np.zeros(n_experts),
        breadth_method=selected.method,
        baselines=baselines,
    )


def max_similarity(gram: RouterGram) -> Float[np.ndarray, "layer expert"]:
    """Largest cosine of every expert with one of another layer; not a number of one layer."""
    if gram.n_layers == 1:
        return np.full((1, gram.n_experts), np.nan)
    largest = np.full((gram.n_layers, gram.n_experts), -1.0)
    for layer in range(gram.n_layers - 1):
        after = slice(layer + 1, None)
        cosines = gram.row(layer, layer + 1) / gram.norms[layer][:, None, None]
        cosines /= gram.norms[after]  # [E, others, E]
        largest[layer] = np.maximum(largest[layer], cosines.max(axis=(1, 2)))
        largest[after] = np.maximum(largest[after], cosines.max(axis=0))
    return np.clip(largest, -1, 1)


def largest_cosine_by_chance(d_model: int, n: int) -> float:
    """Median of the largest of n cosines between one direction and n unrelated ones.

    cos² follows a Beta(½, (d − 1)/2) distribution; the largest of n exceeds x
    with probability 1 − P(cos ≤ x)ⁿ.
    """
    from scipy.special import betaincinv

    upper = -np.expm1(np.log(0.5) / n)  # P(cos > x), at most 1/2
    return float(np.sqrt(betaincinv(0.5, (d_model - 1) / 2, 1 - 2 * upper)))
