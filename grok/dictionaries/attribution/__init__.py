"""Which features a route is made of, what would change it, and whether the model agrees."""

from grok.dictionaries.attribution.accounts import (
    RouteAccount,
    RowSpace,
    route_account,
    row_space,
    static_effects,
)
from grok.dictionaries.attribution.flips import FlipTable, first_doses, smallest_flips
from grok.dictionaries.attribution.reading import PromptFeatures, read_features
from grok.dictionaries.attribution.readout import Readout, readout_of
from grok.dictionaries.attribution.verifying import FlipCheck, verify_flips

__all__ = [
    "FlipCheck",
    "FlipTable",
    "PromptFeatures",
    "Readout",
    "RouteAccount",
    "RowSpace",
    "first_doses",
    "read_features",
    "readout_of",
    "route_account",
    "row_space",
    "smallest_flips",
    "static_effects",
    "verify_flips",
]
