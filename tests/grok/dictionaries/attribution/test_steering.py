"""Steering changes the stream by exactly what the feature writes, and nothing of the error."""

from __future__ import annotations

import numpy as np
import pytest

from grok.dictionaries.attribution import Change, dose_sweep, read_features, steer
from grok.dictionaries.attribution.steering import turned
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.errors import GrokError, InterventionError
from grok.interventions.sites import HookPoint
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = np.random.default_rng(2).integers(1, 300, 14).astype(np.int32)
EXPECTED = {
    ("set", 0.7): lambda f: np.full_like(f, 0.7),
    ("add", -0.3): lambda f: np.maximum(f - 0.3, 0),
    ("scale", 3.0): lambda f: 3 * f,
    ("clamp", 0.4): lambda f: np.minimum(f, 0.4),
    ("ablate", 0.0): lambda f: 0 * f,
}


def often(read, group: int) -> int:
    """The feature that is active at most of the tokens, but not at all."""
    counts = (read.features[group] > 0).sum(0)
    return int(np.argmax(np.where(counts < IDS.size, counts, -1)))


@pytest.mark.parametrize("kind", ["sae", "clt"])
def test_every_action_adds_the_change_times_what_the_feature_writes(tiny3, kind):
    dictionary = random_dictionary(tiny3, kind)
    read = read_features(tiny3, dictionary, IDS)
    feature, target = often(read, 0), dictionary.design.targets[0]
    f = read.features[0][:, feature]
    row = dictionary.params["decoder"][0][feature, 0]
    for (action, value), expected in EXPECTED.items():
        edits = steer(dictionary, Change(feature, action, value), positions=slice(2, None))
        run = tiny3.run_one(IDS, edits=edits, wanted=[target])
        moved = run.kept[target][0, : IDS.size] - read.values[target]
        np.testing.assert_allclose(moved[:2], 0, atol=1e-6)
        change = (expected(f) - f)[2:, None] * row
        np.testing.assert_allclose(moved[2:], change, atol=2e-5)


def test_features_of_a_group_are_changed_together_and_reach_every_site_they_write(tiny3):
    dictionary = random_dictionary(tiny3, "clt")
    read = read_features(tiny3, dictionary, IDS)
    a, b = np.argsort(-read.features[0].sum(0))[:2]
    both = [Change(int(a)), Change(int(b), "set", 2.0)]
    edits = steer(dictionary, both)
    assert [request.layers for request in edits.requests] == [(0,), (1,), (2,)]
    assert edits.texts()[0].startswith(f"layers[0].moe.normed: features([{a}, {b}], array[64, 2]")
    point, after = HookPoint(0, "moe.normed"), HookPoint(1, "moe.normed")
    run = tiny3.run_one(IDS, edits=edits, wanted=[point, after])
    w = dictionary.params["decoder"][0]
    change = np.stack([-read.features[0][:, a], 2 - read.features[0][:, b]], 1)
    moved = run.kept[point][0, : IDS.size] - read.values[point]
    np.testing.assert_allclose(moved, change @ w[[a, b], 0], atol=2e-5)
    other = np.stack([w[[a, b], 0], np.ones((2, 64)), w[[a, b], 2]], 1)  # at one site of three
    else_run = tiny3.run_one(IDS, edits=steer(dictionary, both, directions=other), wanted=[after])
    later = (run.kept[after] - else_run.kept[after])[0, : IDS.size]
    np.testing.assert_allclose(later, change @ (w[[a, b], 1] - 1), atol=2e-4)


def test_rows_are_turned_together_so_that_lengths_and_angles_stay():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 8)) * [[1], [5], [0.1]]
    some = np.stack([turned(rows, rng) for _ in range(400)])
    np.testing.assert_allclose(some @ some.transpose(0, 2, 1), rows @ rows.T + 0 * some[:, :, :3])
    assert np.abs(some.mean(0) / np.linalg.norm(rows, axis=1, keepdims=True)).max() < 0.1
    drawn = np.random.default_rng(1).standard_normal(8)
    one = turned(rows[1:2], np.random.default_rng(1))[0]
    np.testing.assert_allclose(one, drawn * np.linalg.norm(rows[1]) / np.linalg.norm(drawn))


def test_topk_and_experts_decide_whether_a_feature_is_active(tiny3):
    own = random_dictionary(tiny3, "transcoder")
    design = Design("expert_transcoder", (0, 1, 2), ("router.input",), ("moe.normed",), 24, 64,
                    n_experts=8)  # fmt: skip
    params = {**own.params, "gate": np.ones((3, 24), np.float32)}
    dictionary = Dictionary(design, Activation("topk", 3), params)
    read = read_features(tiny3, dictionary, IDS)
    feature, target = often(read, 1), design.targets[1]
    f = read.features[1][:, feature]
    assert 0 < (f != 0).sum() < IDS.size
    run = tiny3.run_one(IDS, edits=steer(dictionary, Change(feature, group=1)), wanted=[target])
    moved = run.kept[target][0, : IDS.size] - read.values[target]
    np.testing.assert_allclose(moved, -f[:, None] * params["decoder"][1][feature], atol=2e-5)


def test_generation_is_steered_from_a_token_on(tiny3):
    dictionary = random_dictionary(tiny3, "sae")
    options = {"max_new_tokens": 3, "candidates": 1}
    plain = tiny3.generate(IDS, **options)
    strong = steer(dictionary, Change(3, "set", 80.0, group=2), positions=slice(IDS.size, None))
    steered = tiny3.generate(IDS, **options, edits=strong)
    a, b = (one.trace.router_logits for one in (plain, steered))
    assert plain.new_tokens[0] == steered.new_tokens[0]
    np.testing.assert_allclose(a[:, : IDS.size], b[:, : IDS.size], atol=1e-5)
    np.testing.assert_allclose(a[:2, IDS.size], b[:2, IDS.size], atol=1e-5)
    assert np.abs(a[2, IDS.size] - b[2, IDS.size]).max() > 0.5


def test_a_sweep_counts_flips_beside_controls_of_the_same_length(tiny3):
    dictionary = random_dictionary(tiny3, "sae")
    rates = (read_features(tiny3, dictionary, IDS).features[1] > 0).mean(0)
    told = []
    found = dose_sweep(
        tiny3, dictionary, IDS, Change(2, group=1), [0, 1, 50], rates=rates,
        progress=lambda *n: told.append(n),
    )  # fmt: skip
    assert found.subjects == ("feature", "random direction", "feature of like rate")
    assert found.features[1] == -1 and found.features[2] != 2
    assert abs(rates[found.features[2]] - rates[2]) <= np.sort(abs(rates - rates[2]))[10]
    assert found.flips.shape == (3, 3, 3) and told[-1] == (9, 9)
    assert not found.flips[:, 0].any() and (found.kl[:, 0] < 1e-9).all()
    assert not found.flips[:, :, 0].any()  # layers before are as they were
    assert (found.flips[:, 2, 1] > 5).all() and (np.diff(found.kl, axis=1) > 0).all()
    assert (found.gates[:, 2, 1] > found.gates[:, 1, 1]).all()


def test_a_sweep_has_as_many_random_directions_as_asked(tiny3):
    dictionary, change = random_dictionary(tiny3, "sae"), Change(2, group=1)
    one = dose_sweep(tiny3, dictionary, IDS, change, [1, 50])
    found = dose_sweep(tiny3, dictionary, IDS, change, [1, 50], directions=4)
    assert found.subjects == ("feature", *["random direction"] * 4)
    assert found.features.tolist() == [2, -1, -1, -1, -1] and found.kl.shape == (5, 2)
    np.testing.assert_allclose(found.kl[:2], one.kl, rtol=1e-3)
    assert len(set(found.kl[1:, 1].tolist())) == 4
    with pytest.raises(GrokError, match="directions is 0"):
        dose_sweep(tiny3, dictionary, IDS, change, [1], directions=0)


def test_what_cannot_be_steered_is_refused(tiny3):
    dictionary = random_dictionary(tiny3, "sae")
    for change, said in (
        (Change(24), "feature 24 of group 0: this sae has 3 groups of 24 features"),
        (Change(1, "raise"), "action is 'raise'; expected one of set, add"),
        (Change(1, "set", np.inf), "value is inf"),
        ([Change(1), Change(1, "scale", 2)], "feature 1 is changed twice"),
    ):
        with pytest.raises(InterventionError, match=said):
            steer(dictionary, change)
    with pytest.raises(InterventionError, match="A crosscoder's features read all layers"):
        steer(random_dictionary(tiny3, "crosscoder"), Change(0))
    with pytest.raises(GrokError, match="doses: none"):
        dose_sweep(tiny3, dictionary, IDS, Change(2), [])
