"""Folding the units of training into the parameters changes neither values nor active sets."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok.dictionaries.kinds.activations import activate
from grok.dictionaries.kinds.design import FUNCTIONS, Activation, Design
from grok.dictionaries.kinds.dictionary import finished
from grok.dictionaries.kinds.files import load_dictionary, save_dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.kinds.normalising import NORMALISATIONS, measured
from grok.dictionaries.kinds.parameters import decode, decoder_norms, encode, initial
from grok.dictionaries.training.losses import Batch
from grok.dictionaries.training.settings import settings_of
from grok.dictionaries.training.step import calibrated
from grok.dictionaries.training.update import constants_of, in_units
from grok.errors import GrokError

D, F, B = 8, 12, 40
KINDS = ("sae", "transcoder", "clt", "crosscoder")


def design_of(kind: str) -> Design:
    own = kind in ("sae", "crosscoder")
    reads, writes = ("resid_mid",), ("resid_mid",) if own else ("moe.normed",)
    return Design(kind, (0, 1), reads, writes, F, D, skip=kind == "transcoder")


@cache
def data(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Values with a large mean and dimensions of different sizes."""
    rng = np.random.default_rng(3)
    sizes, means = np.exp(rng.standard_normal((2, 2, 1, D)))
    x = (means * 5 + sizes * rng.standard_normal((2, B, D))).astype(np.float32)
    if kind in ("sae", "crosscoder"):
        return x, x
    return x, (2 - means + 0.1 * rng.standard_normal((2, B, D))).astype(np.float32)


@partial(jax.jit, static_argnames=("design", "activation"))
def in_training(design, activation, params, constants, x):
    """Features and output in the units of training, and back in the model's."""
    own = in_units(x, constants.reads)
    pre = encode(design, params, own)
    gates = decoder_norms(params) if activation.gate_by_norm else None
    found = activate(activation, pre, gates, params.get("threshold"))
    out = decode(design, params, found.features, own)
    return found.features, out / constants.writes[1][:, None] + constants.writes[0][:, None]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_folded_and_saved_it_has_the_same_values_and_active_features(
    kind, function, gated, tmp_path
):
    design = design_of(kind)
    pooled = kind == "clt" and function != "relu"
    activation = Activation(function, k=3, gate_by_norm=gated, pooled=pooled, threshold=0.4)
    rng = np.random.default_rng(5)
    params = jax.tree.map(
        lambda one: jnp.asarray(one + 0.3 * rng.standard_normal(one.shape), jnp.float32),
        initial(design, activation, 0),
    )
    x, y = data(kind)
    settings = settings_of(
        {
            "dictionary": {"kind": kind, "reads": ["resid_mid"], "features": F},
            "activation": {"function": "batch_topk", "k": 3, "pooled": pooled,
                           "gate_by_norm": gated},
        }
    )  # fmt: skip
    for normalisation in NORMALISATIONS:
        units = measured(x, normalisation), measured(y, normalisation)
        constants = constants_of(*units)
        features, written = in_training(design, activation, params, constants, x)
        levels = np.zeros(2)
        if function == "batch_topk":
            levels = calibrated(design, settings, params, constants, Batch(x, y))
        made = finished(design, activation, params, *units, levels, {"seed": 1})
        again = load_dictionary(save_dictionary(tmp_path / normalisation, made))
        assert again.design == design and again.activation == made.activation
        for one in (made, again):
            applied = apply(one, x)
            active = np.stack(features) > 0
            assert 0 < active.mean() < 0.9
            np.testing.assert_array_equal(np.stack(applied.features) > 0, active)
            np.testing.assert_allclose(applied.features, features, rtol=1e-3, atol=1e-4)
            scale = np.abs(np.asarray(written)).max()
            np.testing.assert_allclose(applied.written, written, atol=1e-5 * scale)


def test_units_are_what_they_say():
    x, _ = data("sae")
    wide = x.astype(np.float64)
    for name in NORMALISATIONS:
        units = measured(x, name)
        own = (wide - units.shift[:, None]) * units.scale[:, None]
        spread = np.square(own - own.mean(1, keepdims=True)).sum(-1).mean(-1)
        np.testing.assert_allclose(units.denominators, spread, rtol=1e-9)
        if name == "scalar":
            np.testing.assert_allclose(np.square(own).sum(-1).mean(-1), D)
        if name in ("centred", "per_dim"):
            np.testing.assert_allclose(own.mean(1), 0, atol=1e-9)
            np.testing.assert_allclose(units.denominators, D)
        if name == "per_dim":
            np.testing.assert_allclose(own.std(1), 1)


def test_activations_that_are_not_finite_are_refused():
    x = data("sae")[0].copy()
    x[0, 0, 0] = np.nan
    with pytest.raises(GrokError, match="not finite"):
        measured(x, "none")
