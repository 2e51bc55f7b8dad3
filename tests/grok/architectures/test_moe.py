"""The chosen experts are computed, all of them, and nothing else."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok.architectures.moe import (
    ExpertForm,
    Experts,
    block_rows,
    block_sizes,
    by_blocks,
    choose,
    expert_output,
    plan_blocks,
    run_selected,
    run_with_capacity,
)
from grok.architectures.stored_values import float_values
from grok.checkpoints.block_scales import Turned
from grok.checkpoints.tensor_file import QuantizedWeight8bit, dequantize

D, F = 16, 24
compiled = jax.jit(run_selected)


def float_experts(n_experts: int, seed: int = 0) -> Experts:
    rng = np.random.default_rng(seed)

    def one(*shape: int) -> np.ndarray:
        return (rng.standard_normal((n_experts, *shape)) * shape[0] ** -0.5).astype(np.float32)

    return Experts(activated=one(D, F), linear=one(D, F), down=one(F, D))


def quantized(weight: np.ndarray, groups: int) -> QuantizedWeight8bit:
    """int8 values with one float32 scale per column and group of rows."""
    e, rows, columns = weight.shape
    grouped = weight.reshape(e, groups, rows // groups, columns)
    scales = np.abs(grouped).max(axis=2, keepdims=True) / 127
    values = np.rint(grouped / scales).astype(np.int8).reshape(weight.shape)
    return QuantizedWeight8bit(values, scales[:, :, 0].astype(np.float32))


def naive(x: np.ndarray, experts: np.ndarray, gates: np.ndarray, weights: Experts) -> np.ndarray:
    """The sum over a token's experts, token by token, in float64; unknown ids add nothing."""
    out = np.zeros(x.shape)
    for token, row in enumerate(x.astype(np.float64)):
        for expert, gate in zip(experts[token], gates[token], strict=True):
            if expert < len(weights.activated):
                first = row @ weights.activated[expert]
                tanh = np.tanh(np.sqrt(2 / np.pi) * (first + 0.044715 * first**3))
                hidden = 0.5 * first * (1 + tanh) * (row @ weights.linear[expert])
                out[token] += gate * (hidden @ weights.down[expert])
    return out


def random_choice(
    n: int, k: int, n_experts: int, seed: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N, D], K different experts a token [N, K], gates [N, K]."""
    rng = np.random.default_rng(seed)
    experts = np.stack([rng.permutation(n_experts)[:k] for _ in range(n)]).astype(np.int32)
    x = rng.standard_normal((n, D)).astype(np.float32)
    return x, experts, rng.uniform(size=(n, k)).astype(np.float32)


def assert_close(got: jax.Array, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(got), wanted, atol=1e-5, rtol=1e-5)


# --- the same sums as token by token ---------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "n_experts"),
    [(1, 1, 1), (1, 2, 8), (5, 1, 8), (7, 2, 3), (33, 2, 8), (9, 4, 4), (600, 2, 8)],
)
def test_selected_experts_give_what_a_loop_over_tokens_gives(n, k, n_experts):
    x, experts, gates = random_choice(n, k, n_experts)
    weights = float_experts(n_experts)
    assert_close(compiled(x, experts, gates, weights), naive(x, experts, gates, weights))


@pytest.mark.parametrize("expert", [0, 3, 7])
def test_all_tokens_may_choose_the_same_expert(expert):
    x, _, gates = random_choice(33, 1, 8)
    experts, weights = np.full((33, 1), expert, np.int32), float_experts(8)
    assert_close(compiled(x, experts, gates, weights), naive(x, experts, gates, weights))


def test_ids_of_other_devices_experts_add_nothing():
    x, experts, gates = random_choice(33, 2, 8)
    weights = float_experts(5)  # 5, 6 and 7 live elsewhere
    assert_close(compiled(x, experts, gates, weights), naive(x, experts, gates, weights))
    strangers = np.full((33, 2), 5, np.int32)
    assert not np.asarray(compiled(x, strangers, gates, weights)).any()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_int8_weights_give_what_their_float_values_give(groups):
    x, experts, gates = random_choice(33, 2, 8)
    int8 = Experts(*(quantized(weight, groups) for weight in float_experts(8)[:3]))
    floats = Experts(*(dequantize(weight) for weight in int8[:3]))
    got = compiled(x, experts, gates, int8)
    assert_close(got, naive(x, experts, gates, floats))
    assert_close(got, np.asarray(compiled(x, experts, gates, floats)))


def test_a_scale_belongs_to_its_group_of_rows_and_column():
    values = np.ones((2, 6, 3), np.int8)
    scales = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    weight = QuantizedWeight8bit(values, scales)
    got = np.asarray(float_values(weight, jnp.float32))
    assert np.array_equal(got, np.repeat(scales, 3, axis=1))


def test_bfloat16_scales_round_the_weight_under_bfloat16_activations_alone():
    weight = QuantizedWeight8bit(
        np.array([[127, 3]], np.int8), np.array([[0.1015625, 1.0078125]], jnp.bfloat16)
    )
    exact = np.array([[127 * 0.1015625, 3 * 1.0078125]], np.float32)
    assert np.array_equal(np.asarray(float_values(weight, jnp.float32)), exact)
    rounded = np.asarray(float_values(weight, jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    assert np.array_equal(rounded, exact.astype(jnp.bfloat16))
    assert not np.array_equal(rounded.astype(np.float32), exact)


# --- the choice ------------------------------------------------------------------------


def test_gates_are_the_largest_probabilities_over_all_experts_and_not_renormalised():
    rng = np.random.default_rng(0)
    x, router = rng.standard_normal((40, D)), rng.standard_normal((D, 8))
    choice = choose(jnp.asarray(x, jnp.float32), jnp.asarray(router, jnp.float32), 2)
    logits = x @ router
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(choice.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(choice.probs, probs, rtol=1e-4)
    np.testing.assert_allclose(choice.gates, -np.sort(-probs, axis=-1)[:, :2], rtol=1e-4)
    assert np.array_equal(choice.experts, np.argsort(-probs, axis=-1)[:, :2])
    assert choice.gates.sum(-1).max() < 1


# --- work follows the assignments --------------------------------------------------------


planned = jax.jit(plan_blocks, static_argnums=(1, 2))


@pytest.mark.parametrize(
    ("n", "k", "n_experts", "sizes"),
    [(1, 1, 1, (1,)), (7, 2, 3, (4,)), (20, 2, 8, (2, 3, 8)), (9, 3, 5, (1,)), (30, 3, 5, (4, 7))],
)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_assignment_has_one_place_in_a_block_of_its_expert(n, k, n_experts, sizes, data):
    ids = st.integers(0, n_experts + 2)  # some of them experts of other devices
    drawn = data.draw(st.lists(ids, min_size=n * k, max_size=n * k))
    experts = np.array(drawn, np.int32).reshape(n, k)
    plan = jax.tree.map(np.asarray, planned(experts, n_experts, sizes))
    flat = experts.reshape(-1)
    own = flat < n_experts
    assert (plan.place[~own] >= n * k).all()  # nowhere
    assert np.array_equal(plan.order[plan.place[own]], np.flatnonzero(own))
    n_blocks = plan.bounds[-1]
    covered = []
    for i in range(n_blocks):
        number = np.searchsorted(plan.bounds, i, side="right") - 1
        smaller = sizes[number - 1] if number else 0
        assert smaller < plan.used[i] <= sizes[number]  # the smallest that holds them
        rows = np.arange(plan.start[i], plan.start[i] + plan.used[i])
        assert (flat[plan.order[rows]] == plan.expert[i]).all()
        covered += list(rows)
    assert sorted(covered) == sorted(plan.place[own])
    counts = np.bincount(flat[own], minlength=n_experts)
    assert n_blocks == (-(-counts // sizes[-1])).sum() <= len(plan.expert)


@pytest.mark.parametrize(
    ("n", "k", "n_experts", "sizes"),
    [
        (1, 8, 64, (1,)),
        (4, 8, 64, (1,)),
        (6, 8, 64, (6,)),
        (16, 8, 256, (1,)),
        (16, 2, 8, (8, 16)),
        (64, 8, 64, (8, 16, 32)),
        (512, 8, 64, (16, 32, 48, 72, 96, 128, 256)),
    ],
)
def test_sizes_of_blocks_follow_the_mean_load_and_are_few(n, k, n_experts, sizes):
    def turned(n_columns: int) -> Turned:
        return Turned(jax.ShapeDtypeStruct((n_experts, n_columns, 1024), jnp.bfloat16))

    assert block_sizes(n, k, n_experts, turned(1024)) == sizes
    one = (block_rows(n * k, n_experts),)
    assert block_sizes(n, k, n_experts, turned(1023)) == one
    assert block_sizes(n, k, n_experts, turned(1024).values) == one


@pytest.mark.parametrize(
    ("assigned", "n_experts"), [(1, 8), (16, 8), (66, 8), (2048, 8), (800, 8), (3, 64)]
)
def test_blocks_of_one_size_hold_twice_a_small_mean_load_and_a_large_one_once(assigned, n_experts):
    rows, load = block_rows(assigned, n_experts), assigned / n_experts
    assert 1 <= rows <= 256
    assert rows in (1, 256) or 1 <= rows / (2 * load if load <= 16 else load) < 2


@pytest.mark.parametrize("sizes", [(4,), (1, 3, 5), (2, 16, 40)])
def test_every_size_of_blocks_gives_what_a_loop_over_tokens_gives(sizes):
    x, experts, gates = random_choice(40, 3, 8)
    experts[:20] = [0, 6, 2]
    weights = float_experts(7)  # 7 lives elsewhere
    run = partial(by_blocks, run=expert_output, sizes=sizes)
    wanted = naive(x, experts, gates, weights)
    assert_close(jax.jit(run)(x, experts, gates, weights), wanted)
    apart = jax.jit(partial(run, summed=False))(x, experts, gates, weights)
    assert apart.shape == (40, 3, D)
    assert not np.asarray(apart)[experts == 7].any()
    assert_close(jnp.sum(apart, axis=1), wanted)


def test_what_an_expert_hides_is_rounded_where_its_form_says_so():
    x, weights = np.ones((2, D), jnp.bfloat16), float_experts(1)
    own = Experts(*(jnp.asarray(w[0], jnp.bfloat16) for w in weights[:3]))
    exact = expert_output(x, own, ExpertForm("silu"))
    rounded = expert_output(x, own, ExpertForm("silu", rounded=True))
    first, second = (jnp.dot(x, w, precision="highest") for w in (own.activated, own.linear))
    hidden = jax.nn.silu(first.astype(jnp.float32)) * second.astype(jnp.float32)
    wanted = hidden.astype(jnp.bfloat16).astype(jnp.float32) @ own.down.astype(jnp.float32)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(exact) - wanted).max() > 1e-4


def test_the_compiled_loop_runs_once_for_every_block_in_use(monkeypatch):
    """Counted by a callback inside the expert's product, not by the plan's own word."""
    from grok.architectures import moe

    ran = []
    original = moe.expert_output

    def counted(x, own, form, rows):
        jax.debug.callback(lambda: ran.append(1))
        return original(x, own, form, rows)

    monkeypatch.setattr(moe, "expert_output", counted)
    x, experts, gates = random_choice(32, 2, 8)
    for ids, blocks in [
        (np.zeros_like(experts), 4),  # 64 rows of one expert, 16 a block
        (experts, 8),  # every expert once
        (np.full_like(experts, 8), 0),  # none of them here
    ]:
        ran.clear()
        jax.block_until_ready(jax.jit(lambda *a: run_selected(*a))(x, ids, gates, float_experts(8)))
        jax.effects_barrier()
        assert len(ran) == blocks


# --- with capacity, for training ---------------------------------------------------------


def test_with_room_for_all_both_dispatches_give_the_same():
    x, experts, gates = random_choice(33, 2, 8)
    weights = float_experts(8)
    roomy = jax.jit(partial(run_with_capacity, factor=8.0))(x, experts, gates, weights)
    assert_close(roomy, np.asarray(compiled(x, experts, gates, weights)))


def test_what_exceeds_the_capacity_is_dropped_and_nothing_else():
    x, _, gates = random_choice(12, 1, 4)
    experts = np.array([0] * 9 + [1, 2, 3], np.int32)[:, None]  # room for 3 rows each
    weights = float_experts(4)
    tight = jax.jit(partial(run_with_capacity, factor=1.0))
    got = np.asarray(tight(x, experts, gates, weights))
    wanted = naive(x, experts, gates, weights)
    wanted[3:9] = 0
    assert_close(got, wanted)


def test_its_gradients_are_those_of_all_experts_computed_densely():
    x, experts, gates = random_choice(17, 2, 4)
    weights = float_experts(4)
    target = np.random.default_rng(5).standard_normal((17, D)).astype(np.float32)

    def dense(x, experts, gates, weights):
        hidden = jax.nn.gelu(jnp.einsum("nd,edf->enf", x, weights.activated), approximate=True)
        hidden = hidden * jnp.einsum("nd,edf->enf", x, weights.linear)
        out = jnp.einsum("enf,efd->end", hidden, weights.down)
        mix = (jax.nn.one_hot(experts, 4) * gates[..., None]).sum(1)  # [N, E]
        return jnp.einsum("end,ne->nd", out, mix)

    def gradients(dispatch):
        def loss(x, gates, weights):
            return jnp.sum(dispatch(x, experts, gates, weights) * target)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, gates, weights)

    roomy = partial(run_with_capacity, factor=4.0)
    wanted = jax.tree.leaves(gradients(dense))
    assert len(wanted) == 5
    for got, want in zip(jax.tree.leaves(gradients(roomy)), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
