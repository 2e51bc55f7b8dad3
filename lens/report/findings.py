"""Findings of a report, in sentences, each with its null."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lens.clustering.tree_null import groups_finding
from lens.errors import LensError
from lens.experts.unequal_experts import longest_expert, longest_in_words
from lens.layers.pair_null import pairs_finding
from lens.layers.references import REFERENCE_LABELS
from lens.report.numbers import RouterNumbers
from lens.words import fixed, p_value_text, significant


def findings_of(n: RouterNumbers) -> dict[str, list[str]]:
    """Sentences for each section; what cannot be asked of a set is left out."""
    found: dict[str, list[str]] = {}
    for section, make in (
        ("Layers", _pairs),
        ("Layers", _transitions),
        ("Experts", _chains),
        ("Experts", _lengths),
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
    return pairs_finding(n.null).detail


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
        "Transitions between adjacent layers beyond the largest change of drawn series "
        f"({REFERENCE_LABELS[n.reference]}): {where} ({found.draws:,} draws, "
        f"seed {found.seed})."
    )


def _chains(n: RouterNumbers) -> str:
    found = n.chains
    links = found.links
    if links is None:
        return ""
    mean = significant(float(links.score.mean()))
    return (
        f"{found.n_beyond:,} of {found.n_links:,} matches between adjacent layers are closer than "
        f"the directions that both layers read explain (false discovery rate 5 %; {links.draws:,} "
        f"draws a link, seed {links.seed}); the longest chain goes through {len(found.chains[0])} "
        f"of {n.gram.n_layers} layers. All together: mean matched cosine {mean}, mixed experts "
        f"{significant(links.null_mean)}, unrelated directions "
        f"{significant(found.unrelated_mean)} (p {p_value_text(links.mean_p)}); "
        f"{found.n_steps} of {len(links.step_q)} steps beat mixed experts."
    )


def _lengths(n: RouterNumbers) -> str:
    if n.lengths is None:
        return ""
    longest = longest_expert(n.canonical, n.equal)
    return longest_in_words(longest, n.lengths, n.routers.label(longest.layer, longest.expert))


def _groups(n: RouterNumbers) -> str:
    drifts = any(answer.id == "depth" and answer.distinguishable for answer in n.answers)
    found = groups_finding(n.group_null, drifts)
    return f"{found.sentence} {found.detail}"


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
