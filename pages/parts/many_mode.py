"""Many prompts: what texts of each label have in common."""

from __future__ import annotations

from pages.parts import many_traces
from pages.parts.live_place import HOW_TO_READ, Place


def show(place: Place) -> None:
    """The mode: saved traces by label."""
    many_traces.show(place.head, place.routers, HOW_TO_READ)
