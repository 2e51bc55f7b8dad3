"""Traces of other families: dense layers among mixtures, scores that are no probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import grok
from grok.interventions import edit, zero_out
from lens.errors import LensError
from lens.traces import load_trace, routing

DATA = Path(__file__).resolve().parents[2] / "data" / "huggingface"
PROMPT = [5, 17, 3, 80, 9, 44]


@pytest.fixture(scope="module", params=["deepseek_v3_fp8", "qwen2_moe", "qwen3_moe"])
def made(request):
    model = grok.load(DATA / request.param, mode="resident", dtype="float32", mesh=(1, 1))
    return model, model.trace_routing(PROMPT)


def changed(trace, tmp_path, **entries):
    file = tmp_path / "trace.npz"
    np.savez(file, **(trace.arrays() | entries))
    return file


def test_a_file_says_what_the_family_is_like(made, tmp_path):
    model, trace = made
    trace.save(tmp_path / "trace.npz")
    found = load_trace(tmp_path / "trace.npz")
    layers = range(found.n_layers) if found.layer_ids is None else found.layer_ids
    assert list(layers) == list(model.config.moe_layers)
    architecture = model.engine.architecture
    assert (found.score, found.plain_gates) == (architecture.score, architecture.plain_gates)
    assert (found.choice_values is None) != architecture.has_choice_values
    np.testing.assert_array_equal(found.experts, trace.experts)


def test_the_shared_expert_is_a_part_of_the_mix_that_can_be_taken_out(made, tmp_path):
    model, trace = made
    if not model.config.d_shared:
        assert trace.beside_shared is None and routing.shared_in_words(trace, 0, 0) is None
        return
    trace.save(tmp_path / "trace.npz")
    found = load_trace(tmp_path / "trace.npz")
    parts = routing.beside_shared(found)
    assert (parts.chosen > 0).all() and (parts.shared > 0).all()
    first, numbers = routing.shared_in_words(found, 1, 2)
    assert f"has {100 * parts.shared[1, 2] / parts.chosen[1, 2]:.0f}\u00a0% of the length" in first
    assert f"cosine {parts.cosine[1, 2]:.2f}".replace("-", "−") in numbers
    last = model.config.moe_layers[-1]
    without = model.trace_routing(PROMPT, edits=edit("moe.shared", zero_out(), layers=last))
    gone = routing.beside_shared(without)
    assert (gone.shared[-1] == 0).all() and (gone.cosine[-1] == 0).all()
    np.testing.assert_allclose(gone.chosen, parts.chosen, rtol=1e-5)
    assert np.abs(without.candidate_probs - trace.candidate_probs).max() > 0
    for wrong in (np.negative(trace.beside_shared), trace.beside_shared[..., :2]):
        with pytest.raises(LensError, match="beside_shared"):
            load_trace(changed(trace, tmp_path, beside_shared=wrong))


def test_the_margin_is_between_the_values_that_decide(made):
    _, trace = made
    values = trace.router_logits if trace.choice_values is None else trace.choice_values
    k = trace.experts.shape[-1]
    ordered = np.sort(values, axis=-1)[..., ::-1].astype(np.float64)
    np.testing.assert_array_equal(routing.margin(trace), ordered[..., k - 1] - ordered[..., k])
    assert (routing.margin(trace) > 0).all()
    entropy = routing.entropy(trace)
    assert (entropy > 0).all() and (entropy <= np.log(trace.router_logits.shape[-1]) + 1e-6).all()


def test_a_file_that_contradicts_itself_is_refused(made, tmp_path):
    _, trace = made
    other = np.roll(trace.experts, 1, axis=1)
    wrong = {
        "not the likeliest|differ from": {"experts": other},
        "score: found 'cosine'": {"score": np.array("cosine")},
        "expected rising numbers": {"layer_ids": np.zeros(len(trace.experts), np.int32)},
        "sigmoid of|softmax of|sum to": {"router_probs": trace.router_probs * 0.5},
    }
    if not trace.plain_gates:
        wrong["weights of 0 or more"] = {"gates": -trace.gates}
    for says, entries in wrong.items():
        with pytest.raises(LensError, match=says):
            load_trace(changed(trace, tmp_path, **entries))
