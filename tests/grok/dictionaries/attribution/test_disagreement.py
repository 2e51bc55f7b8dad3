"""Dictionaries' claims about layers are compared with the model without those layers' experts."""

from __future__ import annotations

import numpy as np
import pytest

from grok.dictionaries.attribution import Target, layer_claims, read_features
from grok.dictionaries.attribution.disagreement import LayerClaims
from grok.errors import GrokError
from tests.grok.dictionaries.attribution.planted import (
    PROMPT,
    planted_model,
    planted_transcoder,
)
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = np.random.default_rng(2).integers(1, 300, 14).astype(np.int32)


def test_the_layer_that_was_planted_is_claimed_and_acts():
    model = planted_model()
    read = read_features(model, planted_transcoder(), PROMPT)
    found = layer_claims(model, {"transcoder": read}, Target("router", -1, 3, 1, layer=1))
    assert found.layers.tolist() == [0] and found.value > 1
    assert found.claims[0, 0] == pytest.approx(-found.direct[0, 0], rel=1e-3)
    assert (found.measured[:, 0] < -0.9 * found.value).all()
    assert found.missed()[0] < 0.25 and not found.disputed.any()


def test_claims_of_all_paths_are_those_of_the_linear_model(tiny3):
    """With one layer below there is one path, so features, errors and biases are all there is."""
    reads = {kind: read_features(tiny3, random_dictionary(tiny3, kind), IDS)
             for kind in ("transcoder", "clt")}  # fmt: skip
    told = []
    one = layer_claims(
        tiny3, reads, Target("router", -1, 2, 5, layer=1), progress=lambda *n: told.append(n)
    )
    assert told[-1] == (4, 4) and one.names == ("transcoder", "clt")
    np.testing.assert_allclose(one.claims[0], one.claims[1], rtol=1e-3)  # both take all of it out
    two = layer_claims(tiny3, reads, Target("router", -1, 2, 5, layer=2))
    assert two.claims.shape == (2, 2) and np.isfinite(two.claims).all()
    assert not np.allclose(two.claims[0], two.claims[1])
    assert not np.allclose(two.measured[0], two.measured[1])
    with pytest.raises(GrokError, match="sae: it does not write moe.normed of layer 0"):
        sae = read_features(tiny3, random_dictionary(tiny3, "sae"), IDS)
        layer_claims(tiny3, {"sae": sae}, Target("router", -1, 2, layer=1))
    with pytest.raises(GrokError, match="short: another prompt"):
        short = read_features(tiny3, reads["clt"].dictionary, IDS[:5])
        layer_claims(tiny3, reads | {"short": short}, Target("router", 0, 2, layer=1))


def test_the_nearer_claim_is_told_and_small_differences_are_no_dispute():
    found = LayerClaims(
        ("a", "b"),
        np.array([0, 1, 2]),
        np.zeros((2, 3)),
        np.array([[1.0, 0.0, -2.0], [1.2, 1.0, -2.1]]),
        np.array([[0.0, 0, 0], [1.3, 0.1, -2.2]]),
        3.0,
    )
    assert found.disputed.tolist() == [False, True, False]
    assert found.nearest().tolist() == [1, 0, 1]
    assert found.missed()[0] == pytest.approx(np.sqrt(0.09 + 0.01 + 0.04) / np.sqrt(6.54))
