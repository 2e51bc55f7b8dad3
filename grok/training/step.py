"""One training step of a small Grok-1-architecture model.

The layers' parameters are stacked on a leading axis [L, ...] and scanned; the
layer itself is that of `grok.architectures.grok1` with room-limited dispatch, so what is
trained is what runs. Loss = next-token cross entropy + balance + router z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grok.architectures.grok1 import Grok1, initial_layer
from grok.architectures.grok1_modules import rms_norm
from grok.architectures.moe import Choice, run_with_capacity
from grok.checkpoints.grok1 import EMBEDDING, FINAL_NORM, POST_NORMS, layer_path
from grok.config import GrokConfig
from grok.training.loss import mean_cross_entropy


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run; written into the model card.

    Attributes:
        steps: optimiser steps.
        batch: sequences a step.
        length: tokens a sequence.
        long_steps: the last steps use `long_length` and proportionally fewer sequences.
        long_length: tokens a sequence there.
        learning_rate: peak, after `warmup` steps, then a cosine down to a twentieth.
        warmup: steps of linear rise.
        weight_decay: on matrices; norms and routers have none.
        balance: weight of the load-balancing loss, summed over layers.
        router_z: weight of the squared log-partition of the router, summed over layers.
        capacity: rows an expert has room for, over its mean load.
        focus_steps: further steps after `steps`, in which the experts of a sequence are drawn
            together (see `losses`).
        focus_learning_rate: at their first; a cosine goes down to a twentieth.
        focus: weight of the focus loss, summed over layers.
        seed: of the initial weights and of the order of the data.
    """

    steps: int = 2000
    batch: int = 32
    length: int = 128
    long_steps: int = 200
    long_length: int = 512
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    balance: float = 0.03
    router_z: float = 1e-4
    capacity: float = 1.25
    focus_steps: int = 560
    focus_learning_rate: float = 1.5e-3
    focus: float = 0.02
    seed: int = 0


class TrainState(NamedTuple):
    """Parameters, optimiser state and the number of finished steps."""

    params: dict[str, Any]
    opt_state: Any
    step: jax.Array


class Losses(NamedTuple):
    """Per-token cross entropy and sequence entropy in nats, balance and z terms, and the
    load [L, E] (sums to 1 a layer)."""

    cross_entropy: jax.Array
    sequence_entropy: jax.Array
    balance: jax.Array
    router_z: jax.Array
    load: jax.Array


def initial_params(config: GrokConfig, seed: int) -> dict[str, Any]:
    """Random weights: {"io": {path: array}, "layers": {leaf: [L, ...]}}.

    Post-norm scales start at 1/sqrt(2L), so that the L layers add up to a stream
    of about unit size.
    """
    key = jax.random.key(seed)
    one_layer = partial(initial_layer, config)
    layers = jax.vmap(one_layer)(jax.random.split(key, config.n_layers))
    for name in POST_NORMS:
        layers[name] = jnp.full_like(layers[name], (2 * config.n_layers) ** -0.5)
    table = jax.random.normal(jax.random.fold_in(key, 1), (config.vocab_size, config.d_model))
    io = {EMBEDDING: table * config.d_model**-0.5, FINAL_NORM: jnp.ones(config.d_model)}
    return {"io": io, "layers": layers}


def run_layers(
    config: GrokConfig,
    params: Mapping[str, Any],
    tokens: jax.Array,
    *,
    dtype: Any = jnp.float32,
    capacity: float,
) -> tuple[jax.Array, Choice]:
    """The residual stream after the last layer [B, T, D] and every layer's `Choice` [L, ...].

    Args:
        capacity: room an expert has, over its mean load.
    """
    dispatch = partial(run_with_capacity, factor=capacity)
    b, t = tokens.shape
    is_token = tokens > 0
    model = Grok1(config)
    cache = model.empty_cache(b, t, dtype)

    def one(h: jax.Array, weights: Mapping[str, jax.Array]) -> tuple[jax.Array, Choice]:
        h, choice, _ = model.decoder_layer(
            weights, h, jnp.int32(0), is_token, cache, dispatch=dispatch
        )
        return h, choice

    h = model.embed({EMBEDDING: params["io"][EMBEDDING]}, tokens, dtype)
    # Unrolled, the layers run about twice as fast on a CPU as in a loop.
    return jax.lax.scan(one, h, params["layers"], unroll=config.n_layers)


def losses(
    config: GrokConfig,
    recipe: Recipe,
    params: Mapping[str, Any],
    batch: jax.Array,
    dtype: Any,
    axis: str | None = None,
    *,
    focused: bool = False,
) -> tuple[jax.Array, Losses]:
    """Total loss of a batch [B, T + 1] and its parts.

    Balance is E · Σ_e (share of assignments to e) · (mean probability of e), 1 when even,
    taken over the whole batch (of all devices along `axis`), so an expert may take one
    domain as long as the batch as a whole is spread.

    When `focused`, the entropy of the mean probabilities of each sequence is added: low
    when the tokens of a text share experts. With an even load over the batch it is, up to a
    constant, minus the mutual information of sequence and expert. No domain label enters.
    """

    def over_devices(x: jax.Array) -> jax.Array:
        return x if axis is None else jax.lax.pmean(x, axis)

    h, choices = run_layers(config, params, batch[:, :-1], dtype=dtype, capacity=recipe.capacity)
    rows = rms_norm(h, params["io"][FINAL_NORM]).astype(dtype).reshape(-1, config.d_model)
    table = params["io"][EMBEDDING].astype(rows.dtype)
    entropy = mean_cross_entropy(rows, table, batch[:, 1:].reshape(-1), config.output_multiplier)
    hot = jax.nn.one_hot(choices.experts, config.n_experts)  # [L, B, T, K, E]
    load = over_devices(hot.mean(axis=(1, 2, 3)))  # [L, E]
    probs = over_devices(choices.probs.mean(axis=(1, 2)))  # [L, E]
    balance = config.n_experts * (load * probs).sum(-1)  # [L]
    z = jnp.square(jax.nn.logsumexp(choices.logits, axis=-1)).mean(axis=(1, 2))  # [L]
    of_sequence = choices.probs.mean(axis=2)  # [L, B, E]
    spread = jax.scipy.special.entr(of_sequence).sum(-1).mean(-1)  # [L]
    parts = Losses(entropy, spread.mean(), balance.mean(), z.mean(), load)
    total = parts.cross_entropy + recipe.balance * balance.sum() + recipe.router_z * z.sum()
    if focused:
        total += recipe.focus * spread.sum()
    return total, parts


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW with clipping; decay on matrices alone."""
    first = optax.warmup_cosine_decay_schedule(
        0.0,
        recipe.learning_rate,
        min(recipe.warmup, max(1, recipe.steps // 2)),
        max(recipe.steps, 2),
        recipe.learning_rate / 20,
    )
    focus = optax.cosine_decay_schedule(
        recipe.focus_learning_rate, max(recipe.focus_steps, 1), alpha=1 / 20
    )
    schedule = optax.join_schedules([first, focus], [recipe.steps])

    def decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "scale" not in str(path[-1]) and "router" not in str(path[-1]), params
        )

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=recipe.weight_decay, mask=decayed),
    )


def initial_state(config: GrokConfig, recipe: Recipe) -> TrainState:
    """State before the first step."""
    params = initial_params(config, recipe.seed)
    return TrainState(params, optimizer(recipe).init(params), jnp.int32(0))


def make_step(config: GrokConfig, recipe: Recipe, dtype: Any, *, focused: bool = False) -> Any:
    """A compiled (state, batch [B, T + 1]) -> (state, Losses, gradient norm).

    Sequences are split over all devices when they divide evenly (on a CPU, devices made of
    cores keep every core busy through the elementwise parts); otherwise one device works.
    """
    transform = optimizer(recipe)
    n_devices = len(jax.devices())
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def gradient(params: Any, batch: jax.Array) -> tuple[Any, Losses]:
        if n_devices == 1 or batch.shape[0] % n_devices:
            whole = jax.grad(partial(losses, config, recipe, focused=focused), has_aux=True)
            found: tuple[Any, Losses] = whole(params, batch, dtype)
            return found

        def share(params: Any, batch: jax.Array) -> tuple[Any, Losses]:
            part = partial(losses, config, recipe, axis="data", focused=focused)
            local = jax.grad(part, has_aux=True)
            mean: tuple[Any, Losses] = jax.lax.pmean(local(params, batch, dtype), "data")
            return mean

        over_data = jax.shard_map(
            share, mesh=mesh, check_vma=False, in_specs=(P(), P("data")), out_specs=P()
        )
        split: tuple[Any, Losses] = over_data(params, batch)
        return split

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: jax.Array) -> tuple[TrainState, Losses, jax.Array]:
        grads, parts = gradient(state.params, batch)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), parts, optax.tree.norm(grads)

    replicated = NamedSharding(mesh, P())
    return lambda state, batch: step(*jax.device_put((state, batch), replicated))


def by_path(config: GrokConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The trained weights keyed by checkpoint path."""
    out = {path: np.asarray(value) for path, value in params["io"].items()}
    for leaf, stacked in params["layers"].items():
        for index in range(config.n_layers):
            out[layer_path(index, leaf)] = np.asarray(stacked[index])
    return out
