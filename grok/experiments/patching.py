"""Activation patching: values of one run put into another, one hook point and token at a time.

Axes: S sites, N layers, P positions, T tokens, B runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from grok.errors import PromptError, SiteError
from grok.experiments.ablation import chosen_layers
from grok.experiments.forks import ForkedRuns, Forks, Progress, Turn
from grok.experiments.metrics import Metric
from grok.experiments.what_if import log_softmax
from grok.interventions.hooks import Edit
from grok.interventions.kinds import Intervention
from grok.interventions.sites import LAYER_SITES, HookPoint, indexes, known, site_names
from grok.runner.interfaces import Prompt

if TYPE_CHECKING:
    from grok.runner.model import Model


@dataclass(frozen=True, eq=False)
class PatchSweep:
    """A corrupt prompt run with one value of the clean prompt's run at a time.

    Attributes:
        sites: names [S]; layers: the model's numbers [N]; positions: tokens [P].
        pieces_clean, pieces_corrupt: the tokens of both prompts [T].
        values: the metric after each patch [S, N, P].
        clean, corrupt: the metric of the two prompts as they are.
        recovered: (values - corrupt) / (clean - corrupt) [S, N, P]: 1 puts the clean run's
            metric back, 0 does nothing. Not a number where the two prompts' metrics agree.
        control: the same with the clean run's value of another position, drawn at random.
        metric, unit: name and unit of values.
        seed: of the draws.
    """

    sites: tuple[str, ...]
    layers: np.ndarray
    positions: np.ndarray
    pieces_clean: list[str]
    pieces_corrupt: list[str]
    values: np.ndarray
    clean: float
    corrupt: float
    recovered: np.ndarray
    control: np.ndarray
    metric: str
    unit: str
    seed: int


def _put_own(value: jax.Array, rows: jax.Array) -> jax.Array:
    """Each run's own row [B, ...] for all tokens of its value [B, T, ...]."""
    return jnp.broadcast_to(rows[:, None], value.shape)


@dataclass(frozen=True)
class _Patches:
    """Runs of one layer: for each site a patch at every position, then as many of the control.

    Attributes:
        sites: names [S].
        put_at: positions that are patched [2 P].
        taken_from: positions of the clean run whose values are put there [2 P].
        clean: values of the clean run by hook point [1, T, ...].
        n_padded: tokens that a run is padded to.
    """

    sites: tuple[str, ...]
    put_at: np.ndarray
    taken_from: np.ndarray
    clean: Mapping[HookPoint, np.ndarray]
    n_padded: int

    def forks(self, layer: int) -> Forks:
        """The runs that are forked at a layer."""
        return Forks(len(self.put_at) * len(self.sites), partial(self._edits, layer))

    def _edits(self, layer: int, which: np.ndarray) -> dict[str, tuple[Edit, ...]]:
        per_site = len(self.put_at)
        edits: dict[str, tuple[Edit, ...]] = {}
        for i, site in enumerate(self.sites):
            own = (which // per_site) == i
            row = which % per_site
            mask = np.zeros((len(which), self.n_padded), bool)
            mask[own, self.put_at[row[own]]] = True
            values = self.clean[HookPoint(layer, site)][0, self.taken_from[row]]
            edits[site] = (Edit(Intervention(_put_own, (values,), "patch"), mask),)
        return edits


# many parameters: the public door to a sweep, all but four with a default
def patch_sweep(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    *,
    metric: Metric,
    sites: str | Sequence[str] = ("resid_pre",),
    layers: int | Iterable[int] | None = None,
    positions: int | Iterable[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    turn: Turn = nullcontext,
    seed: int = 0,
) -> PatchSweep:
    """Patches values of a clean prompt's run into a corrupt one's, one site and token at a time.

    It shows which layers and tokens carry the difference between the two prompts.

    Args:
        model: on its devices.
        clean, corrupt: prompts of the same number of tokens.
        metric: of the distribution after the last token. KL is from the clean prompt's.
        sites: one or several within a layer, such as "resid_pre", "attn.output", "moe.output".
        layers, positions: one or several; by default all tokens, and all layers that have the
            sites.
        batch, progress, turn: see `grok.experiments.forks.ForkedRuns`.
        seed: of the control's positions.

    Raises:
        PromptError: unusable prompts, or of different lengths.
        SiteError: no such site, layer or position.
    """
    metric.check(model.config.vocab_size)
    names = tuple(known(site, LAYER_SITES) for site in site_names(sites))
    chosen = chosen_layers(layers, model.config, names)
    source, target = _of_one_length(model.encode(clean), model.encode(corrupt))
    length = target.size
    patched = _positions(positions, length)
    with turn():
        kept = model.run_one(source, wanted=[HookPoint(n, site) for n in chosen for site in names])
        logits = model.run_one(target).logits[0]
    reference = kept.logits[0]
    rng = np.random.default_rng(seed)
    others = (patched + rng.integers(1, max(length, 2), patched.size)) % length
    runs = ForkedRuns(model, target, batch)
    put_at, taken_from = np.concatenate([patched] * 2), np.concatenate([patched, others])
    patches = _Patches(names, put_at, taken_from, kept.kept, runs.n)
    forks = {layer: patches.forks(layer) for layer in chosen}
    _, found = runs.run(forks, metric, reference, progress=progress, turn=turn)
    after = np.stack([found[i].reshape(len(names), 2, patched.size) for i in chosen], axis=2)
    values = after[:, 0]  # [S, N, P] after a patch; after[:, 1] after one of the control
    on_clean, on_corrupt = (
        _of(metric, one[:length], reference[:length]) for one in (reference, logits)
    )
    return PatchSweep(
        sites=names,
        layers=np.array(chosen),
        positions=patched,
        pieces_clean=model.pieces(source),
        pieces_corrupt=model.pieces(target),
        values=values,
        clean=on_clean,
        corrupt=on_corrupt,
        recovered=_recovered(values, on_clean, on_corrupt),
        control=_recovered(after[:, 1], on_clean, on_corrupt),
        metric=metric.name,
        unit=metric.unit,
        seed=seed,
    )


def _of_one_length(clean: np.ndarray, corrupt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if clean.size != corrupt.size:
        raise PromptError(
            f"The clean prompt has {clean.size} tokens and the corrupt one {corrupt.size}; "
            "patching puts a value at the same token, so both need as many. Change a word for "
            "one of as many tokens."
        )
    return clean, corrupt


def _recovered(values: np.ndarray, clean: float, corrupt: float) -> np.ndarray:
    """(values - corrupt) / (clean - corrupt); not a number where the two are equal."""
    if clean == corrupt:
        return np.full(values.shape, np.nan)
    return (values - corrupt) / (clean - corrupt)


def _positions(positions: int | Iterable[int] | None, length: int) -> np.ndarray:
    if positions is None:
        return np.arange(length)
    found = [p + length if p < 0 else p for p in indexes(positions)]
    if not found or min(found) < 0 or max(found) >= length:
        raise SiteError(f"Positions {found[:20]}: the prompts have tokens 0 to {length - 1}.")
    return np.array(found)


def _of(metric: Metric, logits: np.ndarray, reference: np.ndarray) -> float:
    """The metric of logits [T, V] on the host."""
    if not metric.everywhere:
        logits, reference = logits[-1:], reference[-1:]
    pairs = zip(log_softmax(logits), log_softmax(reference), strict=True)
    return float(np.mean([float(metric.function(a, b, *metric.tokens)) for a, b in pairs]))
