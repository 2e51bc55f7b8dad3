"""Parts of a report: each figure and each table by name.

Every part is computed when it is made; results that several parts share are computed
once. A part that cannot be made for a router set (a map of three layers, say) raises a
`LensError`, which the report notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import altair as alt

from lens.layers.draws import DRAWS, SEED
from lens.layers.references import Reference


@dataclass(frozen=True)
class Settings:
    """Settings that the numbers depend on besides the data.

    Attributes:
        view: "canonical" or "raw".
        metric: id of the layer metric.
        seed: of t-SNE and UMAP.
        draws: of every null.
        null_seed: of the draws.
        reference: what pairs of layers, groups and branches are set against; unrelated
            directions stand in where what all layers share is not known.
        directions: m, how many directions that all layers share are taken away first; None
            for the rule of `lens.layers.shared_directions`.
    """

    view: str = "canonical"
    metric: str = "cka"
    seed: int = 42
    draws: int = DRAWS
    null_seed: int = SEED
    reference: Reference = "shared"
    directions: int | None = None

    @property
    def options(self) -> list[str]:
        """These settings as options of `python -m lens.report`."""
        options = [
            *("--view", self.view, "--metric", self.metric, "--seed", str(self.seed)),
            *("--draws", str(self.draws), "--null-seed", str(self.null_seed)),
            *("--reference", self.reference),
        ]
        return options + ([] if self.directions is None else ["--directions", str(self.directions)])


@dataclass(frozen=True)
class Part:
    """One figure or one table.

    Attributes:
        name: its file name without the suffix.
        make: computes it: a chart, or CSV text.
        settings: what it depends on besides the report's settings.
        section: heading that it stands under.
    """

    name: str
    make: Callable[[], alt.TopLevelMixin | str]
    settings: dict[str, Any] = field(default_factory=dict)
    section: str = ""


def in_section(section: str, parts: Iterable[Part]) -> list[Part]:
    """The parts, marked as belonging to a section of the report."""
    return [replace(part, section=section) for part in parts]
