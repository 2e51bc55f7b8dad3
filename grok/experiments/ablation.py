"""Every expert of every layer banned, or given to all tokens, one at a time.

Axes: N layers of a sweep, E experts, B runs, T tokens, K experts a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from grok.config import ModelConfig
from grok.errors import InterventionError, PromptError, SiteError
from grok.experiments.forks import ForkedRuns, Forks, Progress, Turn
from grok.experiments.metrics import Metric, kl_divergence
from grok.interventions.hooks import Edit
from grok.interventions.kinds import Intervention
from grok.interventions.sites import MIXTURE_SITES, HookPoint, check_mixture, indexes
from grok.runner.interfaces import Prompt
from grok.trace import RoutingTrace

if TYPE_CHECKING:
    from grok.runner.model import Model


@dataclass(frozen=True, eq=False)
class AblationSweep:
    """Each expert of each layer banned or given to all, one at a time, for all tokens of a prompt.

    Attributes:
        layers: the model's numbers of the layers [N].
        values: the metric after it [N, E].
        base: the metric without.
        effect: values - base [N, E].
        control: mean effect of the same on another expert of the same layer [N, E].
        load: share of the prompt's assignments that each expert has [N, E].
        metric: its name; unit: of values.
        how: the change made to each expert, "ban" or "include".
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

    @property
    def rows(self) -> np.ndarray:
        """The sweep's layers among those of the trace, which has the ones with experts [N]."""
        return np.searchsorted(self.trace.layers, self.layers)


def _ban_own(logits: jax.Array, experts: jax.Array) -> jax.Array:
    """Each run's own expert [B] at minus infinity in its logits [B, T, E]."""
    own = jax.nn.one_hot(experts, logits.shape[-1], dtype=bool)[:, None]
    return jnp.where(own, -jnp.inf, logits)


def _include_own(chosen: jax.Array, experts: jax.Array) -> jax.Array:
    """Each run's own expert [B] among the chosen [B, T, K], as `include` does."""
    own = jnp.broadcast_to(experts[:, None, None], (*chosen.shape[:-1], 1))
    there = jnp.any(chosen == own, axis=-1, keepdims=True)
    return jnp.where(there, chosen, jnp.concatenate([chosen[..., :-1], own], axis=-1))


# Changes that a sweep can make to an expert: name -> site, function.
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
    layers: int | Iterable[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    turn: Turn = nullcontext,
) -> AblationSweep:
    """Effect of banning each expert, or of giving it to every token, on a prompt.

    An expert that no token chose is not without effect: the softmax runs over the others, so
    their gates grow, and with them all sums of gates but not their ratios; the norm after the
    experts cancels that, so what is left is rounding. Its effect is close to 0, and says how
    large an effect must be to mean anything. Compare with `control`.

    Args:
        model: on its devices.
        prompt: text, or token ids.
        metric: by default the mean over all tokens of KL(plain ‖ changed).
        how: "ban", or "include" as the intervention of that name.
        layers: one or several, by the model's numbers; all that have experts by default.
        batch, progress, turn: see `grok.experiments.forks.ForkedRuns`.

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
    chosen = chosen_layers(layers, config, [HOW[how][0]])
    tokens = model.encode(prompt)
    with turn():
        plain = model.run_one(tokens, candidates=10)
    trace = model.routing_trace([(tokens, plain)], tokens.size, {"max_new_tokens": 0})

    site, function = HOW[how]

    def one_each(which: np.ndarray) -> dict[str, tuple[Edit, ...]]:
        return {site: (Edit(Intervention(function, (which.astype(np.int32),), how)),)}

    forks = {layer: Forks(config.n_experts, one_each) for layer in chosen}
    base, found = ForkedRuns(model, tokens, batch).run(
        forks, metric, plain.logits[0], progress=progress, turn=turn
    )
    values = np.stack([found[layer] for layer in chosen])
    effect = values - base
    return AblationSweep(
        layers=np.array(chosen),
        values=values,
        base=base,
        effect=effect,
        control=(effect.sum(axis=1, keepdims=True) - effect) / (config.n_experts - 1),
        load=_load(trace, chosen, config.n_experts),
        metric=metric.name + (", mean over tokens" if metric.everywhere else ""),
        unit=metric.unit,
        how=how,
        trace=trace,
    )


def _load(trace: RoutingTrace, layers: Sequence[int], n_experts: int) -> np.ndarray:
    """Share of the assignments of some layers that each expert has [N, E]."""
    rows = np.searchsorted(trace.layers, layers)
    counts = np.stack([np.bincount(trace.experts[i].ravel(), minlength=n_experts) for i in rows])
    shares: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return shares


def chosen_layers(
    layers: int | Iterable[int] | None, config: ModelConfig, sites: Iterable[str]
) -> list[int]:
    """Numbers of layers in order, without repeats; for None all that have the sites.

    Raises:
        SiteError: a layer that there is not or that lacks a site, or none.
    """
    routed = set(sites) & set(MIXTURE_SITES)
    there = list(config.moe_layers if routed else range(config.n_layers))
    chosen = there if layers is None else sorted(set(indexes(layers)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= config.n_layers:
        raise SiteError(f"Layers {chosen[:20]}: this model has layers 0 to {config.n_layers - 1}.")
    for layer in chosen:
        check_mixture(HookPoint(layer, min(routed, default="resid_pre")), config)
    return chosen
