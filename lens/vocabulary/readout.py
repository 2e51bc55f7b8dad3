"""Read-out of the vocabulary: the tokens whose embedding raises an expert's logit most and least.

Axes: token (V, the vocabulary), layer (L), expert (E), rank (n tokens kept),
direction (R random ones), frame (F sets of orthogonal directions), d_model (d).

The direct path: a token's embedding e, times the model's multiplier m, goes
through the router's own RMSNorm and router, as if nothing else were in the
residual stream: push = w̃ · x̂ with x̂ = m·e / √(mean((m·e)²) + ε), and w̃ the
expert's canonical column, which holds the norm's scale. That is exact for what the
embedding contributes, up to the scale that the rest of the stream gives the norm.
Layers further on see more and more beside it: attention before the first router,
the output of every layer before the later ones.

Every x̂ has length √d, so push / (‖w̃‖·√d) is the cosine between token and expert.
Two references stand beside it. Mixtures of the layer's own experts (`mixed_experts`) read the
same space and know all of the vocabulary that the layer as a whole knows: what beats them
belongs to single experts. Random directions through the same tokens are the absolute
zero, which any layer beats that reads the large directions of the embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from grok.checkpoints.token_embedding import EPSILON
from lens.errors import LensError
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet, check_view
from lens.stats.exponential_tail import pooled_tail_p
from lens.stats.p_values import benjamini_hochberg
from lens.vocabulary.mixed_experts import LongTokens, layer_mixtures, placed
from lens.vocabulary.readout_null import band, random_frames
from lens.vocabulary.streamed_pushes import StreamedPushes

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
    @property
    def epsilon(self) -> float: ...
    @property
    def centred(self) -> bool: ...
    def blocks(self, rows: int, progress: Progress | None = None) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """An embedding that is in memory already."""

    array: Float[np.ndarray, "token d_model"]
    multiplier: float = 1.0
    epsilon: float = EPSILON
    centred: bool = False

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
        draws: random directions, about: they come in whole frames.
        seed: of the random directions and of the mixtures.
    """

    view: str = "canonical"
    kept: int = 50
    draws: int = 400
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
        share_low, share_high: 95 % band of the share when the layer's experts are mixed, each
            mixture as long as the expert.
        mixed_top, mixed_bottom: the largest pushes and the smallest, most extreme first, of
            mixtures of the experts of each layer, in lengths of their columns.
        mixed_sd: the sd of the push of those mixtures, in the same unit.
        limit_p: upper limits, in closed form, of the p-values of "top" and "bottom" against
            mixtures; 1 where there is none (see `mixed_experts.LongTokens`).
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
    mixed_top: Float[np.ndarray, "layer mixture rank"]
    mixed_bottom: Float[np.ndarray, "layer mixture rank"]
    mixed_sd: Float[np.ndarray, "layer mixture"]
    limit_p: Float[np.ndarray, "end layer expert"]
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

    @property
    def mixtures(self) -> int:
        """Mixtures of the experts of each layer that were drawn."""
        return self.mixed_sd.shape[1]

    def chance_band(
        self, layer: int, expert: int, end: str = "top"
    ) -> tuple[Float[np.ndarray, " rank"], Float[np.ndarray, " rank"]]:
        """95 % band of the push at every rank, for a random direction as long as the expert's."""
        drawn = self.chance_top if end == "top" else self.chance_bottom
        low, high = band(drawn) * self.norm[layer, expert]
        return low, high

    def mixed_band(
        self, layer: int, expert: int, end: str = "top"
    ) -> tuple[Float[np.ndarray, " rank"], Float[np.ndarray, " rank"]]:
        """The same for mixtures of the layer's experts, as long as the expert's column."""
        drawn = (self.mixed_top if end == "top" else self.mixed_bottom)[layer]
        low, high = band(drawn) * self.norm[layer, expert]
        return low, high

    @cached_property
    def measured(self) -> Float[np.ndarray, "test layer expert"]:
        """What `TESTS` names, of every expert, in lengths of its column.

        "top" and "bottom": the largest push, and the smallest with its sign changed.
        "spread": the standard deviation of the push over the vocabulary, which says how
        much the expert tells tokens apart.
        """
        own = self.top_push[..., 0], -self.bottom_push[..., 0], self.sd
        return np.stack(own) / self.norm

    @cached_property
    def p(self) -> Float[np.ndarray, "test layer expert"]:
        """p-values of what `TESTS` names, against mixtures of the layer's experts.

        Counted from the mixtures, and where few reach the value read off an exponential
        tail; of pushes the closed form counts where it says less.
        """
        drawn = self.mixed_top[..., 0], -self.mixed_bottom[..., 0], self.mixed_sd
        p = np.stack([placed(*pair) for pair in zip(self.measured, drawn, strict=True)])
        p[:2] = np.minimum(p[:2], self.limit_p)
        return p

    @cached_property
    def q(self) -> Float[np.ndarray, "test layer expert"]:
        """`p` after Benjamini and Hochberg, over all experts and tests."""
        return benjamini_hochberg(self.p)

    @cached_property
    def unrelated_q(self) -> Float[np.ndarray, "test layer expert"]:
        """The same against random directions of the same length, the absolute zero."""
        drawn = self.chance_top[:, 0], -self.chance_bottom[:, 0], self.chance_sd
        return benjamini_hochberg(
            np.stack([pooled_tail_p(*pair) for pair in zip(self.measured, drawn, strict=True)])
        )

    def beyond_mixed(self, test: str = "top") -> Bool[np.ndarray, "layer expert"]:
        """Which experts beat mixtures of their layer in one of `TESTS`, at a rate of 5 %."""
        return self.q[TESTS.index(test)] <= LEVEL

    @property
    def most_telling(self) -> tuple[int, int]:
        """Layer and expert whose strongest token stands out most from mixtures of its layer."""
        p, push = self.p[TESTS.index("top")], self.measured[TESTS.index("top")]
        layer, expert = np.unravel_index(np.lexsort((-push.ravel(), p.ravel()))[0], p.shape)
        return int(layer), int(expert)


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

    One product of [experts and random directions, d] with [d, tokens] a block, and small
    ones for the mixtures; the memory it takes is the block's, whatever the vocabulary's
    size: about `block_bytes` and three times the columns.

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
    gram = router_gram(routers, settings.view, held_columns=0)
    mixtures = layer_mixtures(gram, settings.seed)
    frames = random_frames(d_model, routers.n_experts, settings.draws, settings.seed)
    stacked = np.concatenate([columns, frames.reshape(-1, d_model)])
    long = LongTokens(gram, settings.view)
    found = StreamedPushes(routers, stacked, norm, mixtures, long, (n_tokens, settings.kept))
    rows = max(1, block_bytes // (4 * (d_model + 3 * found.n_rows)))
    for block in embedding.blocks(rows, progress):
        if digest is not None:
            digest.update(np.ascontiguousarray(block, dtype="<f4").data)
        found.add(as_normed(block, embedding.centred), embedding.multiplier, embedding.epsilon)
    if found.seen != n_tokens:
        given = f"The embedding gave {found.seen:,} rows; expected {n_tokens:,}."
        raise LensError(f"{given} Open the checkpoint again.")
    (low, high), (mean, sd) = found.shares.band(), found.mean_and_sd()
    n_units, n_directions = len(columns), len(stacked)
    units, mixed = (*norm.shape, -1), (*mixtures.shape[:2], -1)
    top, bottom = found.top.values, -found.bottom.values
    ends = [side[:n_units, 0].reshape(norm.shape) / norm for side in (top, -bottom)]
    return Readout(
        top=found.top.tokens[:n_units].reshape(units),
        top_push=top[:n_units].reshape(units),
        top_margin=found.top.beside[:n_units].reshape(units),
        bottom=found.bottom.tokens[:n_units].reshape(units),
        bottom_push=bottom[:n_units].reshape(units),
        bottom_margin=found.bottom.beside[:n_units].reshape(units),
        mean=mean[:n_units].reshape(norm.shape),
        sd=sd[:n_units].reshape(norm.shape),
        norm=norm,
        share=found.counts / n_tokens,
        share_low=low,
        share_high=high,
        mixed_top=top[n_directions:].reshape(mixed),
        mixed_bottom=bottom[n_directions:].reshape(mixed),
        mixed_sd=sd[n_directions:].reshape(mixed[:2]),
        limit_p=np.stack([long.most(end) for end in ends]),
        chance_top=top[n_units:n_directions],
        chance_bottom=bottom[n_units:n_directions],
        chance_sd=sd[n_units:n_directions],
        frames=len(frames),
        silent=found.silent,
        n_tokens=n_tokens,
        d_model=d_model,
        top_k=routers.top_k,
        settings=settings,
    )


def as_normed(rows: np.ndarray, centred: bool) -> np.ndarray:
    """Rows without what the model's norm takes off before it scales: their mean, or nothing."""
    if not centred:
        return rows
    with np.errstate(invalid="ignore"):  # values that are not finite are refused further on
        means: np.ndarray = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    return means.astype(np.float32)


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
