"""What layers are set against, and the directions that are taken away before, on every page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st

from lens import cached
from lens.layers.references import REFERENCE_LABELS, Reference
from lens.layers.shared_directions import CHOICES, FEWEST_LAYERS, SharedDirections, most_directions
from lens.routers.router_set import RouterSet
from lens.words import percent
from pages.shell import links

DEFAULT: Reference = "shared"
RULE = "rule"
KEPT: dict[Reference, str] = {
    "unrelated": "Each layer is turned at random: it keeps its own router, and nothing that it "
    "has in common with others.",
    "shuffled": "Each layer's coordinates are shuffled: it keeps its own router and how unevenly "
    "weights lie over coordinates, and nothing that it has in common with others.",
}


class ReferenceChoice(NamedTuple):
    """What layers are set against.

    Attributes:
        reference: its id.
        directions: how many that all layers share are taken away before; None by the rule of
            `lens.layers.shared_directions.without_shared`. Of no meaning for other references.
    """

    reference: Reference
    directions: int | None


def current(routers: RouterSet, view: str) -> ReferenceChoice:
    """The choice made last, also where no widget shows it, as this set and view allow it."""
    reference: Reference = links.chosen("reference", DEFAULT)
    text = links.chosen("directions", RULE)
    if reference == "shared" and why_not_shared(routers, view):
        return ReferenceChoice("unrelated", None)
    return ReferenceChoice(reference, None if text == RULE else int(text))


def why_not_shared(routers: RouterSet, view: str) -> str:
    """Why this set cannot be set against what all layers share; empty where it can."""
    if view != "canonical":
        return (
            "Directions that all layers share are known for canonical routers only; these are raw."
        )
    if routers.n_layers < FEWEST_LAYERS:
        return (
            f"What all layers share takes {FEWEST_LAYERS} layers or more to tell from what two "
            "have in common."
        )
    return ""


def reference_choice(
    routers: RouterSet,
    view: str = "canonical",
    offered: Sequence[Reference] = tuple(REFERENCE_LABELS),
) -> ReferenceChoice:
    """The reference and, where it needs them, the directions, by two lists; a caption below.

    Where layers cannot be set against what they share, unrelated directions stand in, and the
    caption says why.

    Args:
        routers: the set.
        view: of the routers, "canonical" or "raw".
        offered: references to choose from, with "shared" and "unrelated" among them.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        reference: Reference = links.choice(
            "reference",
            "Against",
            list(offered),
            DEFAULT,
            shown=lambda name: REFERENCE_LABELS[name].capitalize(),
            help="What a finding has to beat. Routers of one model share a few large directions, "
            "which alone make layers more alike than unrelated directions are.",
            width=300,
        )
        reason = why_not_shared(routers, view) if reference == "shared" else ""
        directions = _directions(routers) if reference == "shared" and not reason else None
    if reason:
        st.caption(f"{reason} {KEPT['unrelated']}")
        return ReferenceChoice("unrelated", None)
    if reference == "shared":
        st.caption(shared_in_words(cached.without_shared(routers, directions)))
    else:
        st.caption(KEPT[reference])
    return ReferenceChoice(reference, directions)


def _directions(routers: RouterSet) -> int | None:
    """How many shared directions are taken away before, by a list; None for the rule."""
    most = most_directions(cached.router_gram(routers))
    texts = [RULE, *(str(m) for m in CHOICES if m <= most)]
    chosen = links.choice(
        "directions",
        "Taken away before",
        texts,
        RULE,
        shown=_directions_label,
        help="The largest directions that all layers share. By rule: the fewest after which no "
        "direction carries more than a tenth of what is left.",
        width=190,
    )
    return None if chosen == RULE else int(chosen)


def _directions_label(text: str) -> str:
    if text == RULE:
        return "By rule"
    return "None" if text == "0" else f"The largest {text}" if text != "1" else "The largest"


def shared_in_words(shared: SharedDirections) -> str:
    """What layers mixed from all layers keep, and what was taken away before."""
    kept = "Layers are mixed from all layers, which keeps all that they share"
    m = shared.directions
    chosen = " by rule" if shared.by_rule else ""
    if not m:
        return f"{kept}; no direction was taken away before (m = 0{chosen})."
    taken = "the largest shared direction was" if m == 1 else f"the {m} largest shared ones were"
    return (
        f"{kept}; {taken} taken away before, {percent(shared.share)} of the second moment "
        f"(m = {m}{chosen})."
    )
