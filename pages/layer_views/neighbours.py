"""Each layer beside the next, and where their similarity changes."""

from __future__ import annotations

import altair as alt
import streamlit as st

from lens import cached, figures
from lens.findings import of_routers
from lens.layers.references import Reference
from lens.routers.router_set import RouterSet
from lens.tables import routers as router_tables
from pages.shell import finding_block, layout, links
from pages.shell.null_settings import NullSettings
from pages.shell.parts import then_drawn
from pages.shell.picks import pick_layers
from pages.shell.reference_choice import ReferenceChoice

PAIR = "layer_pair"  # key of the part of the page that shows two layers


def with_intervals(routers: RouterSet) -> bool:
    """Whether intervals are drawn: a choice, without them at first where they take seconds."""
    choices = ("with", "without")
    first = choices[layout.is_large(routers)]
    return links.segments("intervals", "Intervals", choices, first, shown=str.capitalize) == "with"


def show(
    routers: RouterSet, view: str, metric: str, against: ReferenceChoice, settings: NullSettings
) -> None:
    """Each layer beside the next."""
    labels = layout.layer_labels(routers)
    # Series of shuffled coordinates would take a product of all columns each.
    reference: Reference = "unrelated" if against.reference == "shuffled" else against.reference
    judged = (metric, view, reference, against.directions)
    drawn = (settings.draws, settings.seed)
    with st.spinner("Setting neighbours against their reference …"):
        adjacent = cached.judged_neighbours(routers, *judged)
        found = cached.transitions(routers, *judged, *drawn)
    left = reference == "shared" and cached.without_shared(routers, against.directions).directions
    if left:
        largest = "largest direction" if left == 1 else f"{left} largest directions"
        st.caption(f"Taken away before, from layers and chance alike: their {largest} in common.")
    finding_block.line(of_routers.routing_changes(found, adjacent, labels, reference))
    names = {"similarity": "Similarity of neighbours", "change": "Change between neighbours"}
    for tab, container in links.tabs("next", names):
        with container:
            if tab == "similarity":
                intervals = None
                if not left and with_intervals(routers):
                    intervals = cached.adjacent_intervals(routers, metric, view, *drawn)
                chart: alt.TopLevelMixin = figures.adjacent_against_chance(
                    adjacent,
                    cached.drawn_series(routers, *judged, *drawn),
                    found,
                    labels,
                    metric,
                    intervals,
                    reference,
                )
            else:
                chart = figures.layer_change(cached.adjacent_layers(routers, metric, view), labels)
            layout.figure(
                chart,
                "adjacent_layer_similarity" if tab == "similarity" else "layer_change",
                routers,
                stretch=True,
                words=(metric, view),
                table=lambda: router_tables.adjacent_csv(adjacent, labels, metric, found),
                on_pick=then_drawn(pick_layers, PAIR),
            )
