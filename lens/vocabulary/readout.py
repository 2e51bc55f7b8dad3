"""Read-out of the vocabulary: the tokens whose embedding raises an expert's logit most and least.

Axes: token (V, the vocabulary), layer (L), expert (E), rank (n tokens kept),
direction (R random ones), frame (F sets of orthogonal directions), d_model (d).

The direct path: a token's embedding e, times the model's multiplier m, goes
through the router's own RMSNorm and router, as if nothing else were in the
residual stream: push = w̃ · x̂ with x̂ = m·e / √(mean((m·e)²) + 1e-5), and w̃ the
expert's canonical column, which holds the norm's scale. That is exact for what the
embedding contributes, up to the scale that the rest of the stream gives the norm.
Layers further on see more and more beside it: attention before the first router,
the output of every layer before the later ones.

Every x̂ has length √d, so push / (‖w̃‖·√d) is the cosine between token and expert.
Chance is a random direction of the same length read through the same tokens: what
a router that knows nothing of the vocabulary would listen to. Embeddings are no
even cloud, so that even random directions have favourite tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.routers.router_set import RouterSet, check_view
from lens.stats.p_values import benjamini_hochberg
from lens.vocabulary.readout_null import SAMPLE, band, extreme_p, random_frames, share_band
from lens.vocabulary.top_tokens import Largest, margins, selection_counts, selection_thresholds

EPSILON = 1e-5  # of the model's RMSNorm
BLOCK_BYTES = 96 * 2**20
LEVEL = 0.05
TESTS = ("top", "bottom", "spread")

Progress = Callable[[int, int], None]
"""Called with the number of tokens read so far and the number to read; may raise to stop."""


class EmbeddingRows(Protocol):
    """A token embedding that is read by rows, as `TokenEmbedding` of `grok.checkpoints` is."""

    @property
    def n_tokens(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def multiplier(self) -> float: ...
    def blocks(self, rows: int, progress: Progress | None = None) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """An embedding that is in memory already."""

    array: Float[np.ndarray, "token d_model"]
    multiplier: float = 1.0

    @property
    def n_tokens(self) -> int:
        return self.array.shape[0]

    @property
    def d_model(self) -> int:
        return self.array.shape[1]

    def blocks(self, rows: int, progress: Progress | None = None) -> Iterator[np.ndarray]:
        for start in range(0, self.n_tokens, rows):
            block = np.asarray(self.array[start : start + rows], np.float32)
            yield block
            if progress is not None:
                progress(start + len(block), self.n_tokens)


@dataclass(frozen=True)
class ReadoutSettings:
    """Settings that a read-out depends on besides the weights.

    Attributes:
        view: "canonical", or "raw" for the columns as stored: no norm scale, and with
            what all experts of a layer share.
        kept: tokens kept for each expert, at either end.
        draws: random directions of the null, about: they come in whole frames.
        seed: of the null.
    """

    view: str = "canonical"
    kept: int = 50
    draws: int = 1000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Readout:
    """The tokens that push every expert most and least, beside what chance gives.

    Attributes:
        top, bottom: token ids, the most extreme first.
        top_push, bottom_push: their pushes, in logits.
        top_margin, bottom_margin: the expert's logit less the top_k-th largest of the
            other experts' in that layer (biases counted): above 0 the expert would be
            selected on the direct path. Not a number where all experts are selected.
        mean, sd: of the push over the vocabulary.
        norm: ‖w̃‖ of every expert.
        share: part of the vocabulary for which the expert would be selected on the
            direct path, every token counted once. Even: top_k / E.
        share_low, share_high: 95 % band of the share when the layer's columns are
            turned at random together, keeping their lengths and angles.
        chance_top, chance_bottom: of random directions of length 1 the largest pushes
            and the smallest, most extreme first.
        chance_sd: of random directions of length 1 the sd of the push.
        frames: sets of orthogonal directions that were drawn.
        silent: tokens whose embedding is zero.
        n_tokens, d_model, top_k, settings: what it was computed from.
    """

    top: Int[np.ndarray, "layer expert rank"]
    top_push: Float[np.ndarray, "layer expert rank"]
    top_margin: Float[np.ndarray, "layer expert rank"]
    bottom: Int[np.ndarray, "layer expert rank"]
    bottom_push: Float[np.ndarray, "layer expert rank"]
    bottom_margin: Float[np.ndarray, "layer expert rank"]
    mean: Float[np.ndarray, "layer expert"]
    sd: Float[np.ndarray, "layer expert"]
    norm: Float[np.ndarray, "layer expert"]
    share: Float[np.ndarray, "layer expert"]
    share_low: Float[np.ndarray, "layer expert"]
    share_high: Float[np.ndarray, "layer expert"]
    chance_top: Float[np.ndarray, "direction rank"]
    chance_bottom: Float[np.ndarray, "direction rank"]
    chance_sd: Float[np.ndarray, " direction"]
    frames: int
    silent: int
    n_tokens: int
    d_model: int
    top_k: int
    settings: ReadoutSettings

    @property
    def draws(self) -> int:
        """Random directions that were drawn."""
        return len(self.chance_top)

    def chance_band(
        self, layer: int, expert: int, end: str = "top"
    ) -> tuple[Float[np.ndarray, " rank"], Float[np.ndarray, " rank"]]:
        """95 % band of the push at every rank, for a random direction as long as the expert's."""
        drawn = self.chance_top if end == "top" else self.chance_bottom
        low, high = band(drawn) * self.norm[layer, expert]
        return low, high

    @cached_property
    def p(self) -> Float[np.ndarray, "test layer expert"]:
        """p-values of what `TESTS` names, for every expert.

        "top" and "bottom": of the largest and of the smallest push. "spread": of the
        standard deviation of the push over the vocabulary, which says whether the
        expert tells tokens apart more than a random direction does; it has the most
        power of the three. The null: a random direction of the same length. Counted
        from the draws, and where fewer than ten reach the value read off a curve
        fitted to them.
        """
        return np.stack(
            [
                extreme_p(self.top_push[..., 0] / self.norm, self.chance_top[:, 0]),
                extreme_p(-self.bottom_push[..., 0] / self.norm, -self.chance_bottom[:, 0]),
                extreme_p(self.sd / self.norm, self.chance_sd),
            ]
        )

    @cached_property
    def q(self) -> Float[np.ndarray, "test layer expert"]:
        """`p` after Benjamini and Hochberg, over all experts and tests."""
        return benjamini_hochberg(self.p)

    def beyond_chance(self, test: str = "top") -> Bool[np.ndarray, "layer expert"]:
        """Which experts are beyond chance in one of `TESTS`, at a false discovery rate of 5 %."""
        return self.q[TESTS.index(test)] <= LEVEL


def vocabulary_readout(
    routers: RouterSet,
    embedding: EmbeddingRows,
    settings: ReadoutSettings | None = None,
    *,
    progress: Progress | None = None,
    digest: Any = None,
    block_bytes: int = BLOCK_BYTES,
) -> Readout:
    """Reads the whole vocabulary through every router, a block of tokens at a time.

    One product of [experts and random directions, d] with [d, tokens] a block; the
    memory it takes is the block's, whatever the vocabulary's size: about `block_bytes`
    and three times the columns.

    Args:
        routers: of the model that the embedding belongs to.
        embedding: its rows.
        settings: view, numbers kept and drawn, seed.
        progress: told about every block; an exception that it raises ends the work.
        digest: a hash that is given the embedding's bytes on the way (see `new_digest`).

    Raises:
        LensError: the embedding does not fit the routers, holds something that is not
            finite, or a setting is out of its range.
    """
    settings = settings or ReadoutSettings()
    check_fit(routers, embedding, settings)
    n_tokens, d_model = embedding.n_tokens, routers.d_model
    columns = unit_rows(routers, settings.view)  # [L * E, d]
    norm = lengths(columns, routers)
    frames = random_frames(d_model, routers.n_experts, settings.draws, settings.seed)
    stacked = np.concatenate([columns, frames.reshape(-1, d_model)])
    found = _Pushes(routers, stacked, n_tokens, min(settings.kept, n_tokens))
    rows = max(1, block_bytes // (4 * (d_model + 3 * len(stacked))))
    for block in embedding.blocks(rows, progress):
        if digest is not None:
            digest.update(np.ascontiguousarray(block, dtype="<f4").data)
        found.add(block, embedding.multiplier)
    if found.seen != n_tokens:
        raise LensError(
            f"The embedding gave {found.seen:,} rows; expected {n_tokens:,}. Open the checkpoint "
            "again."
        )
    sampled = np.concatenate(found.sampled, axis=1)
    low, high = share_band(routers, columns, sampled, len(frames))
    mean, sd = found.mean_and_sd()
    n_units, units = len(columns), (routers.n_layers, routers.n_experts, -1)
    return Readout(
        top=found.top.tokens[:n_units].reshape(units),
        top_push=found.top.values[:n_units].reshape(units),
        top_margin=found.top.beside[:n_units].reshape(units),
        bottom=found.bottom.tokens[:n_units].reshape(units),
        bottom_push=-found.bottom.values[:n_units].reshape(units),
        bottom_margin=found.bottom.beside[:n_units].reshape(units),
        mean=mean[:n_units].reshape(norm.shape),
        sd=sd[:n_units].reshape(norm.shape),
        norm=norm,
        share=found.counts / n_tokens,
        share_low=low,
        share_high=high,
        chance_top=found.top.values[n_units:],
        chance_bottom=-found.bottom.values[n_units:],
        chance_sd=sd[n_units:],
        frames=len(frames),
        silent=found.silent,
        n_tokens=n_tokens,
        d_model=d_model,
        top_k=routers.top_k,
        settings=settings,
    )


class _Pushes:
    """Pushes of all tokens along columns and random directions, while the tokens come in.

    Attributes:
        top, bottom: the most extreme tokens of each direction, `bottom` with the sign changed.
        counts: tokens for which each expert would be selected.
        sampled: pushes of some tokens along the random directions, block by block.
        silent: tokens whose embedding is zero.
        seen: tokens so far.
    """

    def __init__(self, routers: RouterSet, stacked: np.ndarray, n_tokens: int, kept: int) -> None:
        self.shape, self.top_k = (routers.n_layers, routers.n_experts), routers.top_k
        self.biases = 0.0 if routers.biases is None else routers.biases[:, :, None]
        self.stacked = stacked  # [L * E + R, d]
        self.top, self.bottom = Largest(len(stacked), kept), Largest(len(stacked), kept)
        self.counts = np.zeros(self.shape, np.int64)
        self.sums = np.zeros((2, len(stacked)))
        self.stride = -(-n_tokens // SAMPLE)
        self.sampled: list[np.ndarray] = []
        self.silent = self.seen = 0

    def add(self, block: Float[np.ndarray, "token d_model"], multiplier: float) -> None:
        """Takes in the tokens that follow."""
        start, n_units = self.seen, self.shape[0] * self.shape[1]
        inverse, zeros = inverse_rms(block, multiplier, start)
        pushes = self.stacked @ block.T  # [L * E + R, B]
        pushes *= inverse
        self.sums[0] += pushes.sum(axis=1, dtype=np.float64)
        self.sums[1] += np.einsum("ub,ub->u", pushes, pushes, dtype=np.float64)
        scores = pushes[:n_units].reshape(*self.shape, -1) + self.biases
        last, following = selection_thresholds(scores, self.top_k)
        self.counts += selection_counts(scores, last, following, self.top_k)
        beside = np.full(pushes.shape, np.nan, np.float32)
        beside[:n_units] = margins(scores, last[:, None], following[:, None]).reshape(n_units, -1)
        self.sampled.append(pushes[n_units:, -start % self.stride :: self.stride].copy())
        self.top.add(pushes, start, beside)
        self.bottom.add(np.negative(pushes, out=pushes), start, beside)
        self.silent += zeros
        self.seen += len(block)

    def mean_and_sd(self) -> tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]]:
        """Mean and standard deviation of the push along each direction over all tokens so far."""
        mean = self.sums[0] / self.seen
        return mean, np.sqrt(np.maximum(self.sums[1] / self.seen - mean**2, 0))


def new_digest(embedding: EmbeddingRows) -> Any:
    """A SHA-256 that, given all rows as little-endian float32, identifies an embedding."""
    shape = f"{embedding.n_tokens},{embedding.d_model}"
    return hashlib.sha256(f"embedding|{shape}|float32|".encode())


def unit_rows(routers: RouterSet, view: str) -> Float[np.ndarray, "unit d_model"]:
    """The router columns as rows, layer by layer."""
    columns = routers.columns(view).transpose(0, 2, 1)
    return np.ascontiguousarray(columns, np.float32).reshape(-1, routers.d_model)


def lengths(columns: np.ndarray, routers: RouterSet) -> Float[np.ndarray, "layer expert"]:
    norm = np.sqrt(np.einsum("ud,ud->u", columns, columns, dtype=float))
    norm = norm.reshape(routers.n_layers, routers.n_experts)
    bad = ~(np.isfinite(norm) & (norm > 0))
    if bad.any():
        layer, expert = (int(i) for i in np.argwhere(bad)[0])
        raise LensError(
            f"{routers.label(layer, expert)}: the router column has length {norm[layer, expert]} "
            "in this view, so it has no direction; expected a column that differs from its "
            "layer's mean. Check the extraction, or look at the raw view."
        )
    return norm


def inverse_rms(
    block: np.ndarray, multiplier: float, start: int
) -> tuple[Float[np.ndarray, " token"], int]:
    """Factor of each row to become x̂, and how many rows are zero."""
    squares = np.einsum("td,td->t", block, block)
    if not np.isfinite(squares).all():
        token = start + int(np.argmin(np.isfinite(squares)))
        raise LensError(
            f"The embedding of token {token} is not finite, or too large to be squared in float32; "
            "expected numbers below 1e18. The file is damaged; get it again."
        )
    mean = squares.astype(np.float64) / block.shape[1]
    inverse = multiplier / np.sqrt(multiplier**2 * mean + EPSILON)
    return inverse.astype(np.float32), int(np.count_nonzero(squares == 0))


def check_fit(routers: RouterSet, embedding: EmbeddingRows, settings: ReadoutSettings) -> None:
    check_view(settings.view)
    if embedding.d_model != routers.d_model:
        raise LensError(
            f"The embedding has rows of {embedding.d_model:,} numbers and the routers read "
            f"{routers.d_model:,}; expected the same. Take both from one checkpoint."
        )
    if embedding.n_tokens < 1 or settings.kept < 1:
        raise LensError(
            f"Found {embedding.n_tokens} tokens and {settings.kept} to keep; expected at least 1."
        )
    if not 100 <= settings.draws <= 100_000:
        raise LensError(f"draws: found {settings.draws}; expected 100 to 100,000.")
