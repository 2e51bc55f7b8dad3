"""Patching gives what single patches give."""

from __future__ import annotations

import numpy as np
import pytest

from grok.experiments.metrics import kl_divergence, logit_difference, probability
from grok.experiments.patching import patch_sweep
from grok.experiments.what_if import log_softmax
from grok.interventions.edits import edit, replace_with

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]
OTHER = [5, 17, 3, 44, 99, 256, 12, 7, 31]


def logits_of(model, tokens, edits=None):
    with model.trace(tokens) as t:
        if edits is not None:
            t.add(edits)
        saved = t.logits.save()
    return saved.value


def test_patching_clean_into_clean_is_zero(tiny3):
    sites = ("resid_pre", "attn.output", "router.logits", "moe.output", "resid_post")
    sweep = patch_sweep(tiny3, TOKENS, TOKENS, metric=probability(9), sites=sites)
    assert sweep.values.shape == (5, 3, 9)
    np.testing.assert_allclose(sweep.values, sweep.clean, atol=1e-6)
    assert sweep.clean == sweep.corrupt and np.isnan(sweep.recovered).all()


@pytest.mark.parametrize(
    "metric", [logit_difference(3, 77), probability(3), kl_divergence()], ids=lambda m: m.name
)
def test_the_patch_sweep_gives_what_single_patches_give(tiny3, metric):
    sites = ("resid_mid", "moe.output")
    sweep = patch_sweep(tiny3, TOKENS, OTHER, metric=metric, sites=sites, batch=7, layers=[0, 2])
    with tiny3.trace(TOKENS) as t:
        kept = {
            (site, layer): getattr_of(t.layers[layer], site).save()
            for site in sites
            for layer in (0, 2)
        }
    reference = log_softmax(logits_of(tiny3, TOKENS))[-1]
    for s, site in enumerate(sites):
        for n, layer in enumerate((0, 2)):
            for position in (0, 3, 8):
                row = kept[site, layer].value[position]
                edits = edit(site, replace_with(row), layers=layer, positions=position)
                after = log_softmax(logits_of(tiny3, OTHER, edits))[-1]
                expected = float(metric.function(after, reference, *metric.tokens))
                assert sweep.values[s, n, position] == pytest.approx(expected, abs=1e-5)


def getattr_of(group, name):
    for part in name.split("."):
        group = getattr(group, part)
    return group


def test_the_whole_difference_is_recovered_at_the_last_layer_and_none_after_it_has_moved_on(tiny3):
    """After the last layer only the last token's stream matters; at the start only the changed."""
    sweep = patch_sweep(
        tiny3, TOKENS, OTHER, metric=logit_difference(3, 77), sites=("resid_pre", "resid_post")
    )
    assert sweep.recovered[1, 2, 8] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(sweep.recovered[1, 2, :8], 0, atol=1e-3)
    assert sweep.recovered[0, 0, 3] == pytest.approx(1, abs=1e-3)
    rest = np.arange(9) != 3
    np.testing.assert_allclose(sweep.recovered[0, 0, rest], 0, atol=1e-3)


def test_the_control_puts_the_value_of_another_position(tiny3):
    sweep = patch_sweep(tiny3, TOKENS, OTHER, metric=probability(3), seed=1)
    again = patch_sweep(tiny3, TOKENS, OTHER, metric=probability(3), seed=1)
    other = patch_sweep(tiny3, TOKENS, OTHER, metric=probability(3), seed=2)
    np.testing.assert_array_equal(sweep.control, again.control)
    assert not np.allclose(sweep.control, other.control)
    assert not np.allclose(sweep.control, sweep.recovered)
