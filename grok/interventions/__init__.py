"""Interventions: edits of values at named sites of a run."""

from grok.interventions.edits import NO_EDITS, Edits, edit, steer
from grok.interventions.kinds import (
    Intervention,
    add_vector,
    ban,
    clamp,
    compose,
    force,
    include,
    noise,
    replace_with,
    scale,
    set_top_k,
    temperature,
    zero_out,
)

__all__ = [
    "NO_EDITS",
    "Edits",
    "Intervention",
    "add_vector",
    "ban",
    "clamp",
    "compose",
    "edit",
    "force",
    "include",
    "noise",
    "replace_with",
    "scale",
    "set_top_k",
    "steer",
    "temperature",
    "zero_out",
]
