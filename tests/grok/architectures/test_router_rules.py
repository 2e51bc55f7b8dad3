"""Each way to choose experts, changed by interventions, against an independent one in numpy.

Token by token, in float64, from what the published models say of themselves. The classes differ in
what may be changed about a router without changing what it decides.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from grok.architectures.huggingface import tensors
from grok.architectures.huggingface.config import Router
from grok.architectures.huggingface.routing import choose
from grok.interventions import ban, force, include, set_top_k, temperature
from grok.interventions.hooks import CompiledHook, Edit

D, E, K, TOKENS = 16, 12, 2, 24
RULES = {
    "softmax over all (OLMoE)": Router("softmax"),
    "softmax within groups (DeepSeek-V2)": Router("softmax", groups=(3, 2), scale=16.0),
    "softmax over all, renormalised (Mixtral)": Router("softmax", renormalised=True),
    "softmax over the chosen, bias (gpt-oss)": Router("chosen", bias=True),
    "sigmoid, correction, groups (DeepSeek-V3)": Router(
        "sigmoid", renormalised=True, scale=2.5, groups=(3, 2), correction="c"
    ),
    "sigmoid, correction (MiniMax-M2)": Router("sigmoid", renormalised=True, correction="c"),
    "sigmoid on what is read (Llama-4)": Router("input"),
    "one after the other (Phi-3.5)": Router("sparsemixer", near=0.02),
}
FORCED = [4, 9]
# What is done to the router: the edit, and in numpy what becomes of logits, number and ids.
CHANGES = {
    "nothing": ({}, {}),
    "ban": ({"router.logits": [ban([0, 3, 7])]}, {"banned": [0, 3, 7]}),
    "force": ({"router.experts": [force(FORCED)]}, {"ids": lambda found: FORCED}),
    "include": (
        {"router.experts": [include(5)]},
        {"ids": lambda found: found if 5 in found else [found[0], 5]},
    ),
    "temperature": ({"router.logits": [temperature(3.0)]}, {"tau": 3.0}),
    "top-k": ({"router.experts": [set_top_k(3)]}, {"k": 3}),
    "ban and temperature": (
        {"router.logits": [temperature(0.5), ban([1, 2])], "router.experts": [set_top_k(1)]},
        {"tau": 0.5, "banned": [1, 2], "k": 1},
    ),
}


def softmax(z):
    powers = [np.exp(one - max(z)) for one in z]
    return [one / sum(powers) for one in powers]


def decided(rule, z, correction, banned=(), tau=1.0, k=K, ids=None):
    """Experts and gates of one token by its logits."""
    z = [-np.inf if e in banned else one / tau for e, one in enumerate(z)]
    sigmoid = [1 / (1 + np.exp(-one)) for one in z]
    scores = sigmoid if rule.rule in ("sigmoid", "input") else softmax(z)
    ranks = list(scores) if rule.rule in ("softmax", "sigmoid") else list(z)
    if rule.correction:
        ranks = [one + c for one, c in zip(ranks, correction, strict=True)]
    ranks = [-np.inf if e in banned else one for e, one in enumerate(ranks)]
    if rule.groups is not None:
        n, stay = rule.groups
        parts = [list(range(g * E // n, (g + 1) * E // n)) for g in range(n)]
        best = 2 if rule.rule == "sigmoid" else 1
        worth = [sum(sorted((ranks[e] for e in part), reverse=True)[:best]) for part in parts]
        kept = {e for g in np.argsort(worth)[::-1][:stay] for e in parts[g]}
        ranks = [one if e in kept else -np.inf for e, one in enumerate(ranks)]
    chosen = [int(e) for e in np.argsort(ranks)[::-1][:k]]
    if ids is not None:
        chosen = sorted(ids(chosen), key=lambda e: -ranks[e])
    if rule.rule == "chosen":
        return chosen, softmax([z[e] for e in chosen])
    if rule.rule == "sparsemixer":
        return chosen, masked(z, chosen, rule.near)
    gates = [scores[e] for e in chosen]
    if rule.renormalised:
        gates = [gate / sum(gates) for gate in gates]
    return chosen, [gate * rule.scale for gate in gates]


def masked(z, chosen, near):
    gates, left = [], set(range(E))
    for expert in chosen:
        top = z[expert]
        there = [e for e in sorted(left) if np.isfinite(z[e])]
        there = [e for e in there if not (top - z[e]) / max(abs(z[e]), top) > near]
        gates.append(softmax([z[e] for e in there])[there.index(expert)])
        left.remove(expert)
    return gates


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", RULES)
def test_a_changed_router_decides_as_its_rule_says(name, change):
    rule, (edits, numpy_change) = RULES[name], CHANGES[change]
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, TOKENS, D)).astype(np.float32)
    weight = rng.standard_normal((D, E)).astype(np.float32)
    bias, correction = (rng.uniform(0, 0.6, E).astype(np.float32) for _ in range(2))
    params = {tensors.ROUTER: weight, tensors.ROUTER_BIAS: bias, tensors.CORRECTION: correction}
    by_site = {site: tuple(map(Edit, some)) for site, some in edits.items()}
    hook = CompiledHook(by_site, (), jnp.int32(0), E)
    found = choose(rule, params, jnp.asarray(x), K, hook)
    logits = x[0].astype(np.float64) @ weight + (bias if rule.bias else 0)
    wanted = [decided(rule, list(z), correction, **numpy_change) for z in logits]
    assert found.experts[0].tolist() == [experts for experts, _ in wanted]
    np.testing.assert_allclose(found.gates[0], [gates for _, gates in wanted], rtol=2e-5)


def test_the_temperature_moves_a_choice_only_where_scores_are_corrected():
    rng = np.random.default_rng(3)
    logits, correction = rng.standard_normal((TOKENS, E)), rng.uniform(0, 0.6, E)
    for rule in RULES.values():
        plain = [decided(rule, list(z), correction)[0] for z in logits]
        soft = [decided(rule, list(z), correction, tau=3.0)[0] for z in logits]
        assert (plain != soft) == bool(rule.correction)
