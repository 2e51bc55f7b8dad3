"""What a comparison of two router sets comes to, in a sentence."""

from __future__ import annotations

import numpy as np

from lens.finding import Finding, verdict_of
from lens.model_pairs.comparison import LEVEL, Comparison, Structure
from lens.routers.router_set import RouterSet


def headline(a: RouterSet, found: Comparison | None, alike: Structure, detail: str) -> Finding:
    """Whether layers of B route like those of A with the same number, or relate alike over depth.

    Args:
        a: the first set.
        found: layer by layer; None where directions cannot be compared.
        alike: the layers of each set among themselves.
        detail: all that was found, in full.
    """
    if found is None:
        return _over_depth(alike, detail)
    many = len(found.pairs)
    kept = found.same | (found.q <= LEVEL)
    count = int(kept.sum())
    most = a.label(int(found.pairs[int(np.argmin(found.similarity)), 0]))
    if found.same.all() and not found.relabelled.any():
        sentence = "Both sets hold the same experts under the same numbers."
    elif found.same.all():
        sentence = "Both sets hold the same experts; some have other numbers in their layer."
    elif count == many:
        sentence = f"Every layer still routes like its counterpart; {most} changed most."
    elif count:
        rest = most if count == many - 1 else "the others"
        sentence = (
            f"{count} of {many} layers still route like their counterparts, {rest} no more than "
            "any two layers do."
        )
    else:
        sentence = "No layer routes like its counterpart more than any two layers do."
    return Finding(
        sentence,
        "found" if count else verdict_of(float(found.q.min()), False),
        detail,
        effect=count / many,
        effect_name="share of layers that route like their counterparts",
        null_mean=0.0,
        beats=found.null,
        p_value=float(found.q.min()),
        draws=found.expert_draws,
        seed=found.seed,
    )


def _over_depth(alike: Structure, detail: str) -> Finding:
    verdict = verdict_of(alike.p, alike.p <= LEVEL)
    sentence = {
        "found": "Over depth the layers of both models relate to each other alike.",
        "not told from chance": "The layers of the two models relate to each other in ways that "
        "are not alike beyond chance.",
        "not asked": "These two sets are too few layers to be compared.",
    }[verdict]
    return Finding(
        sentence,
        verdict,
        detail,
        effect=alike.correlation,
        effect_name="correlation of the similarities of layers",
        beats="layers paired at random",
        p_value=alike.p,
        draws=alike.draws,
        seed=alike.seed,
    )
