"""Null of the read-out: experts that know nothing of the vocabulary.

Axes: layer (L), expert (E), frame (F), direction (w in a frame), token, d_model (d).

The null turns each layer's router at random in the residual stream: lengths and
angles of its columns stay, and so do the tokens. One column then is a random
direction; a whole layer is its columns' inner products put on a random frame. So
one set of frames, read through the tokens once, serves all layers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.routers.router_set import RouterSet
from lens.stats.p_values import pooled_p
from lens.vocabulary.top_tokens import selection_counts, selection_thresholds

MIN_FRAMES = 40
SAMPLE = 4096  # tokens on which the chance level of shares is computed, about


def random_frames(
    d_model: int, n_experts: int, draws: int, seed: int
) -> Float[np.ndarray, "frame direction d_model"]:
    """Random directions of length 1 in sets of orthogonal ones, as many as a layer has experts.

    Each direction is spread evenly over the sphere, and each set is one corner of a
    random rotation of the residual stream.
    """
    width = min(n_experts, d_model)
    n_frames = max(MIN_FRAMES, -(-draws // width))
    rng = np.random.default_rng(seed)
    frames = np.empty((n_frames, width, d_model), np.float32)
    for frame in frames:
        q, r = np.linalg.qr(rng.standard_normal((d_model, width)))
        frame[:] = (q * np.sign(np.diagonal(r))).T
    return frames


def share_band(
    routers: RouterSet, columns: np.ndarray, pushes: np.ndarray, n_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """95 % band of the share of tokens when each layer's columns are turned at random.

    Args:
        columns: of all experts, as rows.
        pushes: of some tokens on the random directions, frame by frame.
    """
    layers = columns.reshape(routers.n_layers, routers.n_experts, -1).astype(np.float64)
    values, vectors = np.linalg.eigh(layers @ layers.transpose(0, 2, 1))
    width = len(pushes) // n_frames
    roots = (vectors * np.sqrt(np.maximum(values, 0))[:, None])[:, :, -width:]
    roots = roots.astype(np.float32)  # [L, E, w]: times w orthogonal directions, the same angles
    biases = 0.0 if routers.biases is None else routers.biases[:, :, None]
    shares = []
    for frame in pushes.reshape(n_frames, width, -1):
        scores = roots @ frame + biases
        last, following = selection_thresholds(scores, routers.top_k)
        shares.append(selection_counts(scores, last, following, routers.top_k) / frame.shape[1])
    low, high = band(np.asarray(shares))
    return low, high


def band(drawn: Float[np.ndarray, "draw ..."]) -> Float[np.ndarray, "side ..."]:
    """The limits between which one more draw lies in 95 of 100 cases, however few the draws."""
    return np.quantile(drawn, [0.025, 0.975], axis=0, method="weibull")


def extreme_p(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """p-values of largest pushes among those of random directions."""
    return pooled_p(values, drawn)
