"""Selection of experts and the products of the selected ones alone.

Axes: N token rows, K experts a token, E experts, D d_model, F d_ff, C rows of a
block, M blocks. Two dispatches give the same sums:

- `run_selected` sorts the N * K assignments by expert and walks over blocks of
  rows that share one; empty blocks are not visited, so the work follows the
  number of assignments. Exact for any load; not differentiable.
- `run_with_capacity` gives every expert the same number of rows and drops what
  exceeds it. Differentiable; for training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.products import HIGHEST, Weight, float_values, product
from grok.architectures.stretches import one
from grok.interventions.sites import NO_HOOK, Hook

LOWEST = -3e38  # above -inf, which stands for no expert


@dataclass(frozen=True)
class ExpertForm:
    """What an expert computes of its two branches, `first` and `second`.

    Attributes:
        activation: "gelu" (tanh form) or "silu": of `first`, times `second`. "clamped": `first` up
            to a limit times its sigmoid at alpha, times 1 + `second` within the limit.
        fused: both branches are one product: "halves", or "interleaved" columns. "": two.
        gates_input: the gate multiplies what the expert reads, not what it gives.
        limit, alpha: of "clamped".
    """

    activation: Literal["gelu", "silu", "clamped"] = "gelu"
    fused: Literal["", "halves", "interleaved"] = ""
    gates_input: bool = False
    limit: float = 0.0
    alpha: float = 0.0


class Experts(NamedTuple):
    """Weights of the experts of one layer, each an array or a quantized weight.

    activated, linear: [E, D, F], or activated [E, D, 2F] and no linear where the two are one
    product; down: [E, F, D]; activated_bias [E, F or 2F] and down_bias [E, D], where there are any.
    """

    activated: Weight
    linear: Weight
    down: Weight
    activated_bias: Weight = None
    down_bias: Weight = None


class Choice(NamedTuple):
    """What the router decided.

    logits [..., E]; probs [..., E]: probabilities, or scores that do not sum to 1; experts, gates
    [..., K]; values [..., E]: what the largest were taken of, where that is not probs; beside
    [..., 3]: where an expert is shared by all tokens, the lengths of what the chosen ones and the
    shared one add, and the cosine between the two; known once the layer is computed.
    """

    logits: jax.Array
    probs: jax.Array
    experts: jax.Array
    gates: jax.Array
    values: jax.Array | None = None
    beside: jax.Array | None = None


def choose(router_input: jax.Array, router: jax.Array, top_k: int, hook: Hook = NO_HOOK) -> Choice:
    """Softmax over all experts, then the `top_k` largest; gates are not renormalised.

    The product is in full float32: a reduced-precision one flips experts. Where `hook`
    puts other experts, the gates are their probabilities.
    """
    logits = jnp.dot(
        router_input.astype(jnp.float32), router.astype(jnp.float32), precision=HIGHEST
    )  # [..., E]
    logits = hook("router.logits", logits)
    probs = jax.nn.softmax(logits, axis=-1)
    gates, experts = jax.lax.top_k(probs, top_k)  # [..., K], largest first
    experts = experts.astype(jnp.int32)
    put = hook("router.experts", experts, probs=probs)
    if put is not experts:
        experts = largest_first(put, probs)
        gates = values_of(probs, experts)
    return Choice(logits, probs, experts, hook("router.gates", gates))


def largest_first(experts: jax.Array, values: jax.Array) -> jax.Array:
    """Ids [..., K] by falling value of all experts [..., E], of ties the first.

    An id outside the model stands for no expert and comes last.
    """
    ordered = jnp.sort(experts, axis=-1)
    there = (ordered >= 0) & (ordered < values.shape[-1])
    found = jnp.take_along_axis(values, jnp.where(there, ordered, 0), axis=-1)
    key = jnp.where(there, jnp.maximum(found, LOWEST), -jnp.inf)
    order = jax.lax.top_k(key, experts.shape[-1])[1]
    return jnp.take_along_axis(ordered, order, axis=-1)


def values_of(values: jax.Array, experts: jax.Array, none: float = 0.0) -> jax.Array:
    """The values [..., K] of some experts among those of all [..., E]; `none` of an id outside."""
    there = (experts >= 0) & (experts < values.shape[-1])
    found = jnp.take_along_axis(values, jnp.where(there, experts, 0), axis=-1)
    return jnp.where(there, found, none)


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


GELU = ExpertForm()


def expert_output(x: jax.Array, own: Experts, form: ExpertForm = GELU) -> jax.Array:
    """down(activation(x · activated) * (x · linear)) of one expert for its rows, biases included.

    [C, D] -> [C, D] float32.

    The first products keep the wider dtype of rows and weights; from there on
    everything is float32, int8 times scale of the last weight included.
    """
    first = product(x, own.activated).astype(jnp.float32)  # [C, F or 2F]
    if own.activated_bias is not None:
        first = first + own.activated_bias.astype(jnp.float32)
    if form.fused == "halves":
        first, second = jnp.split(first, 2, axis=-1)
    elif form.fused == "interleaved":
        first, second = first[..., 0::2], first[..., 1::2]
    else:
        second = product(x, own.linear).astype(jnp.float32)
    if form.activation == "clamped":
        first = jnp.minimum(first, form.limit)
        hidden = first * jax.nn.sigmoid(form.alpha * first)
        hidden = hidden * (jnp.clip(second, -form.limit, form.limit) + 1)
    else:
        hidden = ACTIVATIONS[form.activation](first) * second
    out = product(hidden, own.down)
    return out if own.down_bias is None else out + own.down_bias.astype(jnp.float32)


def block_rows(assignments: int, n_experts: int) -> int:
    """Rows of a block: about twice the mean load, so that most experts need one block; on a
    processor, where rows that nobody fills take as long as others, a large mean load once."""
    load = assignments / n_experts
    once = load > 16 and jax.default_backend() == "cpu"
    return int(min(256, max(1, 2 ** int(np.ceil(np.log2(load if once else 2 * load))))))


class _Plan(NamedTuple):
    token: jax.Array  # [M * C] row of x that each slot reads; N where the slot is empty
    expert: jax.Array  # [M] expert of each block
    n_blocks: jax.Array  # blocks in use
    slot: jax.Array  # [N * K] slot of each assignment; M * C where no block here has it


def plan_blocks(experts: jax.Array, n_experts: int, rows: int) -> _Plan:
    """Groups assignments by expert into blocks of `rows`.

    Args:
        experts: [N, K]; an id of `n_experts` or more belongs to no expert here.
    """
    n, k = experts.shape
    flat = jnp.minimum(experts.reshape(-1), n_experts)  # [N * K]
    n_blocks_max = min(n * k, n * k // rows + n_experts)
    n_slots = n_blocks_max * rows
    order = jnp.argsort(flat, stable=True)
    counts = jnp.bincount(flat, length=n_experts + 1)  # the last one counts the strangers
    blocks = -(-counts[:n_experts] // rows)
    first_block = jnp.concatenate([jnp.zeros(1, blocks.dtype), jnp.cumsum(blocks)])  # [E + 1]
    first_row = jnp.concatenate([jnp.zeros(1, counts.dtype), jnp.cumsum(counts)[:-1]])
    sorted_expert = flat[order]
    rank = jnp.arange(n * k) - first_row[sorted_expert]
    slot = jnp.where(
        sorted_expert < n_experts, first_block[sorted_expert] * rows + rank, n_slots
    ).astype(jnp.int32)
    token = jnp.full(n_slots, n, jnp.int32).at[slot].set(order // k, mode="drop")
    expert = jnp.searchsorted(first_block[1:], jnp.arange(n_blocks_max), side="right")
    slot_of = jnp.zeros(n * k, jnp.int32).at[order].set(slot)
    return _Plan(token, jnp.minimum(expert, n_experts - 1), first_block[-1], slot_of)


def run_selected(
    x: jax.Array,
    experts: jax.Array,
    gates: jax.Array,
    weights: Experts,
    *,
    summed: bool = True,
    form: ExpertForm = GELU,
) -> jax.Array:
    """Gate-weighted sum of the chosen experts' outputs, computing those alone.

    Args:
        x: [N, D].
        experts: [N, K]; ids of E or more are skipped.
        gates: [N, K], cast to the dtype of x when applied.
        weights: of E experts.
        summed: False leaves the contributions of the K experts apart.
        form: what an expert computes.

    Returns:
        [N, D] float32; [N, K, D] when not summed.
    """
    n, d = x.shape
    k = experts.shape[1]
    n_experts = weights.activated.shape[0]
    rows = block_rows(n * k, n_experts)
    plan = plan_blocks(experts, n_experts, rows)
    padded = jnp.concatenate([x, jnp.zeros((1, d), x.dtype)])
    sorted_rows = padded[plan.token]  # [M * C, D]
    applied = gates.astype(x.dtype)
    if form.gates_input:
        of_slot = jnp.zeros(sorted_rows.shape[0], x.dtype)
        of_slot = of_slot.at[plan.slot].set(applied.reshape(-1), mode="drop")
        sorted_rows, applied = sorted_rows * of_slot[:, None], jnp.ones_like(applied)

    def one_block(i: jax.Array, out: jax.Array) -> jax.Array:
        block = jax.lax.dynamic_slice_in_dim(sorted_rows, i * rows, rows)
        own = Experts(*(one(w, plan.expert[i]) for w in weights))
        result = expert_output(block, own, form)
        return jax.lax.dynamic_update_slice_in_dim(
            out, result.astype(jnp.float32), i * rows, axis=0
        )

    out = jnp.zeros((sorted_rows.shape[0], d), jnp.float32)
    out = jax.lax.fori_loop(0, plan.n_blocks, one_block, out)
    picked = out.at[plan.slot].get(mode="fill", fill_value=0).reshape(n, k, d)
    weighted = picked * applied.astype(jnp.float32)[..., None]
    return jnp.sum(weighted, axis=1) if summed else weighted


def run_with_capacity(
    x: jax.Array, experts: jax.Array, gates: jax.Array, weights: Experts, *, factor: float = 1.5
) -> jax.Array:
    """As `run_selected` with room for `factor` times the mean load; the rest is dropped.

    Differentiable in x, gates and float weights.
    """
    n, d = x.shape
    k = experts.shape[1]
    n_experts = weights.activated.shape[0]
    capacity = min(n, max(1, int(np.ceil(factor * n * k / n_experts))))
    flat = experts.reshape(-1)
    hot = jax.nn.one_hot(flat, n_experts, dtype=jnp.int32)  # [N * K, E]
    rank = (jnp.cumsum(hot, axis=0) * hot).sum(-1) - 1  # place among its expert's rows
    n_slots = n_experts * capacity
    slot = jnp.where(rank < capacity, flat * capacity + rank, n_slots)
    token = jnp.full(n_slots, n, jnp.int32).at[slot].set(jnp.arange(n * k) // k, mode="drop")
    padded = jnp.concatenate([x, jnp.zeros((1, d), x.dtype)])
    grouped = padded[token].reshape(n_experts, capacity, d)
    first, second = (
        jnp.einsum("ecd,edf->ecf", grouped, float_values(w, x.dtype).astype(x.dtype))
        for w in (weights.activated, weights.linear)
    )
    hidden = jax.nn.gelu(first, approximate=True) * second
    out = jnp.einsum("ecf,efd->ecd", hidden, float_values(weights.down, x.dtype).astype(x.dtype))
    out = out.reshape(n_slots, d)
    picked = out.at[slot].get(mode="fill", fill_value=0).reshape(n, k, d)
    return jnp.sum(picked.astype(jnp.float32) * gates[..., None].astype(jnp.float32), axis=1)
