"""Caveats that a reader has to know before the numbers of a router set are read."""

from __future__ import annotations

from lens.routers.router_set import RouterSet


def caveats(routers: RouterSet) -> list[str]:
    """Sentences on what is not known of a set, or is other than in Grok-1; none for most sets."""
    found = []
    if routers.norm_scales is None:
        found.append(
            "The scales of the norms before the routers are unknown and taken as 1: directions "
            "are those of the weights alone."
        )
    if routers.score == "sigmoid":
        found.append(
            "Gates are sigmoids, each expert's by itself: what all columns of a layer share "
            "changes every gate, so the canonical view, which takes it off, is about the order "
            "of the experts, not about the size of their gates."
        )
    if routers.biases is not None and routers.score == "sigmoid":
        found.append(
            "Experts are chosen by their sigmoid plus a bias, so that what the columns share can "
            "change the choice as well. Similarities compare the weights alone, and selection "
            "probabilities leave the biases out."
        )
    elif routers.biases is not None:
        found.append(
            "Each expert has a bias on its logit. Similarities compare the weights alone; "
            "selection probabilities add the biases to logits of a residual stream of variance 1."
        )
    return found
