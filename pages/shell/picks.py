"""Clicks on marks of figures that become choices, the same on every page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pages.shell import links

Mark = Mapping[str, Any]  # fields of the mark's data: numbers and texts, by their names
OnPick = Callable[[Mark], None]


def pick_layer(mark: Mark) -> None:
    """A clicked layer becomes the layer shown."""
    links.choose(layer=int(mark["layer"]))


def pick_layers(mark: Mark) -> None:
    """A clicked pair of layers becomes the pair shown."""
    links.choose(layer=int(mark["la"]), other=int(mark["lb"]))


def pick_expert(mark: Mark) -> None:
    """A clicked expert becomes the expert shown."""
    links.choose(layer=int(mark["layer"]), expert=int(mark["expert"]))


def pick_token(mark: Mark) -> None:
    """A clicked token becomes the token shown."""
    links.choose(token=int(mark["token"]))


def pick_cell(mark: Mark) -> None:
    """A clicked cell becomes the token and the layer shown."""
    links.choose(token=int(mark["token"]), layer=int(mark["layer"]))
