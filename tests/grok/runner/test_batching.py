"""Runs that go through the model together come out as each would alone."""

from __future__ import annotations

import numpy as np
import pytest

from grok.errors import GrokError, PromptError
from grok.experiments.what_if import what_if, what_ifs
from grok.interventions.edits import NO_EDITS, ban, edit
from grok.runner.batching import PASS_TOKENS, passes_of, read_together, trace_together

PROMPTS = ([5, 17, 3], [42, 99, 256, 12, 7, 8, 9, 10, 11, 4, 3, 2, 1, 9, 8, 7, 6, 5], [4])


class Counting:
    """An engine that counts its passes."""

    def __init__(self, model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[int] = []
        real = model.engine.run

        def run(batches):
            self.passes.append(len(batches))
            return real(batches)

        monkeypatch.setattr(model.engine, "run", run)


def test_prompts_traced_together_give_the_bits_of_each_alone_in_one_pass(tiny3, monkeypatch):
    alone = [tiny3.trace_routing(prompt) for prompt in PROMPTS]
    counting = Counting(tiny3, monkeypatch)
    together = trace_together(tiny3, PROMPTS)
    assert counting.passes == [len(PROMPTS)]
    for got, wanted in zip(together, alone, strict=True):
        for name, array in wanted.arrays().items():
            assert np.array_equal(got.arrays()[name], array), name


def test_several_changes_give_what_each_gives_alone_and_run_the_text_as_it_is_once(
    tiny3, monkeypatch
):
    edits = [edit("router.logits", ban(e), layers=[1]) for e in range(3)]
    alone = [what_if(tiny3, PROMPTS[0], one) for one in edits]
    counting = Counting(tiny3, monkeypatch)
    together = what_ifs(tiny3, PROMPTS[0], edits)
    assert counting.passes == [1 + len(edits)]
    for got, wanted in zip(together, alone, strict=True):
        assert np.array_equal(got.kl, wanted.kl)
        assert np.array_equal(got.changed.experts, wanted.changed.experts)
        assert got.changed.settings == wanted.changed.settings
        assert not got.base.settings.get("interventions")
    assert any(one.kl.max() > 0 for one in together)


def test_more_than_a_pass_holds_is_split_and_nothing_is_lost():
    lengths = [16] * 200 + [3000, 5, PASS_TOKENS]
    passes = passes_of(lengths)
    assert [i for members in passes for i in members] == list(range(len(lengths)))
    assert [200] in passes
    for members in passes:
        padded = sum(max(16, 1 << (lengths[i] - 1).bit_length()) for i in members)
        assert padded <= PASS_TOKENS or len(members) == 1


def test_one_unusable_run_is_refused_before_any_runs(tiny3, monkeypatch):
    counting = Counting(tiny3, monkeypatch)
    tokens = np.array([5, 17], np.int32)
    unfit = edit("router.logits", ban(99), layers=[0])
    with pytest.raises(GrokError):
        list(read_together(tiny3, [(tokens, NO_EDITS), (tokens, unfit)], 1))
    with pytest.raises(PromptError, match="empty"):
        trace_together(tiny3, [[5], []])
    assert counting.passes == []
