"""The sections of a report, in their order."""

from __future__ import annotations

from lens.report.clustering import clustering_parts
from lens.report.experts import expert_parts
from lens.report.layers import layer_parts, question_parts
from lens.report.numbers import RouterNumbers
from lens.report.parts import Part, in_section


def router_parts(n: RouterNumbers) -> list[Part]:
    """The figures and tables of a router set, section by section."""
    return [
        *in_section("Four questions", question_parts(n)),
        *in_section("Layers", layer_parts(n)),
        *in_section("Experts", expert_parts(n)),
        *in_section("Clustering", clustering_parts(n)),
    ]
