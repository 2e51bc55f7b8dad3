"""A loaded model: buckets, cache, traces, sampling, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grok.engine import compiled as passes
from grok.errors import GrokError, PromptError
from grok.runner import model as model_module
from grok.trace import RoutingTrace
from lens.traces.trace import load_trace

ROUTING = ("router_logits", "router_probs", "experts", "gates")
PROMPT = [5, 17, 3, 211, 80, 400, 9]


def compiled() -> tuple[int, ...]:
    """Programs compiled so far for the three parts of a pass."""
    parts = (passes.embed_pass, passes.layer_pass, passes.head_pass)
    return tuple(part._cache_size() for part in parts)


def same_routing(a: RoutingTrace, b: RoutingTrace, tolerance: float = 2e-5) -> bool:
    return (
        np.array_equal(a.tokens, b.tokens)
        and np.array_equal(np.sort(a.experts), np.sort(b.experts))
        and np.abs(a.router_logits - b.router_logits).max() < tolerance
        and np.abs(a.candidate_probs - b.candidate_probs).max() < tolerance
    )


# --- buckets ---------------------------------------------------------------------------


def test_buckets_are_powers_of_two_from_sixteen():
    lengths = (1, 15, 16, 17, 32, 33, 513, 8192)
    assert [passes.bucket(n) for n in lengths] == [16, 16, 16, 32, 32, 64, 1024, 8192]


def test_a_new_length_inside_a_bucket_compiles_nothing(tiny3):
    tiny3.trace_routing([7] * 9)
    tiny3.generate([7] * 9, max_new_tokens=2)
    before = compiled()
    for n in (1, 2, 10, 16):
        assert tiny3.trace_routing(list(range(1, n + 1))).tokens.size == n
    for n, new in ((2, 5), (13, 3), (1, 9)):
        assert tiny3.generate([7] * n, max_new_tokens=new).trace.tokens.size >= n
    assert compiled() == before


def test_padding_to_a_bucket_changes_nothing(tiny3):
    trace = tiny3.trace_routing(PROMPT)
    alone = tiny3.forward(np.array([PROMPT], np.int32), candidates=10)
    assert np.array_equal(np.sort(trace.experts), np.sort(alone.experts[:, 0]))
    for name in ("router_logits", "router_probs", "gates"):
        assert np.abs(getattr(trace, name) - getattr(alone, name)[:, 0]).max() < 2e-5, name
    assert np.abs(trace.candidate_probs - alone.candidate_probs[0]).max() < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reading_token_by_token_gives_what_one_pass_gives(model, dtype):
    one = model("tiny3", dtype)
    generation = one.generate(PROMPT, max_new_tokens=6)
    whole = one.trace_routing(generation.trace.tokens)
    # In bfloat16 a sum in another order may round to the neighbour.
    assert same_routing(generation.trace, whole, 2e-5 if dtype == "float32" else 0.06)


# --- traces ----------------------------------------------------------------------------


def test_a_trace_has_the_shapes_and_dtypes_of_the_format(tiny3):
    trace = tiny3.trace_routing(PROMPT, candidates=4)
    t = len(PROMPT)
    wanted = {
        "tokens": ((t,), np.int32),
        "router_logits": ((3, t, 8), np.float32),
        "router_probs": ((3, t, 8), np.float32),
        "experts": ((3, t, 2), np.int32),
        "gates": ((3, t, 2), np.float32),
        "candidates": ((t, 4), np.int32),
        "candidate_probs": ((t, 4), np.float32),
    }
    for name, (shape, dtype) in wanted.items():
        array = getattr(trace, name)
        assert (array.shape, array.dtype) == (shape, dtype), name
    assert trace.pieces.shape == (t,) and trace.candidate_pieces.shape == (t, 4)
    assert trace.prompt_length == t
    assert trace.settings == {"model": "tiny3", "dtype": "float32", "max_new_tokens": 0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gates_are_the_largest_probabilities_in_falling_order(model, dtype):
    trace = model("tiny3", dtype).trace_routing(PROMPT)
    assert np.array_equal(trace.gates, -np.sort(-trace.router_probs, axis=-1)[..., :2])
    assert np.array_equal(
        trace.gates, np.take_along_axis(trace.router_probs, trace.experts, axis=-1)
    )
    assert np.abs(trace.router_probs.sum(-1) - 1).max() < 1e-5
    wide = np.exp(trace.router_logits.astype(np.float64))
    assert np.abs(trace.router_probs - wide / wide.sum(-1, keepdims=True)).max() < 1e-5


def test_candidates_are_the_most_probable_next_tokens(tiny3):
    trace = tiny3.trace_routing(PROMPT, candidates=512)
    assert (np.diff(trace.candidate_probs) <= 0).all()
    assert np.abs(trace.candidate_probs.sum(-1) - 1).max() < 1e-5
    assert np.array_equal(np.sort(trace.candidates), np.tile(np.arange(512), (len(PROMPT), 1)))
    few = tiny3.trace_routing(PROMPT)
    assert few.candidates.shape == (len(PROMPT), 10)
    assert np.array_equal(few.candidates, trace.candidates[:, :10])
    assert tiny3.generate(PROMPT, max_new_tokens=1).new_tokens == [few.candidates[-1, 0]]


@pytest.mark.parametrize("asked", [-3, 0, 1])
def test_at_least_one_candidate_is_kept(tiny3, asked):
    assert tiny3.trace_routing(PROMPT, candidates=asked).candidates.shape == (len(PROMPT), 1)


def test_the_last_generated_token_is_not_in_the_trace_for_it_was_never_read(tiny3):
    generation = tiny3.generate(PROMPT, max_new_tokens=4)
    assert generation.trace.tokens.tolist() == PROMPT + generation.new_tokens[:-1]
    assert generation.trace.prompt_length == len(PROMPT)
    assert generation.trace.router_logits.shape == (3, len(PROMPT) + 3, 8)
    assert len(generation.trace.pieces) == len(generation.trace.candidates) == len(PROMPT) + 3
    assert generation.text == " ".join(map(str, generation.new_tokens))


def test_token_zero_inside_a_prompt_is_not_attended_to_but_is_routed(tiny3):
    with_zero = tiny3.trace_routing([5, 17, 0, 30])
    other = tiny3.trace_routing([5, 17, 1, 30])
    assert with_zero.tokens.tolist() == [5, 17, 0, 30]
    assert with_zero.experts.shape == (3, 4, 2)
    before = np.abs(with_zero.router_logits - other.router_logits)[:, :2]
    assert before.max() < 1e-5
    assert np.abs(with_zero.router_logits - other.router_logits)[1:, 3].max() > 1e-3


def test_a_saved_trace_opens_in_the_explorer(tiny3, tmp_path):
    trace = tiny3.generate(PROMPT, max_new_tokens=3, temperature=0.7, seed=4).trace
    trace.save(tmp_path / "trace.npz")
    opened = load_trace(tmp_path / "trace.npz")
    for name in (*ROUTING, "tokens", "candidates", "candidate_probs"):
        assert np.array_equal(getattr(opened, name), getattr(trace, name)), name
    assert list(opened.pieces) == list(trace.pieces)
    assert opened.prompt_length == trace.prompt_length
    assert opened.model_sha256 == trace.model_sha256
    settings = json.loads(opened.settings) if isinstance(opened.settings, str) else opened.settings
    assert settings["temperature"] == 0.7 and settings["seed"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["trace.npz"]


def test_a_trace_that_cannot_be_saved_leaves_nothing(tiny3, tmp_path):
    trace = tiny3.trace_routing(PROMPT)
    with pytest.raises(GrokError, match="nowhere.*not saved"):
        trace.save(tmp_path / "nowhere" / "trace.npz")
    with pytest.raises(GrokError, match="not a file in an existing folder"):
        trace.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- sampling --------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(tiny3):
    def tokens(seed: int) -> list[int]:
        return tiny3.generate(PROMPT, max_new_tokens=8, temperature=1.0, seed=seed).new_tokens

    assert tokens(1) == tokens(1)
    assert len({tuple(tokens(seed)) for seed in range(4)}) > 1


def test_a_tiny_nucleus_or_temperature_is_greedy(tiny3):
    greedy = tiny3.generate(PROMPT, max_new_tokens=6).new_tokens
    for options in ({"temperature": 1.0, "top_p": 1e-6}, {"temperature": 1e-4}):
        assert tiny3.generate(PROMPT, max_new_tokens=6, **options).new_tokens == greedy


def test_a_generation_ends_after_the_end_of_sequence_token(tiny3, monkeypatch):
    drawn = iter([40, tiny3.config.eos_token, 41])
    monkeypatch.setattr(model_module, "next_token", lambda *args: next(drawn))
    generation = tiny3.generate(PROMPT, max_new_tokens=8)
    assert generation.new_tokens == [40, tiny3.config.eos_token]
    assert generation.trace.tokens.tolist() == [*PROMPT, 40]


def test_a_generation_may_fill_the_context_and_no_more(tiny3):
    room = tiny3.config.context_length
    prompt = [7] * (room - 2)
    assert tiny3.generate(prompt, max_new_tokens=2).trace.tokens.size == room - 1
    with pytest.raises(PromptError, match=f"{room - 2} tokens.*room for 2 new ones.*3 were"):
        tiny3.generate(prompt, max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected at least 1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": 1, "temperature": -0.1}, "temperature is -0.1; expected 0"),
        ({"max_new_tokens": 1, "temperature": float("nan")}, "temperature is nan"),
        ({"max_new_tokens": 1, "temperature": float("inf")}, "temperature is inf"),
        ({"max_new_tokens": 1, "top_p": 0.0}, "top_p is 0.0; expected more than 0"),
        ({"max_new_tokens": 1, "top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": 1, "top_p": float("nan")}, "top_p is nan"),
        ({"max_new_tokens": 1, "seed": -1, "temperature": 1.0}, "seed is -1; expected 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tiny3, options, says):
    with pytest.raises(PromptError, match=says):
        tiny3.generate(PROMPT, **options)


# --- prompts that are refused ------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "The prompt is empty"),
        (np.zeros(0, np.float64), "The prompt is empty"),
        ([5, 512], "Token id 512 is outside the vocabulary, 0 to 511"),
        ([-1, 5], "Token id -1 is outside"),
        ([2**40], "Token id 1099511627776 is outside"),
        ([10**30], "whole numbers"),
        ([5.0, 7.0], "one row of whole numbers"),
        ([float("nan")], "one row of whole numbers"),
        ([True, False], "one row of whole numbers"),
        (["5", "7"], "one row of whole numbers"),
        ([[5, 7]], "one row of whole numbers"),
        ([[5, 7], [1]], "one row of whole numbers"),
        (np.int32(5), "one row of whole numbers"),
        ([None], "one row of whole numbers"),
        (list(range(1, 130)), "129 tokens; this model's context holds 128. Shorten it"),
        ("some text", "no tokenizer, so a prompt must be token ids.*--tokenizer"),
    ],
)
def test_unusable_prompts_are_refused_with_what_was_found_and_expected(tiny3, prompt, says):
    before = compiled()
    with pytest.raises(PromptError, match=says):
        tiny3.trace_routing(prompt)
    with pytest.raises(PromptError, match=says):
        tiny3.generate(prompt, max_new_tokens=1)
    assert compiled() == before
