"""Which layers' experts set a route: what dictionaries claim, and what the model says.

Cross-layer transcoders may write in one layer what another computes, so they may name a layer that
does not act. Each dictionary's graph predicts how a router's target changes when a layer's experts
add nothing; the model is run without them, and the nearer claim is told, layer by layer.

Axes: S dictionaries, L layers below the target's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grok.dictionaries.attribution.graph import BUDGET, Grown
from grok.dictionaries.attribution.modes import run_additions
from grok.dictionaries.attribution.reading import PromptFeatures
from grok.dictionaries.attribution.rows import Rows, Target
from grok.dictionaries.attribution.scores import through
from grok.errors import GrokError
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

SITE = "moe.normed"
APART = 0.5  # of the smaller claim's size: claims that differ by more are disputed


@dataclass(frozen=True, eq=False)
class LayerClaims:
    """What layers do to a target.

    Attributes:
        names: of the dictionaries [S].
        layers: whose experts are taken out [L].
        direct: what features that are read in a layer give to the target themselves [S, L].
        claims: predicted changes of the target without a layer's experts, over all paths [S, L].
        measured: changes in the model, patterns held [0] and free [1], [2, L].
        value: of the target.
    """

    names: tuple[str, ...]
    layers: np.ndarray
    direct: np.ndarray
    claims: np.ndarray
    measured: np.ndarray
    value: float

    @property
    def disputed(self) -> np.ndarray:
        """Layers about which claims differ by more than half of the smaller one's size [L]."""
        sizes = np.abs(self.claims)
        found: np.ndarray = np.ptp(self.claims, axis=0) > APART * sizes.min(0)
        return found

    def nearest(self, free: bool = True) -> np.ndarray:
        """The dictionary whose claim is nearest to what the model did, by layer [L]."""
        found: np.ndarray = np.abs(self.claims - self.measured[int(free)]).argmin(0)
        return found

    def missed(self, free: bool = True) -> np.ndarray:
        """The root of the squares that a dictionary's claims are off by, over that of what was
        measured [S]; 1 is as good as claiming nothing."""
        own = self.measured[int(free)]
        off = np.sqrt(np.square(self.claims - own).sum(1))
        found: np.ndarray = off / max(float(np.linalg.norm(own)), 1e-30)
        return found


def layer_claims(
    model: Model,
    reads: Mapping[str, PromptFeatures],
    target: Target,
    *,
    budget: int = BUDGET,
    progress: Callable[[int, int], object] | None = None,
) -> LayerClaims:
    """What dictionaries claim that each layer's experts do to a router's target, and what they do.

    Args:
        model: that the prompt was read with, in float32.
        reads: one prompt by several dictionaries that write `moe.normed` of all layers below.
        target: a router's logit, or the difference of two.
        budget: features that each graph looks into.
        progress: told (steps done, steps in all); what it raises ends the work.

    Raises:
        GrokError: other targets, prompts that differ, or dictionaries of other sites.
    """
    first = _checked(reads, target)
    below = [i for i in range(target.layer) if i in first.readouts]
    steps, done = len(reads) + 2 * len(below), 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    direct, claims = np.zeros((2, len(reads), len(below)))
    value = 0.0
    for s, read in enumerate(reads.values()):
        maker = Rows(model, read)
        value = maker.covector(target).value
        grown = Grown(maker, (target,), np.ones(1))
        while grown.n_open < budget and grown.grow(budget - grown.n_open):
            pass
        columns = maker.columns
        total = _totals(grown)
        for i, layer in enumerate(below):
            features = (columns.kinds == "feature") & (columns.layers == layer)
            rest = np.isin(columns.kinds, ("error", "bias", "skip"))
            rest &= columns.sites == str(HookPoint(layer, SITE))
            direct[s, i] = grown.rows[0, :-1][features].sum()
            claims[s, i] = -total[features | rest].sum()
        tell()
    at, token = first.row(target.layer), first.position(target.token)
    measured = np.zeros((2, len(below)))
    for i, layer in enumerate(below):
        point = HookPoint(layer, SITE)
        for m, mode in enumerate(("frozen attention", "free")):
            run = run_additions(model, first, {point: -first.values[point]}, mode)
            measured[m, i] = target.of_logits(run.logits[at, token]) - value
            tell()
    return LayerClaims(tuple(reads), np.array(below), direct, claims, measured, value)


def _totals(grown: Grown) -> np.ndarray:
    """What each column gives to the target over all paths [C], with its sign.

    A feature that loses a share of what makes it gives so much less to what it is part of.
    """
    strengths = np.where(grown.column_of < 0, 1.0, grown.values)
    parts = grown.rows / strengths[:, None]
    weights = np.zeros(len(parts))
    weights[0] = 1.0
    whole = through(parts, weights, grown.column_of)
    found: np.ndarray = (whole @ parts)[:-1]
    return found


def _checked(reads: Mapping[str, PromptFeatures], target: Target) -> PromptFeatures:
    if target.kind != "router":
        raise GrokError(f"kind is {target.kind!r:.40}; claims are compared on router targets.")
    if not reads:
        raise GrokError("reads: none; give the prompt as at least one dictionary reads it.")
    first = next(iter(reads.values()))
    first.row(target.layer)
    for name, read in reads.items():
        if not np.array_equal(read.tokens, first.tokens):
            raise GrokError(f"{name}: another prompt; read one prompt with all dictionaries.")
        written = set(read.dictionary.design.targets)
        for layer in first.readouts:
            if layer < target.layer and HookPoint(layer, SITE) not in written:
                raise GrokError(
                    f"{name}: it does not write {SITE} of layer {layer}, so it claims nothing of "
                    "its experts. Use a transcoder or a clt of all layers."
                )
    return first
