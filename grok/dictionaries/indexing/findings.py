"""What a pass found of every feature, from its sums, its sample and the dictionary.

Axes: R features of all groups, G groups, F features of a group, L routed layers, E experts,
C cells (layer, expert), D width, K next tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from grok.dictionaries.indexing.association import associated, false_discoveries, strata_of
from grok.dictionaries.indexing.counts import Counts
from grok.dictionaries.indexing.effects import NextTokens, directions_at, next_tokens, pushes
from grok.dictionaries.indexing.likeness import map_of, nearest
from grok.dictionaries.indexing.plan import Plan, Text
from grok.dictionaries.indexing.sample import Pairs, Sample, Words, flips, together, words
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.training.routers import router_maps
from grok.dictionaries.training.source import Computed
from grok.dictionaries.training.windows import Windows, evenly
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.runner.model import Model


class Routes(NamedTuple):
    """Of features and cells [R, C]; not a number where it cannot be said.

    static: logits that a strength of 1 adds, times the root mean square of the stream; push: the
    logits that it adds on average where it is active, less the mean over experts; share: of its
    active tokens that choose the cell; excess: the same in the sample, less what token and text
    tell; p, q: of that; flips: share of active tokens at which a layer chooses others without it
    [R, L].
    """

    static: np.ndarray
    push: np.ndarray
    share: np.ndarray
    excess: np.ndarray
    p: np.ndarray
    q: np.ndarray
    flips: np.ndarray


class Likeness(NamedTuple):
    """near, cosine: rows and cosines of features that write alike [R, K]; places: on the map
    [R, 2], None without one; next: effects on next tokens, None where nothing is written that
    reaches them."""

    near: np.ndarray
    cosine: np.ndarray
    places: np.ndarray | None
    next: NextTokens | None


class Sampled(NamedTuple):
    """pairs: of features active together; words: tokens that carry features."""

    pairs: Pairs
    words: Words


def router_columns_of(model: Model, text: Text, layers: tuple[int, ...]) -> np.ndarray | None:
    """Columns of all routers [L, D, E], fitted on some windows; None where none fit."""
    need = max(2048, 2 * model.config.d_model)
    some = evenly(len(text.tokens), -(-need // max(1, int(np.median(text.lengths))))).tolist()
    values = Computed(model, Windows(text.tokens, text.labels, text.names))
    try:
        return router_maps(values, some, text.lengths, layers)[0]
    except GrokError:  # of another family
        return None


def routes_of(
    counts: Counts, sample: Sample, dictionary: Dictionary, columns: np.ndarray | None,
    layers: tuple[int, ...],
) -> Routes:  # fmt: skip
    """What features have to do with experts.

    Args:
        counts: of the pass.
        sample: of the same tokens.
        dictionary: whose features they are.
        columns: of the routers [L, D, E].
        layers: of the routers [L].
    """
    design, sums = dictionary.design, counts.sums
    n_layers, n_experts = counts.shape
    n = np.maximum(sums["n"], 1)[:, None]
    rows, cells = sums["with_expert"].shape
    static, push, excess, p = (np.full((rows, cells), np.nan, np.float32) for _ in range(4))
    flipped = np.full((rows, n_layers), np.nan, np.float32)
    chosen = sample.chosen()
    strata = strata_of(sample.token, sample.label, sample.window, chosen)
    for group in range(len(design.groups)):
        first = group * design.features
        own = slice(first, first + design.features)
        if columns is not None:
            direct = pushes(design, dictionary.params["decoder"], group, layers, columns)
            scaled = (sums["scaled"][own] / n[own])[:, :, None]
            static[own] = direct.reshape(-1, cells)
            push[own] = (direct * scaled).reshape(-1, cells)
            flipped[own] = flips(sample, first, direct)
        active = sample.active(first, design.features)
        ones = sparse.csc_matrix(
            (np.ones_like(active.data), active.indices, active.indptr), active.shape
        )
        found = associated(ones, strata)
        excess[own], p[own] = found.share - found.expected, found.p
    share = (sums["with_expert"] / n).astype(np.float32)
    return Routes(static, push, share, excess, p, false_discoveries(p), flipped)


def likeness_of(model: Model, dictionary: Dictionary, alive: np.ndarray, plan: Plan) -> Likeness:
    """Features that write alike, a map of all, and what they do to next tokens.

    Args:
        model: of the dictionary.
        dictionary: whose decoders are compared.
        alive: features that were active [R]; the others are no neighbours and lie at 0.
        plan: how many, and which map.
    """
    design, decoders = dictionary.design, dictionary.params["decoder"]
    last = [directions_at(design, decoders, g, model.config.n_layers) for g, _ in
            enumerate(design.groups)]  # fmt: skip
    told = all(one is not None for one in last)
    if told:
        directions = np.concatenate([one for one in last if one is not None])
    else:
        directions = np.concatenate(
            [one.reshape(len(one), -1) for one in map(np.asarray, decoders)]
        )
    some = np.flatnonzero(alive)
    near = np.zeros((len(alive), 0), np.int32)
    cosine = np.zeros((len(alive), 0), np.float32)
    places = None if plan.map == "none" else np.zeros((len(alive), 2), np.float32)
    if len(some) > 1:
        ids, cosines = nearest(directions[some], plan.neighbours)
        near = np.zeros((len(alive), ids.shape[1]), np.int32)
        cosine = np.zeros(near.shape, np.float32)
        near[some], cosine[some] = some[ids], cosines
        if places is not None:
            places[some] = map_of(directions[some], plan.map, plan.seed)
    found = next_tokens(model, directions, plan.logits, plan.column) if told else None
    return Likeness(near, cosine, places, found)


def sampled_of(sample: Sample, dictionary: Dictionary, plan: Plan) -> Sampled:
    """What the sample tells of pairs of features, and of their tokens."""
    groups, features = len(dictionary.design.groups), dictionary.design.features
    pairs = together(sample, groups, features, plan.neighbours)
    return Sampled(pairs, words(sample, groups * features, plan.neighbours))
