"""Each control against a direct computation, and levels that are what was asked."""

from __future__ import annotations

import numpy as np
import pytest

from grok.architectures.stored_values import float_values
from grok.dictionaries.evaluation.controls import (
    Controls,
    Fitting,
    Means,
    Shuffled,
    at_level,
    kept_keys,
    pair_keys,
)
from grok.dictionaries.evaluation.levels import at_l0
from grok.dictionaries.evaluation.neurons import Neurons, has_neurons
from grok.dictionaries.evaluation.tokens import NONE_BEFORE, ids, parts, spread
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32, param_shapes
from grok.dictionaries.kinds.files import nested
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.training.losses import Batch
from grok.dictionaries.training.windows import Places, cut
from grok.interventions.sites import HookPoint

RNG = np.random.default_rng(0)
N, D, VOCABULARY = 4000, 6, 5


def controls_of(y, tokens, previous, sizes=(999, 777)) -> Controls:
    pairs = pair_keys(previous, tokens, VOCABULARY)
    tables = [Means(np.unique(keys), (1, D)) for keys in (tokens, pairs)]
    fitting = Fitting(np.full((1, D), 99.0), VOCABULARY, *tables)
    for i in range(0, N, sizes[0]):
        own = slice(i, i + sizes[0])
        fitting.add(y[:, own], tokens[own], previous[own])
    controls = Controls(fitting.fitted())
    for i in range(0, N, sizes[1]):
        own = slice(i, i + sizes[1])
        controls.add(y[:, own], tokens[own], previous[own])
    return controls


def test_principal_axes_are_the_best_and_the_first_of_each_token():
    turned = np.linalg.qr(RNG.standard_normal((D, D)))[0]
    sizes = np.array([8.0, 4.0, 2.0, 1.0, 0.5, 0.2])
    coefficients = RNG.standard_normal((1, N, D)) * sizes
    tokens = RNG.integers(0, VOCABULARY, N)
    y = 100 + coefficients @ turned.T
    controls = controls_of(y, tokens, tokens)
    total = np.square(y - y.mean(1)).sum()
    share = controls.first[0] / total
    np.testing.assert_allclose(share[[0, 1, 2, 6]], [1, 21.29 / 85.29, 5.29 / 85.29, 0], atol=0.02)
    assert (controls.best[0] <= controls.first[0] + 1e-6).all()
    own = np.square(coefficients[0] - coefficients[0].mean(0))
    best = total - np.sort(own, axis=1)[:, -2:].sum()
    assert controls.best[0, 2] == pytest.approx(best, rel=0.01)
    halfway = at_level(controls.best, np.array([1.5]))
    assert halfway[0] == pytest.approx(controls.best[0, 1:3].mean())
    # Reconstructions have the errors that were summed.
    for k in (0, 2, D):
        level = np.array([k])
        for name, errors in (("best_axes", controls.best), ("first_axes", controls.first)):
            found = getattr(controls.fitted, name)(y, level)
            error = np.square(y - found).sum()
            assert error == pytest.approx(errors[0, k], rel=1e-9, abs=1e-6)
    # Tokens say nothing of these values.
    assert controls.token_mean / total == pytest.approx(1, abs=0.02)


def test_means_of_tokens_and_pairs_are_those_of_the_text():
    tokens = RNG.integers(0, VOCABULARY, N)
    previous = np.concatenate([[NONE_BEFORE], tokens[:-1]])
    of_token = RNG.standard_normal((VOCABULARY, D))[tokens] * 10
    of_pair = RNG.standard_normal((VOCABULARY + 1, VOCABULARY, D))[previous, tokens]
    y = (of_token + of_pair)[None]
    controls = controls_of(y, tokens, previous)
    mean = y[0].mean(0)
    for token in range(VOCABULARY):
        own = y[0, tokens == token]
        expected = (own.sum(0) + mean) / (len(own) + 1)
        found = controls.fitted.token_mean(np.array([token]))[0, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        pair = y[0, (tokens == token) & (previous == 1)]
        close = (pair.sum(0) + expected) / (len(pair) + 1)
        found = controls.fitted.bigram_mean(np.array([1]), np.array([token]))[0, 0]
        np.testing.assert_allclose(found, close, rtol=1e-4, atol=1e-4)
    spread_of = np.square(y - y.mean(1)).sum()
    assert controls.bigram_mean / spread_of < 1e-3 < controls.token_mean / spread_of
    # A pair that was not seen has its token's mean.
    fresh = controls_of(y, tokens, np.zeros_like(tokens)).fitted
    unseen = fresh.bigram_mean(np.array([3]), np.array([2]))
    np.testing.assert_array_equal(unseen, fresh.token_mean(np.array([2])))


def test_tables_keep_the_most_frequent_keys_of_both_texts(monkeypatch):
    fit = np.repeat([7, 3, 5, 9], [4, 3, 2, 1])
    np.testing.assert_array_equal(kept_keys(fit, np.array([9, 3, 7, 1]), 4), [3, 7, 9])
    monkeypatch.setattr("grok.dictionaries.evaluation.controls.TABLE_BYTES", 8)
    np.testing.assert_array_equal(kept_keys(fit, np.array([9, 3, 7, 1]), 4), [3, 7])


def test_the_shuffled_error_is_that_of_all_pairs_of_a_domain():
    y, found = RNG.standard_normal((2, 2, 30, D))
    domain = RNG.integers(0, 3, 30)
    own = Shuffled.of(np.full((2, D), 0.3), 3)
    for i in range(0, 30, 7):
        own.add(y[:, i : i + 7], found[:, i : i + 7], domain[i : i + 7])
    expected = np.zeros(2)
    for one in range(3):
        here = domain == one
        pairs = y[:, here][:, :, None] - found[:, here][:, None]
        expected += np.square(pairs).sum((1, 2, 3)) / here.sum()
    np.testing.assert_allclose(own.error(), expected, rtol=1e-9)


# --- levels ------------------------------------------------------------------------------


def some_dictionary(function: str, pooled: bool = False) -> Dictionary:
    design = Design("transcoder", (0, 1), ("router.input",), ("moe.normed",), 64, D)
    rule = Activation(function, 4, pooled)
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.standard_normal(shape) for name, shape in param_shapes(design, rule).items()
    }
    if "threshold" in arrays:
        arrays["threshold"] = np.abs(arrays["threshold"])
    return Dictionary(design, rule, as_float32(nested(arrays)), {})


SAMPLE = Batch(RNG.standard_normal((2, 500, D)).astype(np.float32), None)


@pytest.mark.parametrize("function", ["jumprelu", "relu", "topk"])
def test_a_level_has_the_number_of_active_features_that_was_asked(function):
    asked = [np.array([3.0, 9.0]), 5.0]
    found = at_l0(some_dictionary(function), SAMPLE, asked if function != "topk" else [6.0, 5.0])
    for level, wanted in zip(found, ([3, 9], [5, 5]), strict=True):
        features = apply(level.dictionary, SAMPLE.x).features
        active = [np.count_nonzero(one) / 500 for one in features]
        np.testing.assert_allclose(level.l0, active)
        if function != "topk":
            np.testing.assert_allclose(active, wanted, atol=0.005)


def test_groups_that_share_their_budgets_reach_a_level_together():
    own = some_dictionary("jumprelu", pooled=True)
    (found,) = at_l0(own, SAMPLE, [5.0])
    assert found.l0.mean() == pytest.approx(5, abs=0.005) and abs(np.diff(found.l0)) > 0.1
    factors = found.dictionary.params["threshold"] / own.params["threshold"]
    np.testing.assert_allclose(factors, factors[0, 0], rtol=1e-5)


# --- neurons -------------------------------------------------------------------------------


def test_neurons_are_the_largest_contributions_of_the_chosen_experts(tiny3):
    d = tiny3.config.d_model
    design = Design("transcoder", (0, 2), ("router.input",), ("moe.normed",), 4, d)
    assert has_neurons(tiny3, design)
    neurons = Neurons(tiny3, design)
    windows = cut({"a": np.arange(1, 33, dtype=np.int32)}, 16)
    places = spread(windows, 32, 0)
    (part,) = parts(tiny3, design, windows, places, 32, neurons.points)
    k = [np.array([3, 3]), np.array([10**6, 10**6]), np.array([0, 0])]
    some, whole, none = neurons.written(part, k)
    y = np.asarray(part.batch.y)
    np.testing.assert_allclose(whole, y, atol=1e-4 * np.abs(y).max())
    assert not none.any()
    # One token by hand.
    products = tiny3.engine.architecture.expert_products
    own = products.of(tiny3.engine.layers.params[2])
    first, second, down = (np.asarray(float_values(w, np.float32), float) for w in own[:3])
    value = {site: part.values[HookPoint(2, site)][5] for site in
             ("router.input", "router.experts", "router.gates", "moe.output")}  # fmt: skip
    units = []
    for expert, gate in zip(value["router.experts"], value["router.gates"], strict=True):
        a, b = value["router.input"] @ first[expert], value["router.input"] @ second[expert]
        gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
        units.append((gelu * b * gate)[:, None] * down[expert])
    units = np.concatenate(units) * (y[1, 5] / value["moe.output"])
    largest = np.argsort(-np.linalg.norm(units, axis=1))[:3]
    np.testing.assert_allclose(some[1, 5], units[largest].sum(0), rtol=1e-3, atol=1e-4)
    # Their bias is what is left out on average.
    neurons.fit(part, k)
    np.testing.assert_allclose(neurons.written(part, k).mean(2), [y.mean(1)] * 3, atol=1e-5)
    assert not has_neurons(tiny3, Design("sae", (0,), ("resid_mid",), ("resid_mid",), 4, d))


def test_tokens_before_are_those_of_the_window():
    windows = cut({"a": np.array([5, 6, 7], np.int32), "b": np.array([8, 9], np.int32)}, 2)
    tokens, before = ids(windows, Places(np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1])))
    np.testing.assert_array_equal(tokens, [5, 6, 7, 9])
    np.testing.assert_array_equal(before, [NONE_BEFORE, 5, NONE_BEFORE, 8])
