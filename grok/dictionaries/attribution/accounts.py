"""Exact accounts of a router's logits: which features, biases and errors they are the sum of.

The residual stream that a router reads is a sum of features times their decoders, biases and what
the dictionary missed. With the norm's length held, logits are linear in it, so each term has a
share, and the shares sum to the logits. It says of what a logit is made; it is not causal, since
the norm's length moves with the stream.

Axes: N terms, E experts, K experts a token, F features, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, softmax

from grok.dictionaries.attribution.reading import PromptFeatures
from grok.dictionaries.attribution.readout import Readout
from grok.interventions.sites import HookPoint

CERTAIN = 1e-9  # singular values below this share of the largest count as 0


@dataclass(frozen=True, eq=False)
class RouteAccount:
    """A router's logits for one token, taken apart.

    Attributes:
        layer, token: of the router, and the token's position.
        piece: the token's text.
        logits: [E], the part that all experts share taken out where `canonical`.
        experts, gates: chosen [K].
        length: what the norm divided the stream by.
        kinds: of each term [N]: "feature", "bias", "skip", "error", "embedding", "attention",
            "experts", "router bias", or "rounding", what the run's own arithmetic differs by.
        sites: where each term is written, such as "layers[3].moe.normed".
        groups, features: of each term; -1 where it is no feature.
        values: activation of a feature, 1 for other terms [N].
        contributions: to the logits [N, E]; they sum to `logits`.
        error_share: ‖columnsᵀ error‖ / ‖columnsᵀ stream‖: how much of what the router sees the
            dictionary did not explain.
        canonical: whether contributions sum to 0 over experts.
        untrained: the token stands where the dictionary was not trained.
    """

    layer: int
    token: int
    piece: str
    logits: np.ndarray
    experts: np.ndarray
    gates: np.ndarray
    length: float
    kinds: tuple[str, ...]
    sites: tuple[str, ...]
    groups: np.ndarray
    features: np.ndarray
    values: np.ndarray
    contributions: np.ndarray
    error_share: float
    canonical: bool
    untrained: bool

    @property
    def rounding(self) -> float:
        """How far the terms are from the run's logits, relative to those."""
        at = self.kinds.index("rounding")
        return _share(self.contributions[at], self.logits)

    def of_kind(self, kind: str) -> np.ndarray:
        """What all terms of a kind give together [E]."""
        which = [i for i, own in enumerate(self.kinds) if own == kind]
        total: np.ndarray = self.contributions[which].sum(0)
        return total

    def probability_effects(self) -> np.ndarray:
        """To first order, what terms give to the softmax over all experts [N, E]."""
        p = softmax(self.logits)
        found: np.ndarray = p * (self.contributions - (self.contributions @ p)[:, None])
        return found


def route_account(read: PromptFeatures, layer: int, token: int) -> RouteAccount:
    """The account of one layer's router for one token.

    Args:
        read: the prompt, from `read_features`.
        layer: of the router.
        token: position, negative from the end.

    Raises:
        GrokError: there is no such router or token.
    """
    row, at = read.row(layer), read.position(token)
    readout = read.readouts[layer]
    h = read.stream(layer, at)
    length = float(readout.length(h))
    kinds: list[str] = []
    sites: list[str] = []
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    missed = np.zeros_like(h)
    for part in read.parts(HookPoint(layer, "resid_mid"), at):
        n = len(part.rows)
        strengths = np.ones(n) if part.strengths is None else part.strengths
        indexes = np.full(n, -1) if part.indexes is None else part.indexes
        kinds += [part.kind] * n
        sites += [str(part.point)] * n
        share = part.rows @ readout.columns / length * strengths[:, None]
        columns.append((np.full(n, part.group), indexes, strengths, share))
        if part.kind == "error":
            missed += part.rows[0]
    groups, indexes, values, shares = (np.concatenate(one) for one in zip(*columns, strict=True))
    logits = readout.own(read.logits[row, at])
    rest = [("router bias", readout.bias)] if readout.bias.any() else []
    rest.append(("rounding", logits - shares.sum(0) - readout.bias))
    more = len(rest)
    return RouteAccount(
        layer=layer,
        token=at,
        piece=read.pieces[at],
        logits=logits,
        experts=read.experts[row, at],
        gates=read.gates[row, at],
        length=length,
        kinds=(*kinds, *(kind for kind, _ in rest)),
        sites=(*sites, *[f"layers[{layer}].router.logits"] * more),
        groups=np.concatenate([groups, np.full(more, -1)]),
        features=np.concatenate([indexes, np.full(more, -1)]),
        values=np.concatenate([values, np.ones(more)]),
        contributions=np.concatenate([shares, [own for _, own in rest]]),
        error_share=_share(missed @ readout.columns, h @ readout.columns),
        canonical=readout.canonical,
        untrained=at < read.skipped,
    )


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(np.linalg.norm(part)) / max(float(np.linalg.norm(whole)), 1e-30)


def static_effects(decoder: np.ndarray, readout: Readout) -> np.ndarray:
    """What a unit of each feature adds to logits times the norm's length [F, E]: D · columns.

    Args:
        decoder: rows of features in the stream [F, D].
        readout: of the router.
    """
    found: np.ndarray = np.asarray(decoder, np.float64) @ readout.columns
    return found


@dataclass(frozen=True, eq=False)
class RowSpace:
    """How much of features' directions a router can see.

    Attributes:
        shares: of each direction's squared length [F] that lies in the span of the columns.
        rank: dimensions of that span; of `width`.
        chance: what a random direction has on average, rank / width.
        chance_95: what 95 % of random directions stay below.
    """

    shares: np.ndarray
    rank: int
    width: int
    chance: float
    chance_95: float


def row_space(decoder: np.ndarray, readout: Readout) -> RowSpace:
    """The share of directions [F, D] within what a router reads, beside chance."""
    u, sizes, _ = np.linalg.svd(readout.columns, full_matrices=False)
    rank = int((sizes > CERTAIN * sizes[0]).sum())
    rows = np.asarray(decoder, np.float64)
    inside = np.square(rows @ u[:, :rank]).sum(-1)
    whole = np.square(rows).sum(-1)
    d = rows.shape[-1]
    band = float(betaincinv(rank / 2, (d - rank) / 2, 0.95)) if rank < d else 1.0
    shares = np.divide(inside, whole, out=np.zeros_like(whole), where=whole > 0)
    return RowSpace(shares, rank, d, rank / d, band)
