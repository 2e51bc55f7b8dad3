"""What routers say beside the four questions: chains of experts, and where routing changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lens.experts.chains import SignificantChains
from lens.finding import Finding, verdict_of
from lens.layers.references import REFERENCE_LABELS, Reference
from lens.layers.similarity import AdjacentLayers
from lens.layers.transitions import Transitions
from lens.words import fixed, p_value_text, significant


def experts_carry_on(found: SignificantChains) -> Finding:
    """Whether experts find their match in the next layer: one by one, and all together."""
    links = found.links
    if links is None:
        return Finding("One layer has no next one to carry on into.", "not asked")
    together = links.mean_p <= found.level
    if found.n_beyond:
        verb = "is" if found.n_beyond == 1 else "are"
        sentence = (
            f"{found.n_beyond:,} of {found.n_links:,} matches between neighbouring layers {verb} "
            "closer than chance makes them."
        )
    elif together:
        sentence = "All matches together are closer than chance makes them; no single one is."
    else:
        sentence = "No match between neighbouring layers is closer than chance makes it."
    return Finding(
        sentence,
        verdict_of(links.mean_p, bool(found.n_beyond) or together),
        f"{found.n_beyond:,} of {found.n_links:,} matches between adjacent layers are closer than "
        f"the directions that both layers read explain (false discovery rate 5 %; {links.draws:,} "
        f"draws a link, seed {links.seed}); the longest chain goes through {len(found.chains[0])} "
        f"of {len(links.step_q) + 1} layers. All together: mean matched cosine "
        f"{significant(float(links.score.mean()))}, mixed experts {significant(links.null_mean)}, "
        f"unrelated directions {significant(found.unrelated_mean)} "
        f"(p {p_value_text(links.mean_p)}); {found.n_steps} of {len(links.step_q)} steps, all "
        "their experts taken together, beat mixed experts.",
        effect=float(links.score.mean()),
        effect_name="mean matched cosine",
        null_mean=links.null_mean,
        beats="experts mixed within their layers",
        p_value=links.mean_p,
        draws=links.draws,
        seed=links.seed,
    )


def routing_changes(
    found: Transitions, adjacent: AdjacentLayers, names: Sequence[str], reference: Reference
) -> Finding:
    """Where the likeness of neighbouring layers changes beyond drawn series, and by how much most.

    Args:
        found: the transitions.
        adjacent: the neighbours that they are of.
        names: of the layers.
        reference: what was drawn.
    """
    if not np.isfinite(found.threshold):
        return Finding("Fewer than three layers have nothing that could change.", "not asked")
    at = [
        f"{names[a]}→{names[b]} (p {p_value_text(p, found.draws)})"
        for (a, b), p, real in zip(adjacent.pairs, found.p, found.found, strict=True)
        if real
    ]
    beyond = np.where(found.found, np.abs(found.change), -1)
    most = int(np.argmax(beyond if at else np.nan_to_num(np.abs(found.change), nan=-1)))
    one, other = (names[int(row)] for row in adjacent.pairs[most])
    sentence = "From layer to layer, likeness changes no more than chance gives."
    if at:
        way = "drops" if found.change[most] < 0 else "rises"
        places = "" if len(at) == 1 else f", the largest of {len(at)} such changes"
        sentence = f"The likeness of neighbours {way} from {one} to {other}{places}."
    return Finding(
        sentence,
        "found" if at else "not told from chance",
        "Transitions between adjacent layers beyond the largest change of drawn series "
        f"({REFERENCE_LABELS[reference]}): {', '.join(at) if at else 'none'} "
        f"({found.draws:,} draws, seed {found.seed}). Largest change: "
        f"{fixed(float(found.change[most]), 3, sign=True)} from {one} to {other}; one drawn series "
        f"in twenty exceeds {significant(found.threshold)} anywhere.",
        effect=float(found.change[most]),
        effect_name="change of similarity from the pair of layers before",
        null_high=found.threshold,
        beats=f"the largest change of drawn series ({REFERENCE_LABELS[reference]})",
        p_value=float(found.p[most]),
        draws=found.draws,
        seed=found.seed,
    )
