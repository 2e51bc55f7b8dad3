"""Number of draws of chance and their seed, the same on every page."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import streamlit as st

from pages.access import limits
from pages.shell import links

DRAWS = (500, 1000, 5000)
DEFAULT = 1000


@dataclass(frozen=True)
class NullSettings:
    """Draws of every null on the page, and the seed of its random numbers."""

    draws: int
    seed: int

    @property
    def text(self) -> str:
        return f"{self.draws:,} draws, seed {self.seed}"


def current() -> NullSettings:
    """The settings chosen last, also where no widget shows them."""
    return NullSettings(links.chosen("draws", DEFAULT), links.chosen("null_seed", 0))


def place() -> AbstractContextManager[object]:
    """What opens at a click on "Chance"."""
    return st.popover("Chance", icon=":material/casino:", help=current().text)


def controls() -> NullSettings:
    """The settings, to be drawn in their place."""
    draws = links.segments(
        "draws",
        "Draws",
        limits.affordable(DRAWS, DEFAULT),
        DEFAULT,
        shown=lambda n: f"{n:,}",
        help="More draws tell smaller p-values apart and take longer. With many experts fewer "
        "are made; figures and tables say how many.",
    )
    seed = links.number("null_seed", "Seed of the draws", 0, 9999, 0)
    st.caption(
        "Everything that is compared with chance on this page uses these. The same seed gives "
        "the same draws."
    )
    return NullSettings(draws, seed)
