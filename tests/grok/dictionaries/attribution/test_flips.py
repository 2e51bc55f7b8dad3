"""The dose that is said to change a route changes it in the model, and a little less does not."""

from __future__ import annotations

import numpy as np
import pytest

from grok.dictionaries.attribution import (
    first_doses,
    read_features,
    readout_of,
    smallest_flips,
    verify_flips,
)
from grok.errors import GrokError
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = np.random.default_rng(2).integers(1, 300, 14).astype(np.int32)


def chosen(readout, h, k):
    return np.sort(np.argsort(-readout.logits(h))[:k])


@pytest.mark.parametrize("family", ["tiny3", "huggingface/gpt_oss_mxfp4", "huggingface/phimoe"])
def test_the_set_changes_at_the_first_dose_on_either_side_and_not_before(model, family):
    own = model(family)
    k, readout = own.config.top_k, readout_of(own, own.config.moe_layers[-1])
    rng = np.random.default_rng(1)
    for _ in range(3):
        h = rng.standard_normal(own.config.d_model) * 0.3
        experts = chosen(readout, h, k)
        directions = rng.standard_normal((20, len(h)))
        doses = first_doses(readout, h, directions, experts)
        assert np.isfinite(doses.up).sum() + np.isfinite(doses.down).sum() > 25
        for sign, some, out, into in (
            (1, doses.up, doses.up_out, doses.up_in),
            (-1, doses.down, doses.down_out, doses.down_in),
        ):
            assert (sign * some > 0).all()
            for d, dose, leaves, comes in zip(directions, some, out, into, strict=True):
                if not np.isfinite(dose):
                    assert leaves == comes == -1
                    continue
                for part in (0.3, 0.9, 1 - 1e-6):
                    assert (chosen(readout, h + part * dose * d, k) == experts).all()
                after = chosen(readout, h + (1 + 1e-6) * dose * d, k)
                assert set(experts) - set(after) == {leaves}
                assert set(after) - set(experts) == {comes}


def test_only_doses_that_leave_the_feature_positive_are_reachable(tiny3):
    read = read_features(tiny3, random_dictionary(tiny3, "sae"), IDS)
    n_lowered = 0
    for token in range(IDS.size):
        table = smallest_flips(read, 1, token, inactive=True)
        assert len(table.features) == 24 and (table.values == 0).any()
        lowered = table.dose < 0
        n_lowered += lowered.sum()
        assert (table.dose[lowered] >= -table.values[lowered]).all()
        assert (table.reachable == (table.doses.down >= -table.values)).all()
        finite = table.effort[np.isfinite(table.effort)]
        assert (np.diff(finite) >= 0).all()
        length = np.linalg.norm(table.rows[0])
        np.testing.assert_allclose(table.effort[0], abs(table.dose[0]) * length, rtol=1e-12)
    assert n_lowered > 0
    active = smallest_flips(read, 1, -1)
    assert 0 < len(active.features) < 24 and (active.values > 0).all()
    assert set(active.features) < set(table.features)
    assert ((table.below_random() >= 0) & (table.below_random() <= 1)).all()


@pytest.mark.parametrize("site", ["resid_mid", "router.input"])
def test_the_model_changes_its_route_where_it_was_predicted(tiny3, site):
    read = read_features(tiny3, random_dictionary(tiny3, "sae"), IDS)
    table = smallest_flips(read, 1, -3, inactive=True)
    told = []
    check = verify_flips(
        tiny3, read, table, rows=8, random=8, site=site, progress=lambda *n: told.append(n)
    )
    assert check.is_random.sum() == 8 and len(check.predicted) == 16
    assert check.agrees.all(), (check.predicted, check.measured, check.expected, check.found)
    assert told[-1] == (14, 14)
    # A prediction that is off by a hundredth is found out.
    wrong = type(check)(**{**vars(check), "predicted": check.predicted * 1.01})
    assert not wrong.agrees.any()


def test_features_of_earlier_layers_are_moved_in_the_stream_and_agree_there(tiny3):
    read = read_features(tiny3, random_dictionary(tiny3, "clt"), IDS)
    table = smallest_flips(read, 2, 6)
    assert set(table.sites) == {"layers[0].moe.normed", "layers[1].moe.normed"}
    assert verify_flips(tiny3, read, table, rows=4, random=0).agrees.all()
    with pytest.raises(GrokError, match="writes nothing that layer 0's router reads"):
        smallest_flips(read, 0, 6)
    with pytest.raises(GrokError, match=r"site is 'logits'; expected resid_mid or router.input"):
        verify_flips(tiny3, read, table, site="logits")


def test_flips_with_biases_agree_in_another_family(model):
    own = model("huggingface/gpt_oss_mxfp4")
    layer = own.config.moe_layers[-1]
    read = read_features(own, random_dictionary(own, "sae", (layer,)), IDS % own.config.vocab_size)
    table = smallest_flips(read, layer, -1, inactive=True)
    check = verify_flips(own, read, table, rows=6, random=2)
    assert len(check.agrees) >= 6 and check.agrees.all()


def test_families_that_do_not_choose_by_logits_are_refused_with_the_reason(model):
    own = model("huggingface/deepseek_v3_fp8")
    layer = own.config.moe_layers[-1]
    read = read_features(own, random_dictionary(own, "sae", (layer,)), IDS % own.config.vocab_size)
    with pytest.raises(GrokError, match="a correction is added .* flips do not"):
        smallest_flips(read, layer, 0)
