"""What each intervention does to the numbers of a run."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok.engine import compiled as passes
from grok.errors import InterventionError, SiteError
from grok.interventions.edits import (
    NO_EDITS,
    add_vector,
    ban,
    clamp,
    compose,
    edit,
    force,
    noise,
    replace_with,
    scale,
    set_top_k,
    steer,
    temperature,
    zero_out,
)

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]
CLOSE = 1e-5  # float32: what the order of additions may change


def routed(model, edits=NO_EDITS, tokens=TOKENS):
    return model.trace_routing(tokens, edits=edits)


def test_no_edits_are_identity(tiny3):
    for name in ("router_logits", "gates", "candidate_probs"):
        np.testing.assert_array_equal(
            getattr(routed(tiny3), name), getattr(routed(tiny3, edit("embed", scale(1.0))), name)
        )


@pytest.mark.parametrize(
    "nothing",
    [
        edit("resid_mid", scale(1.0)),
        edit("moe.output", add_vector(0.0)),
        edit("router.logits", clamp(-1e6, 1e6)),
        edit("router.logits", temperature(1.0)),
        edit("router.input", noise(0.0, 3)),
        edit("attn.output", zero_out(), positions=slice(9, None)),
        edit("resid_post", compose(scale(2.0), scale(0.5))),
    ],
    ids=lambda edits: edits.texts()[0],
)
def test_an_intervention_of_no_strength_changes_nothing(tiny3, nothing):
    base, changed = routed(tiny3), routed(tiny3, nothing)
    np.testing.assert_array_equal(base.experts, changed.experts)
    np.testing.assert_allclose(base.router_logits, changed.router_logits, atol=CLOSE)
    np.testing.assert_allclose(base.candidate_probs, changed.candidate_probs, atol=CLOSE)


def test_a_banned_expert_is_chosen_nowhere_and_the_others_gates_grow_as_softmax_says(tiny3):
    base, changed = routed(tiny3), routed(tiny3, edit("router.logits", ban(2), layers=1))
    assert (base.experts[1] == 2).any()
    assert not (changed.experts[1] == 2).any()
    assert np.isneginf(changed.router_logits[1, :, 2]).all()
    kept = np.delete(np.arange(8), 2)
    before, after = base.router_probs[1], changed.router_probs[1]
    expected = before[:, kept] / (1 - before[:, 2:3])
    np.testing.assert_allclose(after[:, kept], expected, rtol=1e-4)
    np.testing.assert_array_equal(base.experts[0], changed.experts[0])  # before the ban
    assert not np.allclose(base.router_logits[2], changed.router_logits[2], atol=1e-4)


def test_several_bans_add_up_until_too_few_are_left(tiny3):
    six = edit("router.logits", ban([0, 1, 2, 3, 4, 5]))
    assert set(np.unique(routed(tiny3, six).experts)) == {6, 7}
    with pytest.raises(InterventionError, match="only 1 are left.*2 are chosen"):
        routed(tiny3, six + edit("router.logits", ban(6), layers=2))
    one_token = edit("router.logits", ban(6), layers=2, positions=0)
    with pytest.raises(InterventionError, match="Layer 2"):
        routed(tiny3, six + one_token)
    apart = edit("router.logits", ban([0, 1, 2, 3]), positions=0)
    apart += edit("router.logits", ban([4, 5, 6]), positions=1)
    assert routed(tiny3, apart).experts.shape == (3, 9, 2)


def test_forcing_what_was_chosen_is_identity(tiny3):
    base = routed(tiny3)
    forced = NO_EDITS
    for layer in range(3):
        forced += edit("router.experts", force(base.experts[layer][:, ::-1]), layers=layer)
    changed = routed(tiny3, forced)
    np.testing.assert_array_equal(base.experts, changed.experts)
    np.testing.assert_allclose(base.gates, changed.gates, atol=CLOSE)
    np.testing.assert_allclose(base.candidate_probs, changed.candidate_probs, atol=CLOSE)


def test_forced_experts_keep_the_probabilities_that_the_router_gave_them(tiny3):
    base = routed(tiny3)
    changed = routed(tiny3, edit("router.experts", force([6, 1]), layers=0))
    assert set(np.unique(changed.experts[0])) == {1, 6}
    np.testing.assert_array_equal(base.router_probs[0], changed.router_probs[0])
    np.testing.assert_array_equal(
        changed.gates[0], np.take_along_axis(base.router_probs[0], changed.experts[0], axis=-1)
    )
    assert (changed.gates[0, :, 0] >= changed.gates[0, :, 1]).all()


def test_top_k_can_be_set_for_all_layers_or_for_some_tokens(tiny3):
    base = routed(tiny3)
    three = routed(tiny3, edit("router.experts", set_top_k(3)))
    assert three.experts.shape[-1] == 3
    np.testing.assert_array_equal(three.experts[0, :, :2], base.experts[0])
    one = routed(tiny3, edit("router.experts", set_top_k(1), layers=0, positions=[2]))
    assert one.experts[0, 2].tolist() == [base.experts[0, 2, 0], -1]
    assert one.gates[0, 2, 1] == 0
    np.testing.assert_array_equal(one.experts[0, 3], base.experts[0, 3])
    with pytest.raises(InterventionError, match="router.experts"):
        routed(tiny3, edit("router.experts", set_top_k(9)))


def test_temperature_changes_gates_but_never_the_choice_in_its_layer(tiny3):
    base, changed = routed(tiny3), routed(tiny3, edit("router.logits", temperature(2.0), layers=0))
    np.testing.assert_array_equal(base.experts[0], changed.experts[0])
    np.testing.assert_allclose(changed.router_logits[0], base.router_logits[0] / 2, rtol=1e-5)


def test_only_the_chosen_positions_change_and_what_comes_before_them_never(tiny3):
    changed = routed(tiny3, edit("resid_pre", zero_out(), layers=1, positions=[-3]))
    base = routed(tiny3)
    np.testing.assert_allclose(base.router_logits[:, :6], changed.router_logits[:, :6], atol=CLOSE)
    assert not np.allclose(base.router_logits[1, 6], changed.router_logits[1, 6], atol=1e-3)
    assert not np.allclose(base.router_logits[2, 7:], changed.router_logits[2, 7:], atol=1e-5)


def test_noise_depends_on_the_key_and_the_position_alone(tiny3):
    def logits(seed, tokens=TOKENS):
        return routed(tiny3, edit("embed", noise(0.5, seed)), tokens).router_logits

    np.testing.assert_array_equal(logits(3), logits(3))
    assert not np.allclose(logits(3), logits(4), atol=1e-3)
    np.testing.assert_allclose(logits(3)[:, :4], logits(3, TOKENS[:4]), atol=CLOSE)


def test_values_are_replaced_by_one_row_or_by_a_row_for_each_token(tiny3):
    rows = np.random.default_rng(0).standard_normal((len(TOKENS), 8)).astype(np.float32)
    each = routed(tiny3, edit("router.logits", replace_with(rows), layers=0))
    np.testing.assert_array_equal(each.router_logits[0], rows)
    one = routed(tiny3, edit("router.logits", replace_with(rows[0]), layers=0))
    np.testing.assert_array_equal(one.router_logits[0], np.tile(rows[0], (len(TOKENS), 1)))
    with pytest.raises(InterventionError, match="one row for each of the 9 tokens"):
        routed(tiny3, edit("router.logits", replace_with(rows[:4])))


def test_a_function_of_ones_own_is_compiled_into_the_run(tiny3):
    own = edit("router.logits", lambda logits: logits[..., ::-1], layers=0)
    base, changed = routed(tiny3), routed(tiny3, own)
    np.testing.assert_array_equal(changed.router_logits[0], base.router_logits[0][:, ::-1])
    shifted = jax.tree_util.Partial(lambda by, logits: logits + by, np.float32(1))
    changed = routed(tiny3, edit("router.logits", shifted, layers=0))
    np.testing.assert_allclose(changed.router_logits[0], base.router_logits[0] + 1, atol=CLOSE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_value_keeps_its_dtype_whatever_the_function_returns(model, dtype):
    one = model("tiny3", dtype)
    with one.trace(TOKENS) as t:
        t.layers[1].moe.output.edit(lambda x: x.astype(jnp.float32) * 1.5)
        t.layers[1].attn.output.edit(add_vector(np.ones(one.config.d_model), 0.1))
        saved = [t.layers[1].moe.output.save(), t.layers[1].attn.output.save()]
    assert {str(s.value.dtype) for s in saved} == {dtype}


def test_edits_compose_in_the_order_given(tiny3):
    first = edit("router.logits", scale(2.0), layers=0)
    second = edit("router.logits", add_vector(np.arange(8.0)), layers=0)
    base = routed(tiny3).router_logits[0]
    np.testing.assert_allclose(
        routed(tiny3, first + second).router_logits[0], 2 * base + np.arange(8), atol=CLOSE
    )
    np.testing.assert_allclose(
        routed(tiny3, second + first).router_logits[0], 2 * (base + np.arange(8)), atol=CLOSE
    )
    composed = edit("router.logits", compose(scale(2.0), add_vector(np.arange(8.0))), layers=0)
    np.testing.assert_allclose(
        routed(tiny3, composed).router_logits[0], 2 * base + np.arange(8), atol=CLOSE
    )


def test_another_strength_vector_expert_layer_or_position_compiles_nothing(tiny3):
    rng = np.random.default_rng(0)

    def run(seed):
        vector = rng.standard_normal(tiny3.config.d_model)
        edits = edit("router.logits", ban(seed), layers=seed % 3)
        edits += edit("resid_post", add_vector(vector, 0.1 * seed), layers=2, positions=[seed])
        edits += edit("resid_mid", compose(scale(1 + seed), noise(seed, seed)), layers=2)
        edits += edit("moe.output", replace_with(rng.standard_normal((9, 1))), layers=2)
        edits += edit("router.experts", force([seed, 7]), layers=1)
        return edits

    for seed in (0, 1, 2):  # the ban has been in every layer
        routed(tiny3, run(seed))
    parts = (passes.layer_pass, passes.head_pass, passes.embed_pass)
    before = [part._cache_size() for part in parts]
    for seed in (3, 4, 5):
        routed(tiny3, run(seed))
        routed(tiny3)
    assert [part._cache_size() for part in parts] == before


def test_a_run_with_edits_leaves_the_next_untouched(tiny3):
    before = routed(tiny3).candidate_probs
    routed(tiny3, edit("router.logits", ban([0, 1, 2])) + edit("resid_pre", noise(1.0, 0)))
    np.testing.assert_array_equal(routed(tiny3).candidate_probs, before)


def test_two_threads_with_different_edits_do_not_touch_each_other(tiny3):
    plans = [edit("router.logits", ban(expert)) for expert in range(4)]
    expected = [routed(tiny3, plan) for plan in plans]
    found: list = [[] for _ in plans]

    def work(i):
        for _ in range(5):
            found[i].append(routed(tiny3, plans[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, traces in zip(expected, found, strict=True):
        assert len(traces) == 5
        for trace in traces:
            np.testing.assert_array_equal(trace.candidate_probs, own.candidate_probs)
            np.testing.assert_array_equal(trace.experts, own.experts)


def test_edits_persist_through_generation(tiny3):
    edits = edit("router.logits", ban(3))
    done = tiny3.generate(TOKENS[:4], max_new_tokens=8, edits=edits)
    assert done.trace.tokens.size > 4
    assert not (done.trace.experts == 3).any()
    read = tiny3.trace_routing(done.trace.tokens, edits=edits)
    np.testing.assert_array_equal(read.experts, done.trace.experts)
    np.testing.assert_allclose(read.gates, done.trace.gates, atol=1e-5)


def test_an_edit_of_tokens_to_come_waits_for_them(tiny3):
    edits = edit("router.logits", ban(3), positions=slice(6, None))
    trace = tiny3.generate(TOKENS[:4], max_new_tokens=8, edits=edits).trace
    plain = tiny3.trace_routing(trace.tokens)
    np.testing.assert_array_equal(trace.experts[:, :6], plain.experts[:, :6])
    assert (plain.experts == 3).any() and not (trace.experts[:, 6:] == 3).any()


def test_steering_pushes_every_generated_token(tiny3):
    vector = np.random.default_rng(1).standard_normal(tiny3.config.d_model)
    none = tiny3.generate(TOKENS[:4], max_new_tokens=6)
    weak = tiny3.generate(
        TOKENS[:4], max_new_tokens=6, edits=steer("resid_post", vector, 0.0, layers=1)
    )
    strong = tiny3.generate(
        TOKENS[:4], max_new_tokens=6, edits=steer(["resid_post", "resid_mid"], vector, 50.0)
    )
    assert weak.new_tokens == none.new_tokens
    assert strong.new_tokens != none.new_tokens
    with tiny3.trace(TOKENS[:4], max_new_tokens=6) as t:
        plain = t.layers[1].resid_post.save()
        t.add(steer("resid_post", vector, 2.0, layers=2))
        pushed = t.layers[2].resid_post.save()
    with tiny3.trace(t.routing.tokens) as again:
        before = again.layers[2].resid_post.save()
    np.testing.assert_allclose(pushed.value, before.value + 2 * vector, rtol=1e-4, atol=1e-4)
    assert plain.value.shape == pushed.value.shape


@pytest.mark.parametrize("mesh", [(1, 8), (2, 4), (8, 1)])
def test_edits_give_the_same_on_eight_devices_as_on_one(model, mesh):
    edits = edit("router.logits", ban(2), layers=0)
    edits += edit("router.experts", force([1, 4]), layers=1, positions=[0, 3])
    edits += edit("moe.output", scale(0.5), layers=2)
    edits += edit("moe.contribution", scale(2.0), layers=1)
    edits += edit("router.experts", set_top_k(3), layers=2)
    one, many = (routed(model("tiny3", mesh=shape), edits) for shape in ((1, 1), mesh))
    np.testing.assert_array_equal(one.experts, many.experts)
    finite = np.isfinite(one.router_logits)
    np.testing.assert_array_equal(finite, np.isfinite(many.router_logits))
    np.testing.assert_allclose(one.router_logits[finite], many.router_logits[finite], atol=2e-4)
    np.testing.assert_allclose(one.candidate_probs, many.candidate_probs, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: edit("router.logit", ban(1)), "Did you mean 'router.logits'"),
        (
            lambda: edit("resid_post", ban(1)),
            "ban does not fit resid_post; it is for router.logits",
        ),
        (lambda: edit("router.logits", force([1])), "force does not fit"),
        (lambda: edit("router.experts", scale(2.0)), "scale does not fit router.experts"),
        (lambda: edit("embed", scale(1.0), layers=2), "belongs to no layer"),
        (lambda: edit("resid_post", 3.0), "Expected a function"),
        (lambda: scale(float("nan")), "finite"),
        (lambda: scale("much"), "expected a number"),
        (lambda: clamp(2, 1), "above high"),
        (lambda: noise(-1.0, 0), "at least 0"),
        (lambda: noise(1.0, -1), "seed is -1"),
        (lambda: ban(-1), "expected indexes"),
        (lambda: ban(1.5), "expected indexes"),
        (lambda: force([2, 2]), "names an expert twice"),
        (lambda: temperature(0), "more than 0"),
        (lambda: set_top_k(0), "from 1 up"),
        (lambda: compose(), "at least one"),
        (lambda: compose(ban(1), force([1])), "no site that fits"),
        (lambda: add_vector([np.nan]), "not a number"),
        (lambda: edit("resid_post", scale(1.0), positions=slice(0, 9, 2)), "steps"),
    ],
)
def test_what_cannot_be_done_is_refused_when_it_is_asked_for(make, message):
    with pytest.raises((InterventionError, SiteError), match=message):
        make()


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (edit("router.logits", ban(8)), "no expert 8; this model has experts 0 to 7"),
        (edit("router.experts", force([1, 9])), "no expert 9"),
        (edit("resid_post", scale(1.0), layers=3), "layers 0 to 2"),
        (edit("resid_post", scale(1.0), layers=[0, -1]), "layers 0 to 2"),
        (edit("resid_post", scale(1.0), positions=-10), "position -10 of a prompt of 9"),
        (edit("resid_post", add_vector(np.ones(5))), r"resid_post: add_vector cannot be applied"),
        (edit("resid_post", lambda x: x[..., :2]), r"returned \[16, 2\]"),
    ],
    ids=lambda value: "",
)
def test_edits_that_do_not_fit_the_model_are_refused_before_it_runs(tiny3, edits, message):
    with pytest.raises((InterventionError, SiteError, AttributeError), match=message):
        routed(tiny3, edits)


def test_interventions_compose_under_jit_vmap_and_grad():
    x = jnp.arange(24.0).reshape(1, 3, 8)

    @jax.jit
    def changed(x, strength, vector, expert):
        both = compose(scale(strength), add_vector(vector, strength))
        return compose(both, clamp(-strength, 10.0))(x), ban(expert)(x), temperature(strength)(x)

    one, banned, cooled = changed(x, 2.0, jnp.ones(8), 3)
    np.testing.assert_allclose(one, np.clip(2 * np.asarray(x) + 2, -2, 10))
    assert np.isneginf(banned[..., 3]).all() and np.isfinite(banned[..., :3]).all()
    np.testing.assert_allclose(cooled, x / 2)
    many = jax.vmap(lambda s: add_vector(jnp.ones(8), s)(x))(jnp.arange(3.0))
    np.testing.assert_allclose(many, np.asarray(x) + np.arange(3.0)[:, None, None, None])
    slope = jax.grad(lambda s: scale(s)(x).sum())(1.0)
    assert slope == x.sum()
