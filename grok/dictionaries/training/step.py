"""The beginning of a run, its dense steps, and the thresholds that are left at its end.

Axes: S sites read, M sites written, G groups, B tokens, F features, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.parameters import (
    decoder_norms,
    encode,
    initial,
    random_decoders,
)
from grok.dictionaries.kinds.selection import threshold_of
from grok.dictionaries.training.devices import constrained
from grok.dictionaries.training.losses import Batch, Now, Parts, loss_of
from grok.dictionaries.training.settings import Settings
from grok.dictionaries.training.sparse.step import make_sparse_step, serves
from grok.dictionaries.training.update import (
    Constants,
    State,
    Step,
    advanced,
    annealed,
    first_budget,
    in_units,
    optimiser_of,
)

SAMPLE = 8192  # tokens that biases start from, and that thresholds are calibrated on
QUANTILE_TOKENS = 2048  # of the sample, for encoder biases


def begun_on(
    mesh: Mesh | None, design: Design, settings: Settings, constants: Constants, sample: Batch
) -> State:
    """As `begun`; on a mesh no device ever holds the whole."""
    if mesh is None:
        return begun(design, settings, constants, sample)

    @jax.jit
    def made(constants: Constants, sample: Batch) -> State:
        return constrained(begun(design, settings, constants, sample), mesh)

    return made(constants, sample)


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
    seed = settings.training.seed
    params = initial(design, settings.activation, seed)
    if settings.training.frozen_decoder:
        params["decoder"] = random_decoders(design, seed)
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


def make_step(design: Design, settings: Settings, mesh: Mesh | None = None) -> Step:
    """A (state, batch as the model has it, constants) -> (state, numbers), the quickest here."""
    if mesh is None and serves(design, settings):
        return make_sparse_step(design, settings)
    return make_dense_step(design, settings, mesh)


def make_dense_step(design: Design, settings: Settings, mesh: Mesh | None = None) -> Step:
    """As `make_step`, one compiled program on any device, or on all of a mesh."""
    rule, loss = settings.activation, settings.loss
    gradient = jax.grad(
        partial(loss_of, design=design, activation=rule, loss=loss, mesh=mesh), has_aux=True
    )

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, batch: Batch, constants: Constants) -> tuple[State, Parts]:
        batch = Batch(
            in_units(batch.x, constants.reads), in_units(batch.y, constants.writes), batch.chosen
        )
        budget, strength = annealed(settings, state.step)
        dead = state.idle > settings.training.dead_window
        now = Now(budget, strength, dead, state.last)
        grads, parts = gradient(state.params, batch, now, constants.held)
        tokens = batch.x.shape[1]
        state = advanced(settings, state, grads, parts.fired, parts.levels, tokens)
        return constrained(state, mesh), constrained(parts, mesh)

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
