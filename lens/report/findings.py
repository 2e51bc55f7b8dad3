"""Findings of a report, each with its null, and the same as a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lens.clustering.tree_null import groups_finding
from lens.errors import LensError
from lens.experts.unequal_experts import longest_expert, longest_in_words
from lens.finding import Finding
from lens.findings import of_routers
from lens.layers.pair_null import pairs_finding
from lens.report.numbers import RouterNumbers
from lens.storage import csv_text
from lens.words import fixed


def findings_of(n: RouterNumbers) -> dict[str, list[Finding]]:
    """Findings of each section; what cannot be asked of a set is left out."""
    found: dict[str, list[Finding]] = {}
    for section, make in (
        ("Layers", lambda: pairs_finding(n.null)),
        ("Layers", lambda: _transitions(n)),
        ("Experts", lambda: of_routers.experts_carry_on(n.chains)),
        ("Experts", lambda: _lengths(n)),
        ("Experts", lambda: _within(n)),
        ("Clustering", lambda: groups_finding(n.group_null, _drifts(n))),
    ):
        one = _made(make)
        if one is not None and one.detail:
            found.setdefault(section, []).append(one)
    return found


def findings_csv(n: RouterNumbers) -> str:
    """The findings as a table: sentence, verdict, and the numbers that it rests on."""
    rows = [(section, one) for section, all_of in findings_of(n).items() for one in all_of]
    return csv_text.table_csv(
        {
            "section": [section for section, _ in rows],
            "in short": [one.sentence for _, one in rows],
            "verdict": [one.verdict for _, one in rows],
            "in full": [one.detail for _, one in rows],
            "effect": [one.effect_name for _, one in rows],
            "value": [one.effect for _, one in rows],
            "set against": [one.beats for _, one in rows],
            "mean of the draws": [one.null_mean for _, one in rows],
            "2.5 % of the draws": [one.null_low for _, one in rows],
            "97.5 % of the draws": [one.null_high for _, one in rows],
            "p": [one.p_value for _, one in rows],
            "draws": [one.draws for _, one in rows],
            "seed": [one.seed for _, one in rows],
        }
    )


def _made(make: Callable[[], Finding | None]) -> Finding | None:
    try:
        return make()
    except LensError:
        return None


def _transitions(n: RouterNumbers) -> Finding:
    return of_routers.routing_changes(n.transitions, n.judged_neighbours, n.labels, n.reference)


def _drifts(n: RouterNumbers) -> bool:
    return any(answer.id == "depth" and answer.distinguishable for answer in n.answers)


def _lengths(n: RouterNumbers) -> Finding | None:
    if n.lengths is None:
        return None
    longest = longest_expert(n.canonical, n.equal)
    name = n.routers.label(longest.layer, longest.expert)
    beats = longest.p <= 0.05
    return Finding(
        f"{name} is longer than equal experts would be."
        if beats
        else "No expert is longer than equal experts would be.",
        "found" if beats else "not told from chance",
        longest_in_words(longest, n.lengths, name),
        effect=longest.value,
        effect_name="share of the squared length of its layer, largest of all",
        beats=longest.null,
        p_value=longest.p,
    )


def _within(n: RouterNumbers) -> Finding:
    found = n.within
    upper = np.triu_indices(n.gram.n_experts, 1)
    q = found.q[:, upper[0], upper[1]]
    count = int((q <= 0.05).sum())
    said = f"Within their layers {count:,} of {q.size:,} pairs of experts are other than"
    return Finding(
        f"{said} equal experts'.",
        "found" if count else "not told from chance",
        f"{said} {found.null} ({fixed(found.baseline, 3)} ± {fixed(found.sd.mean(), 3)}, unrelated "
        f"columns ± {fixed(found.unrelated_sd, 3)}; {found.draws:,} draws, seed {found.seed}).",
        effect=count / max(q.size, 1),
        effect_name="share of pairs",
        beats=found.null,
        draws=found.draws,
        seed=found.seed,
    )
