"""A model that many use: batches, fairness, and nobody's answer to anybody else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from grok.errors import GrokError, PromptError
from grok.interventions.edits import ban, edit
from grok.runner.batching import read_batch
from grok.serving import batches as serving_batches
from grok.serving.batches import Batches, Kind
from grok.serving.queue import FairQueue
from grok.serving.shared_model import MOST_GENERATIONS, SharedModel

SOON = 120.0
# float32 sums in another order; of bfloat16 activations it would be 2e-2.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def held(queue: FairQueue) -> Iterator[None]:
    """Somebody else has the turn."""
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with queue.turn():
            inside.set()
            leave.wait(SOON)

    thread = started(stay)
    assert inside.wait(SOON)
    yield
    leave.set()
    thread.join(SOON)


class Engine:
    """The sizes of the batches that go through a model."""

    def __init__(self, model, monkeypatch: pytest.MonkeyPatch) -> None:
        until(lambda: not serving_batches.warming().under_way())  # left by others that share it
        self.sizes: list[int] = []
        real = model.engine.run

        def run(batches):
            self.sizes += [len(batch.tokens) for batch in batches]
            return real(batches)

        monkeypatch.setattr(model.engine, "run", run)


def prompts_of(n: int, lengths: tuple[int, ...]) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 512, lengths[i % len(lengths)]).tolist() for i in range(n)]


def compiled(shared: SharedModel, kind: Kind, *sizes: int) -> None:
    """Have these sizes ready; and no other is compiled meanwhile."""
    for size in sizes:
        shared.batches._run(kind, [np.ones(kind.length, np.int32)] * size)
    shared.batches._compile_behind = lambda kind, size: None  # type: ignore[method-assign]


def test_thirty_people_at_once_get_each_their_own_answer(tiny3, monkeypatch):
    shared = SharedModel(tiny3)
    compiled(shared, Kind(16, 10), 1, 2, 4, 8)
    prompts = prompts_of(90, (3, 9, 12, 16, 17))
    alone = [tiny3.trace_routing(prompt) for prompt in prompts]
    engine, traces = Engine(tiny3, monkeypatch), {}

    def person(which: int) -> None:
        for number in range(which, len(prompts), 30):
            traces[number] = shared.of(which).trace(prompts[number])

    for thread in [started(lambda which=which: person(which)) for which in range(30)]:  # type: ignore[misc]
        thread.join(SOON)
    for number, wanted in enumerate(alone):
        got = traces[number]
        assert np.array_equal(got.tokens, wanted.tokens), number
        assert np.array_equal(got.experts, wanted.experts), number
        for name in ("router_logits", "gates", "candidate_probs"):
            np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), **TOLERANCE)
        assert got.settings == wanted.settings
    assert sum(engine.sizes) == len(prompts) and len(engine.sizes) < 2 * len(prompts) // 3
    assert shared.queue.n_callers == 0


def test_a_prompt_has_the_same_bits_in_every_batch_of_one_shape(tiny3):
    own, *others = [np.array(prompt, np.int32) for prompt in prompts_of(8, (9,))]
    first = read_batch(tiny3, [own, *others[:3]], 5)[0]
    last = read_batch(tiny3, [*others[4:], own], 5)[3]
    for name in ("router_logits", "experts", "gates", "candidates", "candidate_probs", "logits"):
        assert np.array_equal(getattr(first, name), getattr(last, name)), name


# Share of the largest router logit; docs/serving.md says it.
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_between_shapes_numbers_differ_by_no_more_than_is_said(model, dtype, most):
    held, prompts = model("tiny3", dtype), [np.array(one) for one in prompts_of(4, (11,))]
    alone = [read_batch(held, [one], 3)[0] for one in prompts]
    for own, among in zip(alone, read_batch(held, prompts, 3), strict=True):
        wanted = np.asarray(own.router_logits, np.float32)
        apart = np.abs(np.asarray(among.router_logits, np.float32) - wanted).max()
        assert apart <= most * np.abs(wanted).max()


def test_a_logit_lens_of_a_warmed_length_compiles_nothing(tiny3, caplog):
    shared = SharedModel(tiny3)
    shared.batches.room = 16
    shared.batches.warm([Kind(16, 7)])
    until(lambda: not serving_batches.warming().under_way())
    caplog.set_level(logging.WARNING)
    with jax.log_compiles():
        shared.logit_lens([5, 17, 3], candidates=7)
        assert "Compiling" not in caplog.text
        shared.logit_lens([5, 17, 3], candidates=6)
        assert "Compiling" in caplog.text


def test_a_prompt_of_a_new_length_that_goes_alone_is_not_run_behind_too(tiny3, monkeypatch):
    batches, behind = Batches(tiny3, FairQueue()), []
    monkeypatch.setattr(
        batches, "_compile_behind", lambda *kind_and_size: behind.append(kind_and_size)
    )
    assert batches.fit(Kind(16, 3), 1) == 1 and behind == []
    assert batches.fit(Kind(16, 3), 2) == 1 and behind == [(Kind(16, 3), 2)]


def test_only_sizes_that_are_compiled_are_used_and_others_are_compiled_behind(tiny3):
    batches, kind = Batches(tiny3, FairQueue(), room=64), Kind(16, 3)
    assert batches.fit(kind, 3) == 1  # nobody waits for a program of two
    until(lambda: (kind, 2) in batches._compiled)
    assert batches.fit(kind, 3) == 2
    assert batches.fit(kind, 100) == 2  # at most four fit into the room
    until(lambda: (kind, 4) in batches._compiled)
    assert batches.fit(kind, 100) == 4
    assert batches.fit(Kind(128, 3), 5) == 1  # longer than the room goes alone


def test_prompts_of_one_call_share_batches_too(tiny3, monkeypatch):
    shared = SharedModel(tiny3)
    compiled(shared, Kind(16, 10), 1, 2, 4)
    engine = Engine(tiny3, monkeypatch)
    found = shared.trace_all(prompts_of(5, (5, 20)))
    assert [len(one.tokens) for one in found] == [5, 20, 5, 20, 5]
    assert sorted(engine.sizes) == [1, 1, 1, 2]


def test_others_have_turns_between_tokens_layers_and_changes(tiny3):
    shared, prompt = SharedModel(tiny3), [5, 17, 3]
    steps = shared.stream(prompt, max_new_tokens=3)
    first = next(steps)
    assert shared.queue.n_callers == 1
    between = shared.of("other").trace([42, 99])
    rest = list(steps)
    assert [first.token, *(step.token for step in rest)] == shared.generate(
        prompt, max_new_tokens=3
    ).new_tokens
    assert np.array_equal(between.experts, tiny3.trace_routing([42, 99]).experts)
    assert shared.queue.n_callers == 0

    asked: list[object] = []

    def told(done: int, total: int) -> None:
        if not asked:
            asked.append(started(lambda: asked.append(shared.of("other").trace([42, 99]))))
        if done == total:  # the last layer is over: the other's prompt went before
            until(lambda: len(asked) == 2)

    shared.ablation_sweep(prompt, layers=[1], progress=told)
    assert len(asked) == 2


def test_a_reader_who_goes_away_frees_its_turn_and_its_place(tiny3):
    shared = SharedModel(tiny3)
    many = [shared.stream([5, 17], max_new_tokens=9) for _ in range(MOST_GENERATIONS)]
    for steps in many:
        next(steps)
    ninth = started(lambda: shared.generate([5], max_new_tokens=1))
    until(lambda: shared._generations.n_callers == MOST_GENERATIONS + 1)
    many[0].close()
    ninth.join(SOON)
    assert not ninth.is_alive()
    for steps in many:
        steps.close()
    assert shared.queue.n_callers == shared._generations.n_callers == 0


def test_an_unusable_prompt_or_change_is_refused_without_waiting(tiny3):
    shared = SharedModel(tiny3)
    with held(shared.queue):
        with pytest.raises(PromptError, match="empty"):
            shared.trace([])
        with pytest.raises(PromptError, match="no tokenizer"):
            shared.generate("text", max_new_tokens=1)
        with pytest.raises(GrokError, match="expert"):
            shared.what_if([5, 17], edit("router.logits", ban(99), layers=[0]))


def test_changes_are_run_beside_the_prompt_as_it_is_which_is_run_once(tiny3, monkeypatch):
    from grok.experiments.what_if import what_if

    edits = [edit("router.logits", ban(expert), layers=[1]) for expert in range(3)]
    alone = [what_if(tiny3, [5, 17, 3], one) for one in edits]
    engine = Engine(tiny3, monkeypatch)
    together = SharedModel(tiny3).what_ifs([5, 17, 3], edits)
    assert engine.sizes == [1] * 4
    for got, wanted in zip(together, alone, strict=True):
        assert np.array_equal(got.kl, wanted.kl)
        assert np.array_equal(got.changed.experts, wanted.changed.experts)
        assert got.changed.settings == wanted.changed.settings
