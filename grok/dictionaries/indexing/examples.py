"""Contexts that are written: the strongest, some of each quarter, and some to judge by.

Quarters are of a feature's active tokens by strength. A context is chosen from the reservoir with
a chance in proportion to the tokens that it stands for, by a hash, so it depends on no order.

Axes: R features of all groups, N contexts, T tokens of a context. No JAX here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from grok.dictionaries.indexing.contexts import (
    BINS,
    Contexts,
    bin_of,
    hashed,
    no_contexts,
    places_within,
)
from grok.dictionaries.indexing.plan import Plan, Text

# Kinds of contexts: 1 to 4 are the quarters, from the weakest.
TOP, ACTIVE, RANDOM, NEAR = 0, 5, 6, 7
KINDS = ("top", "quarter 1", "quarter 2", "quarter 3", "quarter 4", "active", "random", "near")


class Chosen(NamedTuple):
    """Contexts [N] with their kind and their place among those of one feature and kind."""

    row: np.ndarray
    kind: np.ndarray
    rank: np.ndarray
    window: np.ndarray
    position: np.ndarray


def chosen_examples(
    strongest: Contexts,
    reservoir: Contexts,
    bins: np.ndarray,
    alike: Mapping[str, np.ndarray],
    text: Text,
    plan: Plan,
    skipped: int = 0,
) -> tuple[Chosen, Chosen]:
    """Contexts to show, and contexts to judge explanations by.

    Args:
        strongest, reservoir: of the pass.
        bins: histogram of each feature [R, BINS].
        alike: features that are alike, `row` and `other`.
        text: of the pass.
        plan: how many.
        skipped: positions at the start of each window that do not count.
    """
    strongest = strongest.at(np.lexsort((strongest.window, -strongest.value, strongest.row)))
    top = strongest.at(places_within(strongest.row) < plan.shown_top)
    bin_ = bin_of(reservoir.value)
    cell = reservoir.row.astype(np.int64) * BINS + bin_
    held = np.bincount(cell, minlength=bins.size)
    weight = bins.ravel()[cell] / np.maximum(held[cell], 1)
    key = _waiting(reservoir, plan.seed, weight)
    below = (np.cumsum(bins, axis=1) - bins / 2).ravel()[cell]
    quarter = np.minimum(4 * below / np.maximum(bins.sum(1)[reservoir.row], 1), 3.999)
    quarter = quarter.astype(np.int64) + 1
    shown_already = np.isin(_places(reservoir), _places(top))
    order = np.lexsort((key, quarter, reservoir.row))
    order = order[~shown_already[order]]
    rank = places_within(reservoir.row[order].astype(np.int64) * 8 + quarter[order])
    few = rank < plan.shown_band
    band = reservoir.at(order[few])
    shown = _in_order(
        _chosen(top, np.zeros(len(top.row), np.int64)), _chosen(band, quarter[order[few]])
    )
    if not plan.judged:
        return shown, _chosen(top.at(np.zeros(0, int)), np.zeros(0, np.int64))
    order = np.lexsort((_waiting(reservoir, plan.seed + 1, weight), reservoir.row))
    order = order[places_within(reservoir.row[order]) < plan.judged]
    active = reservoir.at(order)
    near = _of_others(active, alike, plan)
    random = _anywhere(np.flatnonzero(bins.sum(1)), text, plan, skipped)
    judged = _in_order(
        *(
            _chosen(one, np.full(len(one.row), kind))
            for kind, one in ((ACTIVE, active), (RANDOM, random), (NEAR, near))
        )
    )
    return shown, judged


def _waiting(found: Contexts, seed: int, weight: np.ndarray) -> np.ndarray:
    """Times after which contexts come, exponential with their weights as rates."""
    u = (hashed(seed, 3, found.row, found.window, found.position) >> np.uint64(11)).astype(float)
    return np.asarray(-np.log((u + 1) / 2**53) / np.maximum(weight, 1e-9))


def _places(found: Contexts) -> np.ndarray:
    return hashed(found.row, found.window, found.position)


def _chosen(found: Contexts, kind: np.ndarray) -> Chosen:
    return Chosen(found.row, kind.astype(np.int8), kind, found.window, found.position)


def _in_order(*parts: Chosen) -> Chosen:
    """By feature and kind, each with its place among its like."""
    whole = Chosen(*(np.concatenate(one) for one in zip(*parts, strict=True)))
    order = np.lexsort((np.arange(len(whole.row)), whole.kind, whole.row))
    whole = Chosen(*(one[order] for one in whole))
    rank = places_within(whole.row.astype(np.int64) * 8 + whole.kind)
    return whole._replace(rank=rank.astype(np.int16))


def _of_others(active: Contexts, alike: Mapping[str, np.ndarray], plan: Plan) -> Contexts:
    """Contexts of features that are alike, as hard cases for the one they are like."""
    starts = np.searchsorted(active.row, alike["other"])
    counts = np.searchsorted(active.row, alike["other"], side="right") - starts
    each = np.minimum(counts, max(1, plan.judged // (2 * plan.neighbours)))
    row = np.repeat(alike["row"], each)
    at = np.repeat(starts, each) + places_within(np.repeat(np.arange(len(each)), each))
    found = Contexts(row.astype(np.int32), active.window[at], active.position[at], active.value[at])
    found = found.at(np.lexsort((_places(found), found.row)))
    return found.at(places_within(found.row) < plan.judged // 2)


def _anywhere(rows: np.ndarray, text: Text, plan: Plan, skipped: int) -> Contexts:
    """Places at random in text that contexts may come from."""
    fine = np.flatnonzero(text.held_out | ~np.bool_(plan.held_out_only))
    fine = fine[text.lengths[fine] > skipped]
    n = plan.judged // 2
    if not fine.size:
        return no_contexts()
    row = np.repeat(rows, n)
    turn = np.tile(np.arange(n), len(rows))
    window = fine[(hashed(plan.seed, 5, row, turn) % np.uint64(len(fine))).astype(np.int64)]
    room = (text.lengths[window] - skipped).astype(np.uint64)
    position = skipped + (hashed(plan.seed, 6, row, turn) % room).astype(np.int64)
    return Contexts(
        row.astype(np.int32),
        window.astype(np.int32),
        position.astype(np.int32),
        np.zeros(len(row), np.float32),
    )


def starts_of(position: np.ndarray, plan: Plan) -> np.ndarray:
    """The first token of the context around each position."""
    return np.maximum(position - plan.before, 0)


def stops_of(position: np.ndarray, lengths: np.ndarray, plan: Plan) -> np.ndarray:
    """One after the last token of the context around each position, in windows so long."""
    return np.minimum(position + plan.after + 1, lengths)


def take_rows(
    values: np.ndarray,
    chosen: Chosen,
    part: Sequence[int],
    features: Sequence[np.ndarray],
    text: Text,
    plan: Plan,
) -> None:
    """Puts strengths at the tokens of contexts in their places.

    Args:
        values: of all contexts [N, T] float32, 0 beyond a context's end; changed.
        chosen: the contexts.
        part: windows that were read.
        features: strengths at all their tokens, [B, F] of each group.
        text: of the pass.
        plan: how long contexts are.
    """
    first = dict(zip(part, np.cumsum([0, *text.lengths[list(part)]]).tolist(), strict=False))
    own = np.flatnonzero(np.isin(chosen.window, list(part)))
    if not own.size:
        return
    n_features = features[0].shape[1]
    base = np.array([first[w] for w in chosen.window[own].tolist()])
    start = starts_of(chosen.position[own], plan)
    stop = stops_of(chosen.position[own], text.lengths[chosen.window[own]], plan)
    place = start[:, None] + np.arange(values.shape[1])
    inside = place < stop[:, None]
    token = base[:, None] + np.minimum(place, stop[:, None] - 1)
    group, feature = np.divmod(chosen.row[own], n_features)
    for g in np.unique(group):
        mine = group == g
        found = features[g][token[mine], feature[mine][:, None]]
        values[own[mine]] = np.where(inside[mine], found, 0.0)
