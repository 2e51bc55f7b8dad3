"""Selection of experts and the products of the selected ones alone.

Axes: N token rows, K experts a token, E experts, D d_model, F d_ff, C rows of a
block, M blocks. Two dispatches give the same sums:

- `run_selected` sorts the N * K assignments by expert and walks over blocks of
  rows that share one, so the work follows the number of assignments. Exact for
  any load; not differentiable.
- `run_with_capacity` gives every expert the same number of rows and drops what
  exceeds it. Differentiable; for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.products import HIGHEST, LARGE, product
from grok.architectures.stored_values import Weight, float_values
from grok.architectures.stretches import one
from grok.checkpoints.block_scales import MicroScaled, Turned
from grok.interventions.sites import NO_HOOK, Hook

LOWEST = -3e38  # above -inf, which stands for no expert
MOST_ROWS = 256  # of a block
TYPICAL = 9 / 8  # of a block, in mean loads
LOADS = 1 / 4, 1 / 2, 3 / 4, TYPICAL, 3 / 2, 2, 4  # sizes that there are


@dataclass(frozen=True)
class ExpertForm:
    """What an expert computes of its two branches, `first` and `second`.

    Attributes:
        activation: "gelu" (tanh form) or "silu": of `first`, times `second`. "clamped": `first` up
            to a limit times its sigmoid at alpha, times 1 + `second` within the limit.
        fused: both branches are one product: "halves", or "interleaved" columns. "": two.
        gates_input: the gate multiplies what the expert reads, not what it gives.
        rounded: what the last product reads has the dtype of the rows, not float32.
        limit, alpha: of "clamped".
    """

    activation: Literal["gelu", "silu", "clamped"] = "gelu"
    fused: Literal["", "halves", "interleaved"] = ""
    gates_input: bool = False
    rounded: bool = False
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


def expert_output(x: jax.Array, own: Experts, form: ExpertForm = GELU, rows: int = 0) -> jax.Array:
    """down(activation(x · activated) * (x · linear)) of one expert for its rows, biases included.

    [C, D] -> [C, D] float32; `rows` as in `product`.

    The first products keep the wider dtype of rows and weights; from there on
    everything is float32, int8 times scale of the last weight included; where the
    form says so, the last product reads rounded values and sums them in float32.
    """
    first = product(x, own.activated, rows=rows).astype(jnp.float32)  # [C, F or 2F]
    if own.activated_bias is not None:
        first = first + own.activated_bias.astype(jnp.float32)
    if form.fused == "halves":
        first, second = jnp.split(first, 2, axis=-1)
    elif form.fused == "interleaved":
        first, second = first[..., 0::2], first[..., 1::2]
    else:
        second = product(x, own.linear, rows=rows).astype(jnp.float32)
    if form.activation == "clamped":
        first = jnp.minimum(first, form.limit)
        hidden = first * jax.nn.sigmoid(form.alpha * first)
        hidden = hidden * (jnp.clip(second, -form.limit, form.limit) + 1)
    else:
        hidden = ACTIVATIONS[form.activation](first) * second
    if form.rounded:
        hidden = hidden.astype(x.dtype)
    out = product(hidden, own.down, jnp.float32, rows)
    return out if own.down_bias is None else out + own.down_bias.astype(jnp.float32)


def block_rows(assignments: int, n_experts: int) -> int:
    """Rows of a block where there is one size: about twice the mean load, so that most experts
    need one block; on a processor, where rows that nobody fills take as long as others, a large
    mean load once."""
    load = assignments / n_experts
    once = load > 16 and jax.default_backend() == "cpu"
    return int(min(MOST_ROWS, max(1, 2 ** int(np.ceil(np.log2(load if once else 2 * load))))))


def block_sizes(n: int, k: int, n_experts: int, matrix: Weight) -> tuple[int, ...]:
    """Rows of the blocks that an expert's rows may be cut into, the smallest first.

    Several, about the mean load, where a processor multiplies large matrices whose rows are summed
    over alike, however many rows there are with them: so a token's numbers depend on no others.

    Args:
        n: tokens.
        k: experts of each.
        n_experts: that share them.
        matrix: the largest, of all experts.
    """
    load = n * k / n_experts
    large = isinstance(matrix, Turned | MicroScaled) and math.prod(matrix.shape[1:]) >= LARGE
    if not large or jax.default_backend() != "cpu":
        return (block_rows(n * k, n_experts),)
    if load <= 1 / 2:
        return (1,)
    steps = (8 * int(np.ceil(share * load / 8)) for share in LOADS)
    return tuple(sorted({min(n, MOST_ROWS, step) for step in steps}))


class _Plan(NamedTuple):
    order: jax.Array  # [N * K] assignments by expert
    expert: jax.Array  # [M] of each block; blocks of one size stand together
    start: jax.Array  # [M] its first row among the sorted
    used: jax.Array  # [M] its rows in use
    bounds: jax.Array  # [sizes + 1] the blocks of each size
    place: jax.Array  # [N * K] of each assignment among the sorted; N * K where it has no expert


def plan_blocks(experts: jax.Array, n_experts: int, sizes: tuple[int, ...]) -> _Plan:
    """Sorts assignments by expert and cuts each expert's into blocks: of the largest size, and of
    the smallest that holds the rest.

    Args:
        experts: [N, K]; an id of `n_experts` or more belongs to no expert here.
        n_experts: whose weights are here.
        sizes: rows of a block, the smallest first.
    """
    n, k = experts.shape
    most, n_blocks = sizes[-1], min(n * k, n * k // sizes[-1] + n_experts)
    flat = jnp.minimum(experts.reshape(-1), n_experts)  # [N * K]
    order = jnp.argsort(flat, stable=True)
    counts = jnp.zeros(n_experts, jnp.int32).at[flat].add(1, mode="drop")
    own = jax.lax.div(counts + (most - 1), most)  # [E] blocks of each
    blocks, rows = jnp.cumsum(own), jnp.cumsum(counts)  # [E] up to each expert's last
    block = jnp.arange(n_blocks)
    expert = jnp.minimum((block[:, None] >= blocks).sum(axis=1), n_experts - 1)
    start = (rows - counts - (blocks - own) * most)[expert] + block * most
    used = jnp.clip(rows[expert] - start, 0, most)  # of a block after the last: none
    size = jnp.where(used > 0, (used[:, None] > jnp.array(sizes)).sum(axis=1), len(sizes))
    bounds = (size[:, None] < jnp.arange(len(sizes) + 1)).sum(axis=0)
    if len(sizes) > 1:
        by_size = jnp.argsort(size, stable=True)
        expert, start, used = expert[by_size], start[by_size], used[by_size]
    place = jnp.zeros(n * k, jnp.int32).at[order].set(jnp.arange(n * k, dtype=jnp.int32))
    return _Plan(
        order, expert, start, used, bounds, jnp.where(flat < n_experts, place, n * k + most)
    )


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
    (n, k), n_experts = experts.shape, weights.activated.shape[0]
    sizes = block_sizes(n, k, n_experts, weights.activated)
    typical = 1 if sizes == (1,) else math.ceil(TYPICAL * n * k / n_experts)
    run = partial(expert_output, form=form, rows=typical)
    by_input = form.gates_input
    return by_blocks(x, experts, gates, weights, run, sizes, summed=summed, gates_input=by_input)


def by_blocks(
    x: jax.Array,
    experts: jax.Array,
    gates: jax.Array,
    weights: Experts,
    run: Callable[[jax.Array, Experts], jax.Array],
    sizes: tuple[int, ...],
    *,
    summed: bool = True,
    gates_input: bool = False,
) -> jax.Array:
    """As `run_selected`, for any function of an expert's rows and weights.

    Args:
        x: [N, D].
        experts: [N, K]; ids of E or more are skipped.
        gates: [N, K], cast to the dtype of x when applied.
        weights: of E experts.
        run: [C, D] and the weights of one expert -> [C, D].
        sizes: that C may be, the smallest first.
        summed: False leaves the contributions of the K experts apart.
        gates_input: gates multiply what `run` reads, not what it gives.

    Returns:
        [N, D] float32; [N, K, D] when not summed.
    """
    (n, d), k = x.shape, experts.shape[1]
    plan = plan_blocks(experts, weights.activated.shape[0], sizes)
    assigned = jnp.pad(plan.order, (0, sizes[-1]))  # blocks may reach beyond the last
    applied = gates.astype(x.dtype).reshape(-1)

    def one_block(size: int, i: jax.Array, out: jax.Array) -> jax.Array:
        at = plan.start[i]
        some = jax.lax.dynamic_slice_in_dim(assigned, at, size)
        rows, gate = x[jax.lax.div(some, k)], applied[some][:, None]
        own = Experts(*(one(w, plan.expert[i]) for w in weights))
        result = run(rows * gate if gates_input else rows, own).astype(jnp.float32)
        if not gates_input:
            result = result * gate.astype(jnp.float32)
        others = jax.lax.dynamic_slice_in_dim(out, at, size)  # rows of the next expert
        used = jnp.arange(size)[:, None] < plan.used[i]
        return jax.lax.dynamic_update_slice_in_dim(out, jnp.where(used, result, others), at, 0)

    out = jnp.zeros((n * k + sizes[-1], d), jnp.float32)
    for number, size in enumerate(sizes):
        first, end = plan.bounds[number], plan.bounds[number + 1]
        out = jax.lax.fori_loop(first, end, partial(one_block, size), out)
    place = plan.place.reshape(n, k)
    if not summed:
        return out.at[place].get(mode="fill", fill_value=0)
    of_each = [out.at[place[:, slot]].get(mode="fill", fill_value=0) for slot in range(k)]
    total: jax.Array = sum(of_each[1:], of_each[0])
    return total


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
