"""Columns of the tables of a database, from what a pass found.

Axes: R features of all groups, L routed layers, E experts, C cells (layer, expert).
No JAX here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from grok.dictionaries.indexing.contexts import BINS
from grok.dictionaries.indexing.counts import Counts
from grok.dictionaries.indexing.effects import NextTokens
from grok.dictionaries.indexing.examples import Chosen, starts_of, stops_of
from grok.dictionaries.indexing.findings import Likeness, Routes, Sampled
from grok.dictionaries.indexing.plan import Plan, Text
from grok.dictionaries.indexing.tables import listed, of_rows
from grok.dictionaries.kinds.design import Design

Columns = dict[str, Any]
FOUND = 0.05  # q below which an association is one
HALF = pa.float16()


def keys_of(row: np.ndarray, features: int) -> Columns:
    """Group and feature of rows."""
    return {
        "group": pa.array(row // features, pa.int16()),
        "feature": pa.array(row % features, pa.int32()),
    }


def half(values: np.ndarray) -> pa.Array:
    """Values as float16, as large as that holds; null where they are no number."""
    small = np.clip(values, -65504, 65504).astype(np.float16)
    return pa.array(small, HALF, mask=np.isnan(small))


def feature_columns(
    counts: Counts,
    explained: dict[str, np.ndarray],
    routes: Routes,
    likeness: Likeness,
    sampled: Sampled,
    design: Design,
) -> Columns:
    """One row for each feature."""
    sums, rows = counts.sums, len(counts.largest)
    n, tokens = sums["n"], sums["tokens"].sum()
    used = sums["bins"] > 0
    first = np.where(used.any(1), used.argmax(1), 0)
    stop = np.where(used.any(1), BINS - used[:, ::-1].argmax(1), 0)
    inside = (np.arange(BINS) >= first[:, None]) & (np.arange(BINS) < stop[:, None])
    points = [design.targets[group.writes[0]] for group in design.groups]
    layer = np.array([point.layer for point in points] if len(points) > 1 else [-1])
    columns = keys_of(np.arange(rows), design.features)
    columns |= {
        "layer": pa.array(np.repeat(layer, design.features), pa.int16()),
        "n": pa.array(n, pa.int32()),
        "rate": pa.array((n / tokens).astype(np.float32)),
        "mean": pa.array((sums["total"] / np.maximum(n, 1)).astype(np.float32)),
        "max": pa.array(counts.largest),
        "bin_first": pa.array(first, pa.uint8()),
        "bins": listed(sums["bins"][inside], inside.sum(1), pa.int32()),
        "label_rates": _lists(sums["by_label"] / np.maximum(sums["tokens"], 1)),
    }
    columns |= {f"by_{name}": half(values) for name, values in explained.items()}
    columns |= _likeness(likeness, n > 0) | _sampled(sampled, rows) | _routed(routes, counts.shape)
    return columns


def _lists(values: np.ndarray) -> pa.ListArray:
    small = np.clip(values, -65504, 65504).astype(np.float16)
    return listed(small.ravel(), np.full(len(small), small.shape[1]), HALF)


def _likeness(likeness: Likeness, alive: np.ndarray) -> Columns:
    width = np.where(alive, likeness.near.shape[1], 0)
    columns = {
        "near": listed(likeness.near[alive].ravel(), width, pa.int32()),
        "near_cosine": listed(likeness.cosine[alive].ravel().astype(np.float16), width, HALF),
    }
    if likeness.places is not None:
        columns |= {"x": half(likeness.places[:, 0]), "y": half(likeness.places[:, 1])}
    if likeness.next is not None:
        k = np.where(alive, likeness.next.ids.shape[2], 0)
        for i, name in enumerate(("raised", "lowered")):
            ids, values = likeness.next.ids[alive, i], likeness.next.values[alive, i]
            columns[name] = listed(ids.ravel(), k, pa.int32())
            columns[f"{name}_by"] = listed(values.ravel().astype(np.float16), k, HALF)
    return columns


def _sampled(sampled: Sampled, rows: int) -> Columns:
    pairs, words = sampled.pairs, sampled.words
    return {
        "with": of_rows(pairs.row, rows, pairs.other, pa.int32()),
        "with_pmi": of_rows(pairs.row, rows, pairs.pmi.astype(np.float16), HALF),
        "with_jaccard": of_rows(pairs.row, rows, pairs.jaccard.astype(np.float16), HALF),
        "words": of_rows(words.row, rows, words.token, pa.int32()),
        "word_shares": of_rows(words.row, rows, words.share.astype(np.float16), HALF),
    }


def _routed(routes: Routes, shape: tuple[int, int]) -> Columns:
    """The largest effect and the strongest association of each feature."""
    found = np.where(routes.q <= FOUND, np.abs(routes.excess), 0.0)
    flips = np.nan_to_num(routes.flips)
    cell = np.nan_to_num(np.abs(routes.push)).argmax(1)
    push = np.take_along_axis(routes.push, cell[:, None], 1)[:, 0]
    return {
        "push": half(np.nan_to_num(push)),
        "push_layer": pa.array(cell // shape[1], pa.int16()),
        "push_expert": pa.array(cell % shape[1], pa.int16()),
        "excess": half(found.max(1)),
        "associations": pa.array((routes.q <= FOUND).sum(1), pa.int16()),
        "flips": half(flips.max(1)),
        "flips_layer": pa.array(flips.argmax(1), pa.int16()),
    }


def route_columns(
    routes: Routes, alive: np.ndarray, shape: tuple[int, int], features: int, plan: Plan
) -> Columns:
    """A row for each feature and cell that is among the strongest of either."""
    size = np.nan_to_num(np.abs(routes.push)) * alive[:, None]
    found = np.where(routes.q <= FOUND, np.abs(routes.excess), 0.0) * alive[:, None]
    kept = np.zeros(size.shape, bool)
    for values in (size, found):
        for one, most in ((values, plan.routes), (values.T, plan.column)):
            mine = kept if one is values else kept.T
            most = min(most, one.shape[1])
            if most:
                few = np.argpartition(-one, most - 1, axis=1)[:, :most]
                strong = np.take_along_axis(one, few, 1) > 0
                rows = np.repeat(np.arange(len(one)), most).reshape(few.shape)
                mine[rows[strong], few[strong]] = True
    row, cell = np.nonzero(kept)
    columns = keys_of(row, features) | {
        "layer": pa.array(cell // shape[1], pa.int16()),
        "expert": pa.array(cell % shape[1], pa.int16()),
    }
    for name in ("static", "push", "share", "excess"):
        columns[name] = half(getattr(routes, name)[row, cell])
    with np.errstate(divide="ignore"):
        columns["log10_p"] = half(np.log10(routes.p[row, cell]))
        columns["log10_q"] = half(np.log10(routes.q[row, cell]))
    columns["flips"] = half(routes.flips[row, cell // shape[1]])
    return columns


def logit_columns(found: NextTokens, alive: np.ndarray, features: int) -> Columns:
    """A row for each token and feature among those that raise or lower it most."""
    token, row, value = found.column
    fine = alive[row]
    token, row, value = token[fine], row[fine], value[fine]
    order = np.lexsort((-value, token))
    token, row, value = token[order], row[order], value[order]
    return {
        "token": pa.array(token, pa.int32()), **keys_of(row, features), "value": half(value)
    }  # fmt: skip


def example_columns(
    chosen: Chosen, values: np.ndarray, text: Text, features: int, plan: Plan
) -> Columns:
    """A row for each context; `values` [N, T] are strengths at its tokens."""
    start = starts_of(chosen.position, plan)
    stop = stops_of(chosen.position, text.lengths[chosen.window], plan)
    width = stop - start
    inside = np.arange(values.shape[1]) < width[:, None]
    marked = values[np.arange(len(values)), chosen.position - start]
    return keys_of(chosen.row, features) | {
        "kind": pa.array(chosen.kind, pa.uint8()),
        "rank": pa.array(chosen.rank, pa.int16()),
        "window": pa.array(chosen.window, pa.int32()),
        "position": pa.array(chosen.position, pa.int32()),
        "value": pa.array(marked.astype(np.float32)),
        "start": pa.array(start, pa.int32()),
        "values": listed(values[inside].astype(np.float16), width, HALF),
    }


def window_columns(text: Text, used: np.ndarray) -> Columns:
    """A row for each window that a context is of."""
    tokens = [text.tokens[w] for w in used.tolist()]
    return {
        "window": pa.array(used, pa.int32()),
        "label": pa.array(text.labels[used], pa.int16()),
        "held_out": pa.array(text.held_out[used]),
        "tokens": listed(
            np.concatenate([*tokens, np.zeros(0, np.int32)]),
            np.array([len(one) for one in tokens], np.int64),
            pa.int32(),
        ),
    }
