"""Accounts sum to what the router said, whatever the dictionary and the family."""

from __future__ import annotations

import numpy as np
import pytest

from grok.dictionaries.attribution import (
    feature_strengths,
    read_features,
    readout_of,
    route_account,
    row_space,
)
from grok.dictionaries.attribution.accounts import static_effects
from grok.errors import GrokError
from grok.interventions.sites import HookPoint
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = np.random.default_rng(2).integers(1, 300, 14).astype(np.int32)
FAMILIES = ("gpt_oss_mxfp4", "phimoe", "qwen2_moe", "granitemoe", "deepseek_v3_fp8")


@pytest.mark.parametrize("kind", ["sae", "crosscoder", "transcoder", "clt"])
def test_terms_sum_to_the_logits_of_every_router_and_token(tiny3, kind):
    read = read_features(tiny3, random_dictionary(tiny3, kind, skip=kind == "transcoder"), IDS)
    for layer in range(3):
        for token in range(IDS.size):
            account = route_account(read, layer, token)
            logits = read.logits[layer, token].astype(np.float64)
            np.testing.assert_allclose(
                account.contributions.sum(0), logits - logits.mean(), atol=1e-12
            )
            assert account.rounding <= 1e-4
            assert account.canonical
            np.testing.assert_allclose(account.contributions.sum(1), 0, atol=1e-9)
            kinds = set(account.kinds)
            if kind in ("sae", "crosscoder"):
                assert kinds == {"feature", "bias", "error", "rounding"}
            elif layer:
                assert {"embedding", "attention", "feature", "bias", "error"} < kinds
                assert ("skip" in kinds) == (kind == "transcoder")


@pytest.mark.parametrize("kind", ["sae", "clt"])
def test_features_of_several_texts_are_those_of_each_read_alone(tiny3, kind):
    dictionary = random_dictionary(tiny3, kind)
    prompts = [[5, 17, 3], [9, 22, 30, 11, 5]]
    for prompt, found in zip(prompts, feature_strengths(tiny3, dictionary, prompts), strict=True):
        alone = read_features(tiny3, dictionary, prompt).features
        assert len(found) == len(alone) and all(one.any() for one in found)
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_terms_are_exact_where_the_stream_is_written_in_float64(tiny3):
    read = read_features(tiny3, random_dictionary(tiny3, "sae"), IDS)
    account = route_account(read, 1, 5)
    h = read.values[HookPoint(1, "resid_mid")][5].astype(np.float64)
    columns = readout_of(tiny3, 1).columns
    expected = h @ columns / np.sqrt(np.square(h).mean() + 1e-5)
    found = account.contributions.sum(0) - account.of_kind("rounding")
    assert np.linalg.norm(found - expected) <= 1e-10 * np.linalg.norm(expected)
    error = read.errors[1][5]
    share = np.linalg.norm(error @ columns) / np.linalg.norm(h @ columns)
    assert account.error_share == pytest.approx(share, rel=1e-9)


def test_a_feature_counts_as_its_activation_times_the_static_table(tiny3):
    dictionary = random_dictionary(tiny3, "sae")
    read = read_features(tiny3, dictionary, IDS)
    account = route_account(read, 2, -1)
    table = static_effects(dictionary.params["decoder"][2][:, 0], read.readouts[2])
    active = np.flatnonzero(account.features >= 0)
    assert 3 < len(active) < 24
    for i in active:
        f, own = account.values[i], table[account.features[i]]
        assert f == read.features[2][-1, account.features[i]] > 0
        np.testing.assert_allclose(account.contributions[i], f * own / account.length, rtol=1e-9)


def test_first_order_changes_of_gates_are_those_of_the_softmax(tiny3):
    account = route_account(read_features(tiny3, random_dictionary(tiny3, "sae"), IDS), 0, 3)
    effects, size = account.probability_effects(), 1e-6
    for i in (0, 3, -1):
        moved = account.logits + size * account.contributions[i]
        p, q = (np.exp(z) / np.exp(z).sum() for z in (account.logits, moved))
        np.testing.assert_allclose((q - p) / size, effects[i], atol=1e-6)


def test_the_part_of_a_direction_that_a_router_sees_stands_beside_chance(tiny3):
    readout = readout_of(tiny3, 0)
    rng = np.random.default_rng(0)
    inside = (readout.columns @ rng.standard_normal((8, 5))).T
    drawn = rng.standard_normal((4000, tiny3.config.d_model))
    outside = drawn[:5] - drawn[:5] @ np.linalg.pinv(readout.columns).T @ readout.columns.T
    found = row_space(np.concatenate([inside, outside, drawn]), readout)
    np.testing.assert_allclose(found.shares[:5], 1)
    np.testing.assert_allclose(found.shares[5:10], 0, atol=1e-9)
    assert (found.rank, found.chance) == (7, 7 / 64)
    assert found.shares[10:].mean() == pytest.approx(found.chance, rel=0.03)
    assert (found.shares[10:] < found.chance_95).mean() == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_of_other_families_are_accounted_for(model, family):
    own = model(f"huggingface/{family}")
    layer = own.config.moe_layers[-1]
    read = read_features(own, random_dictionary(own, "sae", (layer,)), IDS % own.config.vocab_size)
    account = route_account(read, layer, -1)
    assert account.rounding <= 1e-4
    assert account.canonical == (own.score == "softmax")
    assert ("router bias" in account.kinds) == (family in ("gpt_oss_mxfp4", "phimoe"))


def test_what_cannot_be_accounted_for_is_refused_by_name(tiny3, model):
    read = read_features(tiny3, random_dictionary(tiny3, "sae"), IDS)
    with pytest.raises(GrokError, match=r"Layer 7 has no router here; layers with one: 0, 1, 2"):
        route_account(read, 7, 0)
    with pytest.raises(GrokError, match=r"Token 14 of a prompt of 14; expected -14 to 13"):
        route_account(read, 0, 14)
    with pytest.raises(GrokError, match="is for width 64"):
        read_features(model("shard8"), random_dictionary(tiny3, "sae"), IDS)
    dense = model("huggingface/qwen2_moe")
    none = next(i for i in range(dense.config.n_layers) if i not in dense.config.moe_layers)
    with pytest.raises(GrokError, match=f"Layer {none} of qwen2_moe has no router"):
        readout_of(dense, none)
