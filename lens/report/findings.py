"""Findings of a report, in sentences, each with its null."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lens.clustering.tree_null import groups_in_words
from lens.errors import LensError
from lens.report.numbers import RouterNumbers
from lens.words import fixed, p_value_text


def findings_of(n: RouterNumbers) -> dict[str, list[str]]:
    """Sentences for each section; what cannot be asked of a set is left out."""
    found: dict[str, list[str]] = {}
    for section, make in (
        ("Layers", _pairs),
        ("Layers", _transitions),
        ("Experts", _chains),
        ("Experts", _within),
        ("Clustering", _groups),
    ):
        sentence = _made(make, n)
        if sentence:
            found.setdefault(section, []).append(sentence)
    return found


def _made(make: Callable[[RouterNumbers], str], n: RouterNumbers) -> str:
    try:
        return make(n)
    except LensError:
        return ""


def _pairs(n: RouterNumbers) -> str:
    null = n.null
    pairs = n.gram.n_layers * (n.gram.n_layers - 1) // 2
    return (
        f"{null.found()} of {pairs:,} pairs of layers are more alike than chance at a false "
        f"discovery rate of 5 % ({null.method}; {null.draws:,} draws, seed {null.seed})."
    )


def _transitions(n: RouterNumbers) -> str:
    found = n.transitions
    if not np.isfinite(found.threshold):
        return ""
    at = [
        f"{n.labels[a]}→{n.labels[b]} (p {p_value_text(p, found.draws)})"
        for (a, b), p, real in zip(n.adjacent.pairs, found.p, found.found, strict=True)
        if real
    ]
    where = ", ".join(at) if at else "none"
    return (
        "Transitions between adjacent layers beyond the largest change of unrelated layers: "
        f"{where} ({found.draws:,} draws, seed {found.seed})."
    )


def _chains(n: RouterNumbers) -> str:
    found = n.chains
    return (
        f"{found.n_beyond:,} of {found.q.size:,} matches between adjacent layers beat chance "
        f"(false discovery rate 5 %; {found.draws:,} draws a link, seed {found.seed}); the longest "
        f"chain goes through {len(found.chains[0])} of {n.gram.n_layers} layers."
    )


def _groups(n: RouterNumbers) -> str:
    return f"{groups_in_words(n.group_null)} Drawn sets: {n.group_null.method}."


def _within(n: RouterNumbers) -> str:
    found = n.within
    upper = np.triu_indices(n.gram.n_experts, 1)
    q = found.q[:, upper[0], upper[1]]
    baseline = fixed(found.baseline, 3)
    return (
        f"Within their layers {int((q <= 0.05).sum()):,} of {q.size:,} pairs of experts are other "
        f"than {found.null} ({baseline} ± {found.sd.mean():.3f}, unrelated columns ± "
        f"{found.unrelated_sd:.3f}; {found.draws:,} draws, seed {found.seed})."
    )
