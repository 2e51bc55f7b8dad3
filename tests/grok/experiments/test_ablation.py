"""Sweeps give what running one by one gives."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from grok.engine import compiled as passes
from grok.errors import GrokError, PromptError, SiteError
from grok.experiments.ablation import ablation_sweep
from grok.experiments.forks import ForkedRuns
from grok.experiments.logit_lens import logit_lens
from grok.experiments.metrics import kl_divergence, logit_difference, probability
from grok.experiments.patching import patch_sweep
from grok.experiments.what_if import divergence, log_softmax, what_if
from grok.interventions.edits import ban, edit, include, replace_with

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]
OTHER = [5, 17, 3, 44, 99, 256, 12, 7, 31]


def logits_of(model, tokens, edits=None):
    with model.trace(tokens) as t:
        if edits is not None:
            t.add(edits)
        saved = t.logits.save()
    return saved.value


def test_what_if_is_two_runs_side_by_side(tiny3):
    edits = edit("router.logits", ban(2), layers=1)
    found = what_if(tiny3, TOKENS, edits, candidates=4)
    before, after = logits_of(tiny3, TOKENS), logits_of(tiny3, TOKENS, edits)
    np.testing.assert_array_equal(found.base.experts, tiny3.trace_routing(TOKENS).experts)
    assert not (found.changed.experts[1] == 2).any()
    expected = [
        divergence(a, b) for a, b in zip(log_softmax(before), log_softmax(after), strict=True)
    ]
    np.testing.assert_allclose(found.kl, expected, atol=1e-6)
    probs = np.exp(log_softmax(after))
    np.testing.assert_allclose(
        found.changed_probs, np.take_along_axis(probs, found.tokens, axis=-1), atol=1e-6
    )
    assert found.tokens.shape == (9, 4) == found.pieces.shape
    largest = np.maximum(found.base_probs, found.changed_probs)
    assert (np.diff(largest, axis=1) <= 0).all()


def test_what_if_without_edits_changes_nothing(tiny3):
    found = what_if(tiny3, TOKENS, edit("router.logits", ban(2), positions=slice(9, None)))
    assert found.kl.max() < 1e-6
    np.testing.assert_array_equal(found.base.experts, found.changed.experts)


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_ablation_sweep_gives_what_single_bans_give(tiny3, everywhere):
    metric = kl_divergence(everywhere=everywhere)
    sweep = ablation_sweep(tiny3, TOKENS, metric=metric, batch=5)
    before = log_softmax(logits_of(tiny3, TOKENS))
    for layer in range(3):
        for expert in range(8):
            edits = edit("router.logits", ban(expert), layers=layer)
            after = log_softmax(logits_of(tiny3, TOKENS, edits))
            each = [divergence(a, b) for a, b in zip(before, after, strict=True)]
            expected = np.mean(each) if everywhere else each[-1]
            assert sweep.values[layer, expert] == pytest.approx(expected, abs=1e-5)
    assert abs(sweep.base) < 1e-6
    others = sweep.effect[1, np.arange(8) != 4].mean()
    assert sweep.control[1, 4] == pytest.approx(others)
    np.testing.assert_allclose(sweep.load.sum(axis=1), 1)


def test_banning_an_expert_that_no_token_chose_changes_next_to_nothing(tiny3):
    sweep = ablation_sweep(tiny3, TOKENS)
    unused = sweep.load == 0
    assert unused.any() and (~unused).any()
    assert np.abs(sweep.effect[unused]).max() < 1e-5 < sweep.effect[~unused].max()


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


def test_a_sweep_computes_in_few_programs_and_tells_how_far_it_is(tiny3):
    told = []
    ablation_sweep(tiny3, TOKENS, batch=8, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] and [d for d, _ in told] == sorted(d for d, _ in told)
    before = passes.layer_pass._cache_size()
    ablation_sweep(tiny3, TOKENS[::-1], batch=8, layers=[1, 2])
    assert passes.layer_pass._cache_size() == before


def test_what_the_progress_raises_ends_the_sweep(tiny3):
    class Cancelled(Exception):
        pass

    def stop(done, total):
        if done > total / 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        ablation_sweep(tiny3, TOKENS, progress=stop)
    assert ablation_sweep(tiny3, TOKENS).effect.max() > 0


def test_others_get_their_turns_between_layers(tiny3):
    inside, turns = [0], []

    @contextmanager
    def turn():
        assert inside[0] == 0
        inside[0] += 1
        yield
        inside[0] -= 1
        turns.append(1)

    ablation_sweep(tiny3, TOKENS, turn=turn)
    assert len(turns) > tiny3.config.n_layers


def test_batches_hold_every_run_once(tiny3):
    runs = ForkedRuns(tiny3, np.array(TOKENS), batch=8)
    for count in range(1, 40):
        batches = runs._batches(count)
        assert np.unique(np.concatenate(batches)).tolist() == list(range(count))
        assert {len(one) for one in batches} <= {2, 8}
        flat = np.concatenate(batches)
        assert flat[:count].tolist() == list(range(count))


def test_the_logit_lens_ends_at_the_models_own_answer(tiny3):
    lens = logit_lens(tiny3, TOKENS, candidates=5)
    trace = tiny3.trace_routing(TOKENS, candidates=5)
    np.testing.assert_array_equal(lens.tokens[-1], trace.candidates)
    np.testing.assert_allclose(lens.probs[-1], trace.candidate_probs, atol=1e-5)
    assert lens.kl[-1].max() < 1e-5 < lens.kl[0].min()
    assert lens.tokens.shape == (3, 9, 5) == lens.pieces.shape
    probs = np.exp(log_softmax(logits_of(tiny3, TOKENS)))
    np.testing.assert_allclose(lens.next_probs[-1], probs[np.arange(8), TOKENS[1:]], rtol=1e-3)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: ablation_sweep(m, []), "empty"),
        (lambda m: ablation_sweep(m, TOKENS, layers=[3]), "layers 0 to 2"),
        (lambda m: ablation_sweep(m, TOKENS, layers=[]), "layers 0 to 2"),
        (lambda m: ablation_sweep(m, TOKENS, metric=probability(10**6)), "no token 1000000"),
        (lambda m: patch_sweep(m, TOKENS, TOKENS[:-1], metric=probability(1)), "9 tokens.*8"),
        (lambda m: patch_sweep(m, TOKENS, OTHER, metric=probability(-1)), "no token -1"),
        (lambda m: patch_sweep(m, TOKENS, OTHER, metric=probability(1), sites=["mlp"]), "no site"),
        (
            lambda m: patch_sweep(m, TOKENS, OTHER, metric=probability(1), positions=[9]),
            "tokens 0 to 8",
        ),
        (lambda m: what_if(m, TOKENS, edit("router.logits", ban(9))), "no expert 9"),
    ],
    ids=lambda value: "",
)
def test_sweeps_refuse_what_they_cannot_do(tiny3, ask, message):
    with pytest.raises((PromptError, SiteError, GrokError), match=message):
        ask(tiny3)


def test_including_an_expert_is_what_the_intervention_does(tiny3):
    sweep = ablation_sweep(tiny3, TOKENS, how="include", layers=[1])
    base = tiny3.trace_routing(TOKENS)
    for expert in range(8):
        found = what_if(tiny3, TOKENS, edit("router.experts", include(expert), layers=1))
        assert sweep.values[0, expert] == pytest.approx(found.kl.mean(), abs=1e-5)
        assert (found.changed.experts[1] == expert).any(axis=-1).all()
        had = (base.experts[1] == expert).any(axis=-1)
        np.testing.assert_array_equal(found.changed.experts[1][had], base.experts[1][had])
        kept = (found.changed.experts[1][~had] == base.experts[1][~had][:, :1]).any(axis=-1)
        assert kept.all()


def test_sweeps_give_the_same_on_eight_devices_as_on_one(model):
    one, many = (
        (
            ablation_sweep(on, TOKENS, batch=8, layers=[1]).values,
            patch_sweep(
                on, TOKENS, OTHER, metric=logit_difference(3, 77), layers=[1], batch=8
            ).values,
            logit_lens(on, TOKENS).kl,
        )
        for on in (model("tiny3"), model("tiny3", mesh=(1, 8)))
    )
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
