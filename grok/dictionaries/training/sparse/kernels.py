"""Products of sparse features on the processor: only what is active is touched.

Plain loops that numba compiles. Each gives up Python's lock and works on its own part of the data,
tokens or a group, so callers share the parts out among threads; within a part the order of sums is
fixed, so results do not depend on who finishes first.

Axes: B tokens, F features of a group, N active (token, feature) pairs of a group, in the order of
tokens; W·D all that a group writes, R·D all that it reads.
"""

from __future__ import annotations

import numba
import numpy as np

# Sums of products may be reordered into vectors, the same way in every run.
VECTORS = {"reassoc", "contract", "nsz"}


@numba.njit(nogil=True, cache=True, fastmath=VECTORS)
def count_above(pre, gate, bar, allowed):  # type: ignore[no-untyped-def]
    """How many of each token's gated pre-activations [B, F] reach a bar, [B].

    Args:
        pre: [B, F].
        gate: [F].
        bar: a positive number.
        allowed: features that count [F] bool.
    """
    n = np.zeros(pre.shape[0], np.int64)
    for b in range(pre.shape[0]):
        row, total = pre[b], np.int32(0)
        for f in range(row.shape[0]):
            total += np.int32((row[f] * gate[f] >= bar) & allowed[f])
        n[b] = total
    return n


@numba.njit(nogil=True, cache=True)
def take_above(pre, gate, bar, allowed, starts):  # type: ignore[no-untyped-def]
    """The pairs that `count_above` counted: feature [N] int32, gated value [N].

    Args:
        starts: of each token's pairs, and their number [B + 1].
    """
    features = np.empty(starts[-1], np.int32)
    gated = np.empty(starts[-1], np.float32)
    for b in range(pre.shape[0]):
        at = starts[b]
        if at == starts[b + 1]:
            continue
        for f in range(pre.shape[1]):
            value = pre[b, f] * gate[f]
            if value >= bar and allowed[f]:
                features[at] = f
                gated[at] = value
                at += 1
    return features, gated


@numba.njit(nogil=True, cache=True)
def add_decoded(out, first, last, starts, features, values, decoder, offset):  # type: ignore[no-untyped-def]
    """Adds what tokens `first` to `last` write to `out` [B, M·D], from column `offset` on."""
    width = decoder.shape[1]
    for b in range(first, last):
        into = out[b, offset : offset + width]
        for i in range(starts[b], starts[b + 1]):
            value, row = values[i], decoder[features[i]]
            for d in range(width):
                into[d] += value * row[d]


@numba.njit(nogil=True, cache=True, fastmath=VECTORS)
def to_values(given, starts, features, decoder, offset):  # type: ignore[no-untyped-def]
    """The gradient of each pair's value [N], of that of the output `given` [B, M·D]."""
    back = np.empty(features.shape[0], np.float32)
    width = decoder.shape[1]
    for b in range(starts.shape[0] - 1):
        own = given[b, offset : offset + width]
        for i in range(starts[b], starts[b + 1]):
            row = decoder[features[i]]
            total = np.float32(0.0)
            for d in range(width):
                total += own[d] * row[d]
            back[i] = total
    return back


@numba.njit(nogil=True, cache=True)
def by_feature(starts, features, n_features):  # type: ignore[no-untyped-def]
    """Pairs in the order of features: starts [F + 1], the pair [N] and its token [N] of each."""
    firsts = np.zeros(n_features + 1, np.int64)
    for f in features:
        firsts[f + 1] += 1
    for f in range(n_features):
        firsts[f + 1] += firsts[f]
    at = firsts[:-1].copy()
    pairs = np.empty(features.shape[0], np.int64)
    tokens = np.empty(features.shape[0], np.int64)
    for b in range(starts.shape[0] - 1):
        for i in range(starts[b], starts[b + 1]):
            f = features[i]
            pairs[at[f]] = i
            tokens[at[f]] = b
            at[f] += 1
    return firsts, pairs, tokens


@numba.njit(nogil=True, cache=True)
def add_outer(into, firsts, pairs, tokens, weights, rows, offset):  # type: ignore[no-untyped-def]
    """Adds to each feature's row of `into` [F, width] the rows of its tokens times its weights.

    Args:
        weights: of each pair [N].
        rows: [B, at least offset + width].
    """
    width = into.shape[1]
    for f in range(into.shape[0]):
        own = into[f]
        for i in range(firsts[f], firsts[f + 1]):
            weight, row = weights[pairs[i]], rows[tokens[i], offset : offset + width]
            for d in range(width):
                own[d] += weight * row[d]


@numba.njit(nogil=True, cache=True)
def summed(into, features, weights):  # type: ignore[no-untyped-def]
    """Adds the weights of each feature's pairs to `into` [F]."""
    for i in range(features.shape[0]):
        into[features[i]] += weights[i]
