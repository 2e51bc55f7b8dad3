"""Many interventions tried one by one: every expert, every place.

Axes: N layers of a sweep, E experts, S sites, P positions, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from grok.branches import Branches, MakeEdits, Progress, Turn
from grok.errors import InterventionError, PromptError, SiteError
from grok.intervention_kinds import Intervention
from grok.metrics import Metric, kl_divergence
from grok.readings import Prompt, log_softmax
from grok.sites import LAYER_SITES, Place, known
from grok.trace import RoutingTrace
from grok.visits import Edit

if TYPE_CHECKING:
    from grok.runner import Model

# --- every expert --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AblationSweep:
    """Each expert of each layer banned or given to all, one at a time, for all tokens of a prompt.

    Attributes:
        layers: rows [N].
        values: the metric after it [N, E].
        base: the metric without.
        effect: values - base [N, E].
        control: mean effect of the same on another expert of the same layer [N, E].
        load: share of the prompt's assignments that each expert has [N, E].
        metric: its name; unit: of values.
        how: what was done to each expert.
        trace: the prompt's routing as it is.
    """

    layers: np.ndarray
    values: np.ndarray
    base: float
    effect: np.ndarray
    control: np.ndarray
    load: np.ndarray
    metric: str
    unit: str
    how: str
    trace: RoutingTrace


def _ban_own(logits: jax.Array, experts: jax.Array) -> jax.Array:
    """Each run's own expert [B] at minus infinity in its logits [B, T, E]."""
    own = jax.nn.one_hot(experts, logits.shape[-1], dtype=bool)[:, None]
    return jnp.where(own, -jnp.inf, logits)


def _include_own(chosen: jax.Array, experts: jax.Array) -> jax.Array:
    """Each run's own expert [B] among the chosen [B, T, K], as `include` does."""
    own = jnp.broadcast_to(experts[:, None, None], (*chosen.shape[:-1], 1))
    there = jnp.any(chosen == own, axis=-1, keepdims=True)
    return jnp.where(there, chosen, jnp.concatenate([chosen[..., :-1], own], axis=-1))


# What a sweep does to an expert: the site, the function, its name.
HOW = {
    "ban": ("router.logits", _ban_own),
    "include": ("router.experts", _include_own),
}


def ablation_sweep(
    model: Model,
    prompt: Prompt,
    *,
    metric: Metric | None = None,
    how: str = "ban",
    layers: Iterable[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    turn: Turn = nullcontext,
) -> AblationSweep:
    """What banning each expert, or giving it to every token, does to a prompt.

    An expert that no token chose is not without effect: the softmax runs over the others, so
    their gates grow, and with them all sums of gates but not their ratios; the norm after the
    experts cancels that, so what is left is rounding. Its effect is close to 0, and says how
    large an effect must be to mean anything. Compare with `control`.

    Args:
        metric: by default the mean over all tokens of KL(plain ‖ changed).
        how: "ban", or "include" as the intervention of that name.
        layers: all by default.
        batch, progress, turn: see `grok.branches.Branches`.

    Raises:
        GrokError: an unusable prompt, layer or metric, or too few experts to ban one.
    """
    config = model.config
    if config.n_experts <= config.top_k:
        raise PromptError(
            f"All {config.n_experts} experts are used by every token; none can be banned."
        )
    if how not in HOW:
        raise InterventionError(f"how is {how!r:.20}; expected {' or '.join(HOW)}.")
    metric = (metric or kl_divergence(everywhere=True)).check(config.vocab_size)
    chosen = _layers(layers, config.n_layers)
    tokens = model.encode(prompt)
    with turn():
        plain = model._read(tokens, 10)
    trace = model._trace([(tokens, plain)], tokens.size, {"max_new_tokens": 0})

    site, function = HOW[how]

    def one_each(which: np.ndarray) -> dict[str, tuple[Edit, ...]]:
        return {site: (Edit(Intervention(function, (which.astype(np.int32),), how)),)}

    parting: dict[int, tuple[int, MakeEdits]] = {
        layer: (config.n_experts, one_each) for layer in chosen
    }
    base, found = Branches(model, tokens, batch).run(
        parting, metric, plain.logits[0], progress=progress, turn=turn
    )
    values = np.stack([found[layer] for layer in chosen])
    effect = values - base
    others = (effect.sum(axis=1, keepdims=True) - effect) / (config.n_experts - 1)
    counts = np.stack(
        [np.bincount(trace.experts[i].ravel(), minlength=config.n_experts) for i in chosen]
    )
    return AblationSweep(
        layers=np.array(chosen),
        values=values,
        base=base,
        effect=effect,
        control=others,
        load=counts / counts.sum(axis=1, keepdims=True),
        metric=metric.name + (", mean over tokens" if metric.everywhere else ""),
        unit=metric.unit,
        how=how,
        trace=trace,
    )


def _layers(layers: Iterable[int] | None, n_layers: int) -> list[int]:
    chosen = list(range(n_layers)) if layers is None else sorted({int(i) for i in layers})
    if not chosen or chosen[0] < 0 or chosen[-1] >= n_layers:
        raise SiteError(f"Layers {chosen[:20]}: this model has layers 0 to {n_layers - 1}.")
    return chosen


# --- every place ---------------------------------------------------------------------


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
        batch, progress, turn: see `grok.branches.Branches`.
        seed: of the control's positions.

    Raises:
        PromptError: unusable prompts, or of different lengths.
        SiteError: no such site, layer or position.
    """
    metric.check(model.config.vocab_size)
    for site in sites:
        known(site, LAYER_SITES)
    chosen = _layers(layers, model.config.n_layers)
    source, target = model.encode(clean), model.encode(corrupt)
    length = target.size
    if source.size != length:
        raise PromptError(
            f"The clean prompt has {source.size} tokens and the corrupt one {length}; patching "
            "puts a value at the same token, so both need as many. Change a word for one of as "
            "many tokens."
        )
    places = _positions(positions, length)
    wanted = [Place(layer, site) for layer in chosen for site in sites]
    with turn():
        kept = model._read(source, wanted=wanted)
        logits = model._read(target).logits[0]
    reference = kept.logits[0]
    rng = np.random.default_rng(seed)
    strangers = (places + rng.integers(1, max(length, 2), places.size)) % length
    taken_from = np.concatenate([places, strangers])
    put_at = np.concatenate([places, places])
    runs = Branches(model, target, batch)

    def patches(layer: int, which: np.ndarray) -> dict[str, tuple[Edit, ...]]:
        per_site = len(put_at)
        edits: dict[str, tuple[Edit, ...]] = {}
        for i, site in enumerate(sites):
            own = (which // per_site) == i
            row = which % per_site
            mask = np.zeros((len(which), runs.n), bool)
            mask[own, put_at[row[own]]] = True
            values = kept.kept[Place(layer, site)][0, taken_from[row]]
            edits[site] = (Edit(Intervention(_put_own, (values,), "patch"), mask),)
        return edits

    count = len(put_at) * len(sites)
    parting: dict[int, tuple[int, MakeEdits]] = {
        layer: (count, partial(patches, layer)) for layer in chosen
    }
    _, found = runs.run(parting, metric, reference, progress=progress, turn=turn)
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
