"""Tokens whose active features are all kept, and what needs them together.

A sampled part is a file of its own beside the state of a pass, so the sample grows with the plan
and not with the text, and parts of several shards lie together.

Axes: L routed layers, B sampled tokens, E experts, K experts a token, G groups, F features of a
group, R features of all groups, C cells (layer, expert).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

from grok.dictionaries.indexing.contexts import places_within
from grok.dictionaries.indexing.reading import Seen
from grok.files import write_whole

TOGETHER = 32_768  # tokens on which features are counted together
LEAST_TOGETHER = 5
LEAST_JACCARD = 0.02


class Sample(NamedTuple):
    """Sampled tokens.

    token, label, window: [B]; experts [L, B, K]; logits [L, B, E]; scale [L, B];
    at, row, value: of everything active, the token's place, the feature's row, its strength.
    """

    token: np.ndarray
    label: np.ndarray
    window: np.ndarray
    experts: np.ndarray
    logits: np.ndarray
    scale: np.ndarray
    at: np.ndarray
    row: np.ndarray
    value: np.ndarray

    def chosen(self) -> np.ndarray:
        """Cells that tokens chose, 0 or 1 [B, C]."""
        layers, b, _ = self.experts.shape
        e = self.logits.shape[-1]
        out = np.zeros((b, layers, e), np.float32)
        for layer in range(layers):
            np.put_along_axis(out[:, layer], self.experts[layer].astype(np.int64), 1.0, axis=1)
        return out.reshape(b, layers * e)

    def active(self, first: int, features: int, most: int | None = None) -> sparse.csc_matrix:
        """Strengths of some features at the tokens, or the first of them, [B, F]."""
        own = (self.row >= first) & (self.row < first + features)
        b = len(self.token)
        if most is not None and most < b:
            own &= self.at < most
            b = most
        return sparse.csc_matrix(
            (self.value[own], (self.at[own], self.row[own] - first)), (b, features)
        )


def write_sampled(file: Path, seen: Seen, features: int) -> None:
    """Writes a part of the sample."""
    rows = [one.feature + group * features for group, one in enumerate(seen.fired)]
    own = Sample(
        seen.token,
        seen.label,
        seen.window,
        seen.experts.astype(np.int16),
        seen.logits.astype(np.float32),
        seen.scale,
        np.concatenate([one.token for one in seen.fired]),
        np.concatenate(rows).astype(np.int32),
        np.concatenate([one.value for one in seen.fired]).astype(np.float32),
    )
    write_whole(file, lambda stream: np.savez(stream, **own._asdict()))


def read_sampled(files: Sequence[Path], *, mixed: bool = True) -> Sample:
    """All parts of a sample.

    Args:
        files: of the parts.
        mixed: deal tokens out, so that the first ones are of all texts.
    """
    parts = []
    first = 0
    for file in files:
        with np.load(file, allow_pickle=False) as found:
            own = Sample(*(found[name] for name in Sample._fields))
        parts.append(own._replace(at=own.at + first))
        first += len(own.token)
    axes = {"experts": 1, "logits": 1, "scale": 1}
    whole = Sample(
        *(
            np.concatenate([getattr(one, name) for one in parts], axis=axes.get(name, 0))
            for name in Sample._fields
        )
    )
    if not mixed:
        return whole
    order = np.random.default_rng(0).permutation(first)
    back = np.argsort(order)
    return Sample(
        whole.token[order],
        whole.label[order],
        whole.window[order],
        whole.experts[:, order],
        whole.logits[:, order],
        whole.scale[:, order],
        back[whole.at],
        whole.row,
        whole.value,
    )


def flips(sample: Sample, first: int, pushes: np.ndarray) -> np.ndarray:
    """Share of a feature's active tokens at which other experts are chosen without it [F, L].

    Its direct part is taken out of the logits, with the norm's scale held. Not a number where it
    writes nothing before a router, or was never active in the sample.

    Args:
        sample: of a pass.
        first: row of the group's first feature.
        pushes: of the group [F, L, E].
    """
    features, layers, _ = pushes.shape
    own = np.flatnonzero((sample.row >= first) & (sample.row < first + features))
    at, feature, value = sample.at[own], sample.row[own] - first, sample.value[own]
    n = np.bincount(feature, minlength=features)
    out = np.full((features, layers), np.nan, np.float32)
    for layer in range(layers):
        if np.isnan(pushes[:, layer]).all():
            continue
        taken = (value * sample.scale[layer, at])[:, None] * pushes[feature, layer]
        z = sample.logits[layer, at] - taken
        chosen = np.zeros(z.shape, bool)
        np.put_along_axis(chosen, sample.experts[layer, at].astype(np.int64), True, axis=1)
        weakest = np.where(chosen, z, np.inf).min(1)
        other = np.where(chosen, -np.inf, z).max(1)
        flipped = np.bincount(feature, other > weakest, minlength=features)
        out[:, layer] = np.where(n > 0, flipped / np.maximum(n, 1), np.nan)
    return out


class Pairs(NamedTuple):
    """Pairs of features by row: how often both, log P(both)/P(one)P(other) in nats, Jaccard."""

    row: np.ndarray
    other: np.ndarray
    n: np.ndarray
    pmi: np.ndarray
    jaccard: np.ndarray


def together(sample: Sample, groups: int, features: int, most: int) -> Pairs:
    """The features that each is active with most, by Jaccard: both over either.

    Args:
        sample: of a pass.
        groups, features: G and F.
        most: pairs of a feature.
    """
    b = min(TOGETHER, len(sample.token))
    some = sample.at < b
    ones = np.ones(int(some.sum()), np.int32)
    every = sparse.csr_matrix((ones, (sample.row[some], sample.at[some])), (groups * features, b))
    counts = np.asarray(every.sum(1)).ravel().astype(np.float64)
    by_token = sparse.csr_matrix(every.T)
    kept: list[Pairs] = []
    for group in range(groups):
        first = group * features
        both = (every[first : first + features] @ by_token).tocoo()
        row, other, n = both.row.astype(np.int64) + first, both.col.astype(np.int64), both.data
        jaccard = n / np.maximum(counts[row] + counts[other] - n, 1)
        fine = (row != other) & (n >= LEAST_TOGETHER) & (jaccard >= LEAST_JACCARD)
        row, other, n, jaccard = row[fine], other[fine], n[fine], jaccard[fine]
        order = np.lexsort((other, -jaccard, row))
        order = order[places_within(row[order]) < most]
        row, other, n, jaccard = row[order], other[order], n[order], jaccard[order]
        kept.append(Pairs(row, other, n, np.log(n * b / (counts[row] * counts[other])), jaccard))
    return Pairs(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))


class Words(NamedTuple):
    """Tokens at which features are most active: row, token, share of its strength there, and how
    many of its active tokens that is."""

    row: np.ndarray
    token: np.ndarray
    share: np.ndarray
    n: np.ndarray


def words(sample: Sample, features: int, most: int) -> Words:
    """The tokens that carry most of each feature's strength.

    Args:
        sample: of a pass.
        features: R.
        most: tokens of a feature.
    """
    total = np.bincount(sample.row, sample.value, minlength=features)
    token = sample.token[sample.at].astype(np.int64)
    span = int(token.max(initial=0)) + 1
    keys, which = np.unique(sample.row.astype(np.int64) * span + token, return_inverse=True)
    own = np.bincount(which, sample.value, minlength=len(keys))
    n = np.bincount(which, minlength=len(keys))
    row, token = keys // span, keys % span
    share = own / np.maximum(total[row], 1e-30)
    order = np.lexsort((token, -share, row))
    order = order[places_within(row[order]) < most]
    return Words(row[order], token[order], share[order], n[order])
