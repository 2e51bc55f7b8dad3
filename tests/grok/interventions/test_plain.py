"""Edits as plain data: sent as JSON, they do what they did."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok.errors import GrokError, InterventionError
from grok.interventions import edits as e
from grok.interventions.plain import KINDS, edits_of, plain_edits

PROMPT = [5, 17, 3, 42]
ROWS = np.where(np.eye(4, 8, dtype=bool), -np.inf, 0).astype(np.float32)
EACH = {
    "ban": e.edit("router.logits", e.ban([1, 2]), layers=[1]),
    "include": e.edit("router.experts", e.include(3), positions=slice(1, None)),
    "force": e.edit("router.experts", e.force([0, 1]), positions=[-1, 0]),
    "temperature": e.edit("router.logits", e.temperature(2.5)),
    "set_top_k": e.edit("router.experts", e.set_top_k(1), layers=2),
    "scale": e.edit("moe.output", e.scale(0.25)),
    "zero_out": e.edit("attn.output", e.zero_out(), layers=0),
    "add_vector": e.edit("router.logits", e.add_vector(ROWS), layers=1),
    "replace_with": e.edit("resid_mid", e.replace_with(jnp.full(64, 0.5, jnp.float32)), layers=0),
    "clamp": e.edit("resid_post", e.clamp(-1, 0.5)),
    "noise": e.edit("embed", e.noise(0.1, 7)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_back_the_same(kind: str):
    sent = json.loads(json.dumps(plain_edits(EACH[kind]), allow_nan=False))
    got, wanted = edits_of(sent), EACH[kind]
    assert got.texts() == wanted.texts()
    (mine,), (theirs,) = got.requests, wanted.requests
    assert mine.function.function == theirs.function.function
    for a, b in zip(mine.function.arguments, theirs.function.arguments, strict=True):
        assert np.array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
    assert (mine.layers, mine.positions) == (theirs.layers, theirs.positions)


def test_what_comes_back_gives_the_same_bits(tiny3):
    edits = EACH["ban"] + EACH["include"] + EACH["noise"] + EACH["temperature"]
    edits += e.edit("moe.output", e.compose(e.scale(0.5), e.clamp(-1, 1)))
    sent = edits_of(json.loads(json.dumps(plain_edits(edits))))
    wanted, got = (tiny3.trace_routing(PROMPT, edits=one) for one in (edits, sent))
    for name, array in wanted.arrays().items():
        assert np.array_equal(got.arrays()[name], array), name


def test_code_cannot_be_sent(tiny3):
    def scale(value: jax.Array, factor: object = None) -> jax.Array:  # of a known kind's name
        return value

    for own in (scale, lambda value: value, jax.tree_util.Partial(scale, np.float32(1))):
        with pytest.raises(InterventionError, match="cannot be sent|don't fit"):
            plain_edits(e.edit("moe.output", own))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"site": "router.logits", "kind": "exec", "arguments": ["1"]}, "kind is 'exec'"),
        ({"site": "router.logits", "kind": "ban", "arguments": [["x"]]}, "Expected numbers"),
        ({"site": "router.logits", "kind": "ban", "arguments": [[0], [1]]}, "at most 1"),
        ({"site": "router.logits", "kind": "ban"}, "don't fit"),
        ({"site": "moe.output", "kind": "ban", "arguments": [0]}, "does not fit"),
        ({"site": "nowhere", "kind": "zero_out"}, "nowhere"),
        ({"site": "embed", "kind": "noise", "arguments": [0.1, [1, [2]]]}, "fit"),
        ({"site": "embed", "kind": "scale", "arguments": [None]}, "number"),
    ],
)
def test_data_that_stands_for_no_edit_is_refused(data, said):
    with pytest.raises(GrokError, match=said):
        edits_of([data])
