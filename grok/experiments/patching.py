"""One run's values put into another's: every site, layer and position of a list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from grok.errors import PromptError, SiteError
from grok.experiments.ablation import chosen_layers
from grok.experiments.forks import ForkedRuns, MakeEdits, Progress, Turn
from grok.experiments.metrics import Metric
from grok.experiments.what_if import Prompt, log_softmax
from grok.interventions.hooks import Edit
from grok.interventions.kinds import Intervention
from grok.interventions.sites import LAYER_SITES, HookPoint, known

if TYPE_CHECKING:
    from grok.runner.loading import Model


@dataclass(frozen=True, eq=False)
class PatchSweep:
    """A corrupt prompt run with one value of the clean prompt's run at a time.

    Attributes:
        sites: names [S]; layers: rows [N]; positions: tokens [P].
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


def patch_sweep(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    *,
    metric: Metric,
    sites: Sequence[str] = ("resid_pre",),
    layers: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    turn: Turn = nullcontext,
    seed: int = 0,
) -> PatchSweep:
    """Where the difference between two prompts is carried: layer by layer, token by token.

    Args:
        clean, corrupt: prompts of the same number of tokens.
        metric: of the distribution after the last token. KL is from the clean prompt's.
        sites: within a layer, such as "resid_pre", "attn.output", "moe.output".
        layers, positions: all by default.
        batch, progress, turn: see `grok.experiments.forks.ForkedRuns`.
        seed: of the control's positions.

    Raises:
        PromptError: unusable prompts, or of different lengths.
        SiteError: no such site, layer or position.
    """
    metric.check(model.config.vocab_size)
    for site in sites:
        known(site, LAYER_SITES)
    chosen = chosen_layers(layers, model.config.n_layers)
    source, target = model.encode(clean), model.encode(corrupt)
    length = target.size
    if source.size != length:
        raise PromptError(
            f"The clean prompt has {source.size} tokens and the corrupt one {length}; patching "
            "puts a value at the same token, so both need as many. Change a word for one of as "
            "many tokens."
        )
    places = _positions(positions, length)
    wanted = [HookPoint(layer, site) for layer in chosen for site in sites]
    with turn():
        kept = model.run_one(source, wanted=wanted)
        logits = model.run_one(target).logits[0]
    reference = kept.logits[0]
    rng = np.random.default_rng(seed)
    strangers = (places + rng.integers(1, max(length, 2), places.size)) % length
    taken_from = np.concatenate([places, strangers])
    put_at = np.concatenate([places, places])
    runs = ForkedRuns(model, target, batch)

    def patches(layer: int, which: np.ndarray) -> dict[str, tuple[Edit, ...]]:
        per_site = len(put_at)
        edits: dict[str, tuple[Edit, ...]] = {}
        for i, site in enumerate(sites):
            own = (which // per_site) == i
            row = which % per_site
            mask = np.zeros((len(which), runs.n), bool)
            mask[own, put_at[row[own]]] = True
            values = kept.kept[HookPoint(layer, site)][0, taken_from[row]]
            edits[site] = (Edit(Intervention(_put_own, (values,), "patch"), mask),)
        return edits

    count = len(put_at) * len(sites)
    forks: dict[int, tuple[int, MakeEdits]] = {
        layer: (count, partial(patches, layer)) for layer in chosen
    }
    _, found = runs.run(forks, metric, reference, progress=progress, turn=turn)
    after = np.stack([found[i].reshape(len(sites), 2, places.size) for i in chosen], axis=2)
    values = after[:, 0]  # [S, N, P] after a patch; after[:, 1] after a stranger's
    ends = [_of(metric, one[:length], reference[:length]) for one in (reference, logits)]
    apart = ends[0] - ends[1]

    def share(found: np.ndarray) -> np.ndarray:
        return (found - ends[1]) / apart if apart else np.full(found.shape, np.nan)

    return PatchSweep(
        sites=tuple(sites),
        layers=np.array(chosen),
        positions=places,
        pieces_clean=model.pieces(source),
        pieces_corrupt=model.pieces(target),
        values=values,
        clean=ends[0],
        corrupt=ends[1],
        recovered=share(values),
        control=share(after[:, 1]),
        metric=metric.name,
        unit=metric.unit,
        seed=seed,
    )


def _positions(positions: Iterable[int] | None, length: int) -> np.ndarray:
    if positions is None:
        return np.arange(length)
    found = [int(p) + length if p < 0 else int(p) for p in positions]
    if not found or min(found) < 0 or max(found) >= length:
        raise SiteError(f"Positions {found[:20]}: the prompts have tokens 0 to {length - 1}.")
    return np.array(found)


def _of(metric: Metric, logits: np.ndarray, reference: np.ndarray) -> float:
    """The metric of logits [T, V] on the host."""
    if not metric.everywhere:
        logits, reference = logits[-1:], reference[-1:]
    pairs = zip(log_softmax(logits), log_softmax(reference), strict=True)
    return float(np.mean([float(metric.function(a, b, *metric.tokens)) for a, b in pairs]))
