"""State of a run, its schedules, and Adam.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grok.dictionaries.kinds.normalising import Units
from grok.dictionaries.training.losses import Batch, Held, Parts
from grok.dictionaries.training.settings import Schedule, Settings

LEVEL_RATE = 0.01  # of the running mean of thresholds
LARGEST_IDLE = 2**30


class State(NamedTuple):
    """Everything that changes from step to step.

    params, optimiser: pytrees; step: finished steps; idle: tokens since each feature was last
    active [G, F] int32; levels: running thresholds of `batch_topk` [G]; last: those of the last
    step [G].
    """

    params: Any
    optimiser: Any
    step: jax.Array
    idle: jax.Array
    levels: jax.Array
    last: jax.Array


class Constants(NamedTuple):
    """What the run measured before its first step.

    reads, writes: shift and scale [2, S, D] and [2, M, D]; held: see `Held`.
    """

    reads: jax.Array
    writes: jax.Array
    held: Held


def constants_of(reads: Units, writes: Units, routers: np.ndarray | None = None) -> Constants:
    """The constants of a run.

    Args:
        reads, writes: units of training.
        routers: [M, D, E], for the routing term.
    """
    held = Held(
        jnp.asarray(writes.denominators, jnp.float32),
        None if routers is None else jnp.asarray(routers, jnp.float32),
    )
    pairs = [jnp.asarray(np.stack([u.shift, u.scale]), jnp.float32) for u in (reads, writes)]
    return Constants(pairs[0], pairs[1], held)


def in_units(values: jax.Array, units: jax.Array) -> jax.Array:
    """Values [S, B, D] in the units of training [2, S, D]."""
    return (values - units[0][:, None]) * units[1][:, None]


def learning_rate(schedule: Schedule) -> optax.Schedule:
    """Rises, stays, and falls to 0 at the end; by step."""
    n = schedule.steps
    rise, fall = round(schedule.warm_up * n), round(schedule.decay * n)
    peak = schedule.learning_rate
    return optax.join_schedules(
        [
            optax.linear_schedule(peak / max(rise, 1), peak, max(rise - 1, 1)),
            optax.linear_schedule(peak, 0.0, max(fall, 1)),
        ],
        [max(n - fall, 1)],
    )


def optimiser_of(schedule: Schedule) -> optax.GradientTransformation:
    """Adam with clipping."""
    rate = learning_rate(schedule)
    return optax.chain(optax.clip_by_global_norm(schedule.clip), optax.adam(rate))


def annealed(settings: Settings, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Budget k and strength of the penalty (0 to 1) at a step.

    k falls exponentially from its start; the strength rises linearly.
    """
    schedule, activation = settings.training, settings.activation
    over = max(1, round(schedule.anneal * schedule.steps))
    done = jnp.minimum(step / over, 1.0).astype(jnp.float32)
    k = float(activation.k)
    return k * jnp.float32(first_budget(settings) / k) ** (1 - done), done


def first_budget(settings: Settings) -> float:
    """Active features of a token and group at the first step."""
    start = settings.training.k_start or settings.dictionary.features / 16
    return max(float(settings.activation.k), start)


Step = Callable[[State, Batch, Constants], tuple[State, Parts]]


@partial(jax.jit, static_argnames=("settings", "tokens"), donate_argnames=("state",))
def advanced(
    settings: Settings,
    state: State,
    grads: Any,
    fired: jax.Array,
    levels: jax.Array,
    tokens: int,
) -> State:
    """The state after a step.

    Args:
        settings: of the run.
        state: before it; its memory is given away.
        grads: of the parameters.
        fired: features that were active [G, F].
        levels: thresholds of this step [G].
        tokens: of this step.
    """
    transform = optimiser_of(settings.training)
    if settings.training.frozen_decoder:
        grads = {**grads, "decoder": jax.tree.map(jnp.zeros_like, grads["decoder"])}
    updates, optimiser = transform.update(grads, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    if "threshold" in params:
        params["threshold"] = jnp.maximum(params["threshold"], 0.0)
    idle = jnp.where(fired, 0, jnp.minimum(state.idle + tokens, LARGEST_IDLE))
    # The mean begins at the first threshold, not at 0.
    rate = jnp.where(state.step == 0, 1.0, LEVEL_RATE)
    mean = state.levels + rate * (levels - state.levels)
    last = jnp.where(levels > 0, levels, 1.0)
    return State(params, optimiser, state.step + 1, idle, mean, last)
