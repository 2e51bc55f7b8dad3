"""Each kind against a plain numpy account of it, and kinds that are special cases of others."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.kinds.parameters import decoder_norms, initial
from grok.errors import ConfigError

D, F, B, L = 6, 8, 20, 3
RELU = Activation("relu")


def design(kind: str, n: int = L, **changes: object) -> Design:
    own = kind in ("sae", "crosscoder")
    reads = ("resid_mid",) if own else ("router.input",)
    writes = reads if own else ("moe.normed",)
    experts = 4 if kind == "expert_transcoder" else 0
    made = Design(kind, tuple(range(n)), reads, writes, F, D, n_experts=experts)
    return replace(made, **changes)


def randomised(shape: Design, activation: Activation, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    filled = {}
    for name, value in initial(shape, activation, seed).items():
        many = isinstance(value, list)
        arrays = [rng.standard_normal(one.shape) for one in (value if many else [value])]
        filled[name] = arrays if many else arrays[0]
    if "threshold" in filled:
        filled["threshold"] = np.abs(filled["threshold"])
    return as_float32(filled)


def values(shape: Design, seed: int = 1) -> tuple[np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((len(shape.sources), B, D)).astype(np.float32)
    chosen = rng.permuted(np.tile(np.arange(4), (L, B, 1)), axis=2)[..., :2]
    return x, chosen.astype(np.int32) if shape.n_experts else None


def by_hand(shape: Design, p: dict, x: np.ndarray, chosen) -> tuple[list, np.ndarray]:
    """Features and output, token by token and layer by layer, as the kind's definition says."""
    n = len(x)
    out = np.repeat(p["decoder_bias"][:, None], B, axis=1).astype(np.float64)
    if shape.kind == "crosscoder":
        pre = sum(x[s] @ p["encoder"][0][s] for s in range(n)) + p["encoder_bias"][0]
        f = [np.maximum(pre, 0)]
        for s in range(n):
            out[s] += f[0] @ p["decoder"][0][:, s]
        return f, out
    f = []
    for layer in range(n):
        own = np.maximum(x[layer] @ p["encoder"][layer][0] + p["encoder_bias"][layer], 0)
        if chosen is not None:
            for token in range(B):
                for i in range(F):
                    if i // (F // 4) not in chosen[layer, token]:
                        own[token, i] = 0
        f.append(own)
    for target in range(n):
        first = 0 if shape.kind == "clt" else target
        for source in range(first, target + 1):
            out[target] += f[source] @ p["decoder"][source][:, target - source]
        if shape.skip:
            out[target] += x[target] @ p["skip"][target]
    return f, out


KINDS = {
    "sae": design("sae"),
    "transcoder": design("transcoder"),
    "with a skip": design("transcoder", skip=True),
    "clt": design("clt"),
    "crosscoder": design("crosscoder"),
    "expert_transcoder": design("expert_transcoder"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_computes_what_its_definition_says(name):
    shape = KINDS[name]
    params = randomised(shape, RELU)
    x, chosen = values(shape)
    applied = apply(Dictionary(shape, RELU, params), x, chosen)
    features, out = by_hand(shape, params, x, chosen)
    np.testing.assert_allclose(np.stack(applied.features), np.stack(features), atol=1e-5)
    np.testing.assert_allclose(applied.written, out, atol=2e-5)
    assert sum(np.size(v) for value in params.values() for v in value) == shape.n_parameters


@pytest.mark.parametrize("pair", [("clt", "transcoder"), ("crosscoder", "sae")])
def test_one_layer_of_the_one_is_the_other(pair):
    one, other = (design(kind, n=1) for kind in pair)
    params = randomised(one, RELU)
    x, _ = values(one)
    a, b = (apply(Dictionary(shape, RELU, params), x) for shape in (one, other))
    np.testing.assert_array_equal(a.written, b.written)
    np.testing.assert_array_equal(a.features[0], b.features[0])


def test_a_feature_of_a_clt_reaches_its_own_layer_and_later_ones():
    shape = design("clt")
    params = randomised(shape, RELU)
    x, _ = values(shape)
    plain = apply(Dictionary(shape, RELU, params), x).written
    # The first may not have run yet, and holds its arrays without a copy: new ones.
    biases = [bias + 5.0 * (layer == 1) for layer, bias in enumerate(params["encoder_bias"])]
    lifted = params | {"encoder_bias": biases}
    changed = np.asarray(apply(Dictionary(shape, RELU, lifted), x).written - plain)
    assert not changed[0].any() and changed[1].any() and changed[2].any()


def test_an_sae_of_several_sites_has_a_group_for_each():
    shape = design("sae", reads=("resid_pre", "resid_mid"), writes=("resid_pre", "resid_mid"))
    assert len(shape.groups) == 2 * L
    assert [str(p) for p in shape.sources[:2]] == ["layers[0].resid_pre", "layers[0].resid_mid"]


def test_decoders_start_where_they_should():
    start = initial(design("clt"), RELU, 0)
    np.testing.assert_allclose(np.linalg.norm(start["decoder"][0][:, 0], axis=1), 0.1, rtol=1e-5)
    assert not np.asarray(start["decoder"][0][:, 1:]).any()
    own = initial(design("sae"), RELU, 0)
    np.testing.assert_allclose(own["decoder"][1][:, 0], 0.1 * own["encoder"][1][0].T, rtol=1e-5)
    np.testing.assert_allclose(decoder_norms(own)[0], jnp.full(F, 0.1), rtol=1e-5)


IMPOSSIBLE = {
    "kind": {"kind": "autoencoder"},
    "expected different ones, ascending": {"layers": (1, 0)},
    "no values of width d_model": {"reads": ("router.logits",)},
    "expected one each": {"reads": ("router.input", "resid_mid")},
    "features; expected 1 to": {"features": 0},
    "skip is for a transcoder": {"kind": "clt", "skip": True},
    "expected a multiple": {"kind": "expert_transcoder", "n_experts": 3},
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_what_is_no_dictionary_is_refused(said):
    with pytest.raises(ConfigError, match=said):
        replace(design("transcoder"), **IMPOSSIBLE[said])
