"""Ablating expert by expert gives what running one by one gives."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from grok.engine import compiled as passes
from grok.errors import GrokError, PromptError, SiteError
from grok.experiments.ablation import ablation_sweep
from grok.experiments.logit_lens import logit_lens
from grok.experiments.metrics import kl_divergence, logit_difference, probability
from grok.experiments.patching import patch_sweep
from grok.experiments.what_if import divergence, log_softmax, what_if
from grok.interventions.edits import ban, edit, include

TOKENS = [5, 17, 3, 42, 99, 256, 12, 7, 31]
OTHER = [5, 17, 3, 44, 99, 256, 12, 7, 31]


def logits_of(model, tokens, edits=None):
    with model.trace(tokens) as t:
        if edits is not None:
            t.add(edits)
        saved = t.logits.save()
    return saved.value


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


@pytest.mark.parametrize(
    ("one", "several"),
    [({"sites": "resid_post"}, {"sites": ["resid_post"]}),
     ({"layers": 1}, {"layers": [1]}),
     ({"positions": -1}, {"positions": [-1]})],
    ids=["site", "layer", "position"],
)  # fmt: skip
def test_a_patch_sweep_takes_one_of_what_it_takes_several_of(tiny3, one, several):
    rest = {"sites": ["resid_pre"], "layers": [1, 2], "positions": [0, 2]}
    given = [5, 17, 3], [5, 40, 3]
    metric = logit_difference(7, 9)
    a, b = (patch_sweep(tiny3, *given, metric=metric, **{**rest, **own}) for own in (one, several))
    for name in ("sites", "layers", "positions"):
        assert list(getattr(a, name)) == list(getattr(b, name))
    np.testing.assert_array_equal(a.values, b.values)


def test_an_ablation_sweep_takes_one_layer_as_a_number(tiny3):
    a, b = (ablation_sweep(tiny3, [5, 17, 3], layers=layers) for layers in (1, [1]))
    assert list(a.layers) == [1]
    np.testing.assert_array_equal(a.values, b.values)
