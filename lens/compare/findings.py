"""Findings of a comparison of two router sets, in sentences, each with its null."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lens.compare.parts import DEPTH, EXPERTS, LAYERS
from lens.layers.similarity import LAYER_METRICS
from lens.model_pairs.comparison import (
    LEVEL,
    SHARED_ONLY,
    Comparison,
    Structure,
    why_not_directions,
)
from lens.model_pairs.depth_profiles import Profile
from lens.routers.router_set import RouterSet, layer_labels
from lens.words import fixed, p_value_text, significant, similarity_text

NAMED = 8  # layers or experts that a line names
FAR = 60.0  # degrees
TOLD = ("unrelated", SHARED_ONLY, "changed", "changed, relabelled", "relabelled")


def findings_of(
    a: RouterSet,
    b: RouterSet,
    found: Comparison | None,
    alike: Structure,
    profiles: Sequence[Profile] = (),
) -> dict[str, list[str]]:
    """Sentences for each section of the comparison."""
    if found is None:
        sections = {
            LAYERS: [
                f"Directions cannot be compared: {why_not_directions(a, b)}. What follows compares "
                "how the layers of each set relate to each other."
            ]
        }
    else:
        sections = {LAYERS: _layers(a, b, found), EXPERTS: _experts(a, found)}
    return {**sections, DEPTH: [*_structure(found, alike), *_profiles(profiles)]}


def _layers(a: RouterSet, b: RouterSet, found: Comparison) -> list[str]:
    labels, metric = layer_labels(a), LAYER_METRICS[found.metric].label
    verdicts = [found.verdict(pair) for pair in range(len(found.pairs))]
    counted = Counter(verdicts)
    many = len(found.pairs)
    lines = [
        f"{many} layer{' has' if many == 1 else 's have'} the same number in both: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counted.most_common())
        + f". Changed: more like its counterpart than {found.null}; unrelated: no more than layers "
        f"turned at random ({found.unrelated_draws:,} draws; seed {found.seed})."
    ]
    left_out = a.n_layers - many, b.n_layers - many
    if any(left_out):
        lines.append(f"Without a counterpart: {left_out[0]} layers of A, {left_out[1]} of B.")
    for verdict in TOLD:
        pairs = [pair for pair, said in enumerate(verdicts) if said == verdict]
        if not pairs:
            continue
        pairs.sort(key=lambda pair: found.similarity[pair])
        named = ", ".join(
            f"{labels[found.pairs[pair, 0]]} ({metric} {similarity_text(found.similarity[pair])} "
            f"[{similarity_text(found.low[pair])}, {similarity_text(found.high[pair])}], "
            f"q {p_value_text(found.q[pair])})"
            for pair in pairs[:NAMED]
        )
        lines.append(f"{verdict.capitalize()}: {named}{_more(pairs)}.")
    moved = [
        (row, int(other))
        for row, other in found.pairs
        if found.alignment[row] >= 0 and found.alignment[row] != other
    ]
    if moved:
        shown = ", ".join(
            f"{labels[row]} → {b.label(int(found.alignment[row]))} "
            f"(q {p_value_text(found.all_q[row, found.alignment[row]])})"
            for row, _ in moved[:NAMED]
        )
        lines.append(
            f"By the best assignment of all layers {len(moved)} stand elsewhere in B: "
            f"{shown}{_more(moved)}."
        )
    return lines


def _experts(a: RouterSet, found: Comparison) -> list[str]:
    lines = []
    lost = np.argwhere(found.expert_q > LEVEL)
    beyond = found.expert_q.size - len(lost)
    angles = found.angle[found.expert_q <= LEVEL]
    apart = (
        f"; their directions are {significant(np.median(angles), 2)}° apart (median)"
        if beyond
        else ""
    )
    lines.append(
        f"{beyond:,} of {found.expert_q.size:,} experts have a counterpart nearer than what both "
        f"layers read explains (q ≤ {LEVEL:g}; experts mixed within their layers and "
        f"matched anew, {found.expert_draws:,} draws of all experts of a layer, seed {found.seed}; "
        f"mean cosine {fixed(found.cosine.mean(), 3)}, mixed "
        f"{fixed(found.mixed_cosine, 3)}){apart}."
    )
    if 0 < len(lost) < found.expert_q.size:
        named = ", ".join(
            a.label(int(found.pairs[pair, 0]), int(expert)) for pair, expert in lost[:NAMED]
        )
        lines.append(f"Without one: {named}{_more(lost)}.")
    far = np.argwhere((found.expert_q <= LEVEL) & (found.angle > FAR))
    far = far[np.argsort(-found.angle[tuple(far.T)], kind="stable")]
    if len(far):
        named = ", ".join(
            f"{a.label(int(found.pairs[pair, 0]), int(expert))} "
            f"({fixed(found.angle[pair, expert], 0)}°)"
            for pair, expert in far[:NAMED]
        )
        lines.append(f"Nearer than that but more than {FAR:g}° apart: {named}{_more(far)}.")
    changed = np.abs(found.breadth_change)
    pair, expert = np.unravel_index(int(changed.argmax()), changed.shape)
    if changed[pair, expert] < 5e-4:
        most = "No expert's selection probability changed by 0.0005 (isotropic prior)"
    else:
        most = (
            "Largest change of selection probability (isotropic prior): "
            f"{a.label(int(found.pairs[pair, 0]), int(expert))} by "
            f"{fixed(found.breadth_change[pair, expert], 3, sign=True)}"
        )
    null = ""
    if found.breadth_null is not None:
        band = found.breadth_null
        null = (
            f"; between equal experts ({band.null}) it is {significant(band.low, 2)} to "
            f"{significant(band.high, 2)} in "
            "95 % of draws"
        )
    return [*lines, f"{most}{null}."]


def _structure(found: Comparison | None, alike: Structure) -> list[str]:
    dimensions = ", ".join(
        f"{name} {'unknown of one layer' if np.isnan(one) else f'{fixed(one, 1)} of {width:,}'}"
        for name, (one, width) in zip("AB", alike.dimensions, strict=True)
    )
    lines = [f"Effective dimension, from pairs of different layers: {dimensions}."]
    if alike.same and (found is None or not found.same.all()):
        lines.append(
            "Rotated alike: every similarity between layers of A is the same in B to rounding, "
            "and so is the inner geometry of every layer. B is A with its residual stream turned, "
            "up to the scale of layers and the labels of experts."
        )
    if np.isnan(alike.correlation):
        least = 4
        reason = (
            f"the smaller set has {alike.n_layers} layers; {least} are needed"
            if alike.n_layers < least
            else "all pairs of layers of one set are equally alike"
        )
        lines.append(f"Structure over depth: not compared; {reason}.")
    else:
        verdict = "alike" if alike.p <= LEVEL else "not distinguishable from chance"
        lines.append(
            f"Structure over depth: {verdict}; the CKA matrices of {alike.n_layers} layers, paired "
            f"by relative depth, correlate by {fixed(alike.correlation, 3)}; random pairings do so "
            "with "
            f"p {p_value_text(alike.p, alike.draws)} ({alike.draws:,} draws, seed {alike.seed})."
        )
    return lines


def _profiles(profiles: Sequence[Profile]) -> list[str]:
    lines = []
    for profile in profiles:
        if np.isnan(profile.correlation):
            continue
        verdict = "alike" if profile.q <= LEVEL else "not distinguishable from chance"
        correlation = fixed(profile.correlation, 2)
        if profile.q <= LEVEL and profile.correlation < 0:
            verdict = "opposite"
        lines.append(
            f"Course over depth of the {profile.name}: {verdict}; correlation {correlation}, "
            f"q {p_value_text(profile.q)} ({profile.draws:,} shuffled orders, seed {profile.seed})."
        )
    return lines


def _more(all_of: Sequence[object] | np.ndarray) -> str:
    return f" and {len(all_of) - NAMED} more" if len(all_of) > NAMED else ""
