"""Chance of the read-out: random directions, and how often mixed experts are selected.

Axes: layer (L), expert (E), draw (a mixed layer), frame (F), direction (w in a frame),
token, d_model (d).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.routers.router_set import RouterSet
from lens.vocabulary.top_tokens import selection_counts, selection_thresholds

MIN_FRAMES = MIN_DRAWS = 40


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


class MixedShares:
    """Shares of the vocabulary that would select each expert of layers whose experts are mixed.

    Each mixture is as long as an expert and takes its bias, so that neither is a finding: it
    stands for one expert after another until each has 40 draws.
    """

    def __init__(
        self, routers: RouterSet, norm: Float[np.ndarray, "layer expert"], n_draws: int
    ) -> None:
        self.top_k, self.lengths = routers.top_k, norm.astype(np.float32)[:, None]
        self.biases = np.zeros(self.lengths.shape, np.float32)
        if routers.biases is not None:
            self.biases = routers.biases[:, None].astype(np.float32)
        n_layers, n_experts = norm.shape
        turns = min(n_experts, -(-MIN_DRAWS // n_draws))
        self.counts = np.zeros((turns, n_layers, n_draws, n_experts), np.int64)
        self.seen = 0

    def add(self, pushes: Float[np.ndarray, "layer mixture token"]) -> None:
        """Takes in pushes of the tokens that follow, in lengths of the mixed columns."""
        n_tokens = pushes.shape[2]
        if not n_tokens:
            return
        for turn, counts in enumerate(self.counts):
            lengths, biases = (np.roll(a, turn, axis=2) for a in (self.lengths, self.biases))
            scores = pushes.reshape(*counts.shape, -1) * lengths[..., None] + biases[..., None]
            scores = scores.reshape(-1, counts.shape[2], n_tokens)
            last, following = selection_thresholds(scores, self.top_k)
            found = selection_counts(scores, last, following, self.top_k)
            counts += np.roll(found.reshape(counts.shape), -turn, axis=2)
        self.seen += n_tokens

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """95 % band of the share of every expert [layer, expert]."""
        shares = self.counts.transpose(0, 2, 1, 3) / self.seen  # [turn, draw, L, E]
        low, high = band(shares.reshape(-1, *shares.shape[2:]))
        return low, high


def band(drawn: Float[np.ndarray, "draw ..."]) -> Float[np.ndarray, "side ..."]:
    """The limits between which one more draw lies in 95 of 100 cases, however few the draws."""
    return np.quantile(drawn, [0.025, 0.975], axis=0, method="weibull")
