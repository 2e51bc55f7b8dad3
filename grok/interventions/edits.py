"""Interventions: edits of a run, and the sites where they are made.

`edit("router.logits", ban(2), layers=3)` says one; sums of edits apply in order. What can be
done is in `grok.interventions.kinds`, the sites are in `grok.interventions.sites`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from numpy.typing import ArrayLike

from grok.errors import InterventionError
from grok.interventions.kinds import (
    Function,
    Intervention,
    add_vector,
    as_intervention,
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
from grok.interventions.sites import (
    LAYER_SITES,
    MODEL_SITES,
    HookPoint,
    indexes,
    known,
    site_names,
)

__all__ = [
    "NO_EDITS",
    "Edits",
    "Intervention",
    "Request",
    "add_vector",
    "ban",
    "clamp",
    "compose",
    "edit",
    "force",
    "include",
    "noise",
    "replace_with",
    "request",
    "scale",
    "set_top_k",
    "steer",
    "temperature",
    "zero_out",
]


class Request(NamedTuple):
    """One edit as it was asked for.

    Attributes:
        site: name without layer.
        function: the change.
        layers: numbers; None for all.
        positions: tokens, counted from the start or, when negative, from the end of the
            prompt; a slice; None for all, generated ones included.
        references: hook points whose values the function is given after the site's own.
    """

    site: str
    function: Intervention
    layers: tuple[int, ...] | None
    positions: tuple[int, ...] | slice | None
    references: tuple[HookPoint, ...] = ()

    def __str__(self) -> str:
        if self.site not in LAYER_SITES:
            where = self.site
        elif self.layers is None:
            where = f"layers[:].{self.site}"
        else:
            where = f"layers[{', '.join(map(str, self.layers))}].{self.site}"
        tokens = self.positions
        if isinstance(tokens, slice):
            at = f" at {'' if tokens.start is None else tokens.start}:"
            at += "" if tokens.stop is None else str(tokens.stop)
        else:
            at = "" if tokens is None else f" at {', '.join(map(str, tokens))}"
        given = "".join(f", given {reference}" for reference in self.references)
        return f"{where}: {self.function}{at}{given}"


@dataclass(frozen=True)
class Edits:
    """Edits to make in one run, in order. Made by `edit`; `a + b` makes both."""

    requests: tuple[Request, ...] = ()

    def __add__(self, other: Edits) -> Edits:
        return Edits(self.requests + other.requests)

    def __bool__(self) -> bool:
        return bool(self.requests)

    def texts(self) -> list[str]:
        """A text for each edit, with sites, layers and function, as a trace's settings keep it."""
        return [str(request) for request in self.requests]


NO_EDITS = Edits()


def edit(
    site: str,
    function: Function,
    *,
    layers: int | Iterable[int] | None = None,
    positions: int | Sequence[int] | slice | None = None,
) -> Edits:
    """One edit, for `Model.trace_routing`, `Model.stream` and the sweeps.

    Args:
        site: such as "router.logits"; see `grok.interventions.sites`.
        function: an intervention, or any function of the value that jax can compile.
        layers: one or several; all when None.
        positions: of tokens, negative from the end of the prompt; all when None.

    Raises:
        SiteError: no such site.
        InterventionError: the function does not fit the site.
    """
    return Edits((request(site, function, layers, positions),))


def request(
    site: str,
    function: Function,
    layers: int | Iterable[int] | None = None,
    positions: int | Sequence[int] | slice | None = None,
    references: tuple[HookPoint, ...] = (),
) -> Request:
    """The request that `edit` makes, checked as far as that goes without a model.

    `references` are hook points whose values the function is given too; see `edit`.
    """
    known(site)
    intervention = as_intervention(function)
    if site not in intervention.sites:
        raise InterventionError(
            f"{intervention.name} does not fit {site}; it is for "
            f"{', '.join(sorted(intervention.sites))}."
        )
    if site in MODEL_SITES and layers is not None:
        raise InterventionError(f"{site} belongs to no layer; leave layers out.")
    if isinstance(positions, slice) and positions.step not in (None, 1):
        raise InterventionError("positions: a slice with steps is not supported; list them.")
    chosen = None if layers is None else indexes(layers)
    at = positions
    if at is not None and not isinstance(at, slice):
        at = indexes(at)
    return Request(site, intervention, chosen, at, references)


def steer(
    sites: str | Sequence[str],
    vector: ArrayLike,
    strength: float = 1.0,
    *,
    layers: int | Iterable[int] | None = None,
    positions: int | Sequence[int] | slice | None = None,
) -> Edits:
    """Adds `strength` times a vector at sites: for generation, at every token still to come too."""
    layers = None if layers is None else indexes(layers)
    found = NO_EDITS
    for name in site_names(sites):
        found = found + edit(name, add_vector(vector, strength), layers=layers, positions=positions)
    return found
