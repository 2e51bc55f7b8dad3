"""What layers are set against, and words for it.

A pair of layers, a tree or a map says little by itself: any layers give some. Each reference
keeps something of the layers and makes the rest arbitrary; a finding beats what was kept.
"""

from __future__ import annotations

from typing import Literal, get_args

Reference = Literal["shared", "unrelated", "shuffled"]
REFERENCES: tuple[Reference, ...] = get_args(Reference)

REFERENCE_LABELS: dict[Reference, str] = {
    "shared": "directions that all layers share",
    "unrelated": "unrelated directions",
    "shuffled": "shuffled coordinates",
}
"""As a sentence names them."""

BEATEN: dict[Reference, str] = {
    "shared": "the directions that all layers share",
    "unrelated": "unrelated directions",
    "shuffled": "shuffled coordinates",
}
"""As a sentence says which of them something beats, after "more than"."""
