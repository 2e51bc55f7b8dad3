"""Which features a route is made of, what would change it, and whether the model agrees."""

from grok.dictionaries.attribution.accounts import (
    RouteAccount,
    RowSpace,
    route_account,
    row_space,
    static_effects,
)
from grok.dictionaries.attribution.disagreement import LayerClaims, layer_claims
from grok.dictionaries.attribution.flips import FlipTable, first_doses, smallest_flips
from grok.dictionaries.attribution.graph import (
    GraphPlan,
    RouteGraph,
    expected_plan,
    plan_graph,
    route_graph,
)
from grok.dictionaries.attribution.modes import EffectCheck, ModeRun, check_effects, run_in_mode
from grok.dictionaries.attribution.node_checks import Node, NodeCheck, check_nodes
from grok.dictionaries.attribution.reading import (
    PromptFeatures,
    feature_strengths,
    read_features,
)
from grok.dictionaries.attribution.readout import Readout, readout_of
from grok.dictionaries.attribution.rows import Target
from grok.dictionaries.attribution.steering import Change, steer
from grok.dictionaries.attribution.sweeps import DoseSweep, dose_sweep
from grok.dictionaries.attribution.verifying import FlipCheck, verify_flips

__all__ = [
    "Change",
    "DoseSweep",
    "EffectCheck",
    "FlipCheck",
    "FlipTable",
    "GraphPlan",
    "LayerClaims",
    "ModeRun",
    "Node",
    "NodeCheck",
    "PromptFeatures",
    "Readout",
    "RouteAccount",
    "RouteGraph",
    "RowSpace",
    "Target",
    "check_effects",
    "check_nodes",
    "dose_sweep",
    "expected_plan",
    "feature_strengths",
    "first_doses",
    "layer_claims",
    "plan_graph",
    "read_features",
    "readout_of",
    "route_account",
    "route_graph",
    "row_space",
    "run_in_mode",
    "smallest_flips",
    "static_effects",
    "steer",
    "verify_flips",
]
