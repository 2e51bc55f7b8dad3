"""Traces of other families: dense layers among mixtures, scores that are no probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import grok
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
