"""One step of training: gradients, Adam, schedules, and which features are dead.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.normalising import Units
from grok.dictionaries.kinds.parameters import decoder_norms, encode, initial
from grok.dictionaries.kinds.selection import threshold_of
from grok.dictionaries.training.losses import Batch, Held, Now, Parts, loss_of
from grok.dictionaries.training.settings import Schedule, Settings

LEVEL_RATE = 0.01  # of the running mean of thresholds
LARGEST_IDLE = 2**30
QUANTILE_TOKENS = 2048  # of the sample, for encoder biases


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


def begun(design: Design, settings: Settings, constants: Constants, sample: Batch) -> State:
    """The state before the first step.

    Decoder biases start at the mean of what is written. Each encoder bias is such that its feature
    is active in the share of tokens that it would be if all were active alike.

    Args:
        design: of the dictionary.
        settings: of the run.
        constants: of the run.
        sample: tokens as the model has them.
    """
    params = initial(design, settings.activation, settings.training.seed)
    x, y = in_units(sample.x, constants.reads), in_units(sample.y, constants.writes)
    params["decoder_bias"] = jnp.mean(y, axis=1)
    share = min(0.5, first_budget(settings) / design.features)
    few = None if sample.chosen is None else sample.chosen[:, :QUANTILE_TOKENS]
    pre = encode(design, params, x[:, :QUANTILE_TOKENS], few)
    params["encoder_bias"] = jnp.stack([-jnp.quantile(one, 1 - share, axis=0) for one in pre]) + (
        params["threshold"] if "threshold" in params else 0.0
    )
    n = len(design.groups)
    # Arrays of their own: a step gives its state's memory away.
    params = jax.tree.map(lambda one: jnp.array(one, copy=True), params)
    return State(
        params,
        optimiser_of(settings.training).init(params),
        jnp.int32(0),
        jnp.zeros((n, design.features), jnp.int32),
        jnp.zeros(n),
        jnp.ones(n),
    )


Step = Callable[[State, Batch, Constants], tuple[State, Parts]]


def make_step(design: Design, settings: Settings) -> Step:
    """A compiled (state, batch as the model has it, constants) -> (state, numbers)."""
    transform = optimiser_of(settings.training)
    schedule = settings.training
    gradient = jax.grad(
        partial(loss_of, design=design, activation=settings.activation, loss=settings.loss),
        has_aux=True,
    )

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, batch: Batch, constants: Constants) -> tuple[State, Parts]:
        batch = Batch(
            in_units(batch.x, constants.reads), in_units(batch.y, constants.writes), batch.chosen
        )
        budget, strength = annealed(settings, state.step)
        now = Now(budget, strength, state.idle > schedule.dead_window, state.last)
        grads, parts = gradient(state.params, batch, now, constants.held)
        updates, optimiser = transform.update(grads, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        if "threshold" in params:
            params["threshold"] = jnp.maximum(params["threshold"], 0.0)
        tokens = batch.x.shape[1]
        idle = jnp.where(parts.fired, 0, jnp.minimum(state.idle + tokens, LARGEST_IDLE))
        # The mean begins at the first threshold, not at 0.
        rate = jnp.where(state.step == 0, 1.0, LEVEL_RATE)
        levels = state.levels + rate * (parts.levels - state.levels)
        last = jnp.where(parts.levels > 0, parts.levels, 1.0)
        return State(params, optimiser, state.step + 1, idle, levels, last), parts

    return step


def calibrated(
    design: Design,
    settings: Settings,
    params: Mapping[str, Any],
    constants: Constants,
    sample: Batch,
) -> np.ndarray:
    """Thresholds [G] with which each group is as active as `batch_topk` had it, on a sample.

    One threshold for all groups would move activity between them, and a running mean is of
    parameters that have changed since.

    Args:
        design: of the dictionary.
        settings: of the run.
        params: in the units of training.
        constants: of the run.
        sample: tokens as the model has them.
    """
    activation = settings.activation
    gated = _gated(design, activation, params, constants, sample)
    n = sample.x.shape[1] * activation.k
    if not activation.pooled:
        return np.array([_level(one, n) for one in gated])
    low, _ = threshold_of(gated, jnp.int32(n * len(gated)))
    level = jax.lax.bitcast_convert_type(low, jnp.float32)
    return np.array([_level(one, int(jnp.sum(one >= level))) for one in gated])


def _gated(
    design: Design,
    activation: Activation,
    params: Mapping[str, Any],
    constants: Constants,
    sample: Batch,
) -> list[jax.Array]:
    pre = encode(design, params, in_units(sample.x, constants.reads), sample.chosen)
    if not activation.gate_by_norm:
        return pre
    return [one * norm for one, norm in zip(pre, decoder_norms(params), strict=True)]


def _level(values: jax.Array, count: int) -> float:
    """A number that `count` of the values exceed, midway between the last one and the next."""
    if count < 1:
        return float(jnp.max(values)) + 1.0
    low, _ = threshold_of([values], jnp.int32(count))
    level = jax.lax.bitcast_convert_type(low, jnp.float32)
    least = jnp.min(jnp.where(values >= level, values, jnp.inf))
    next_ = jnp.max(jnp.where(values < level, values, 0.0))
    return max(0.0, float(least / 2 + next_ / 2))
