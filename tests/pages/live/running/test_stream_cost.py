"""What runs of a streamed model cost: passes as the model makes them, and their sum."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import open_checkpoint
from grok.config import GROK_1
from grok.experiments.forks import ForkedRuns
from grok.runner.batching import passes_of, room
from pages.live.running import stream_choice, stream_cost
from pages.live.running.stream_cost import Work
from pages.live.session.shared_models import ModelChoice
from tests.pages.live.streamed_page import RATES, SMALL, measured

GROK = ModelChoice("Grok-1", str(SMALL), GROK_1, False, "streamed", 8_000_000_000)


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    measured(monkeypatch, RATES)  # the disk reads 1 GB a second
    yield
    stream_choice._rates.clear()


def small(budget: int) -> ModelChoice:
    config = open_checkpoint(SMALL).config
    return ModelChoice("small", str(SMALL), config, False, "streamed", budget)


def ids(count: int) -> str:
    return " ".join(["5"] * count)


def test_a_prompt_on_grok_1_reads_all_its_weights_once_in_the_time_that_the_disk_takes():
    cost = stream_cost.cost(GROK, stream_cost.together(GROK, [ids(64)]))
    assert cost.work.passes == (64,) and 316e9 < cost.bytes_read < 320e9
    assert cost.seconds == pytest.approx(cost.bytes_read / 1e9, rel=0.15)
    assert cost.memory_bytes <= 8e9 and "disk" in cost.binds


def test_a_second_prompt_costs_no_second_pass_and_twenty_are_split():
    one = stream_cost.cost(GROK, stream_cost.together(GROK, [ids(64)]))
    two = stream_cost.cost(GROK, stream_cost.together(GROK, [ids(64)] * 2))
    assert two.bytes_read == one.bytes_read
    lengths = [512] * 20
    work = stream_cost.together(GROK, [ids(512)] * 20)
    assert work.n_passes == len(passes_of(lengths, room(Grok1(GROK_1), 8_000_000_000))) > 1
    assert sum(work.passes) == sum(lengths)


def test_every_generated_token_but_the_first_reads_its_experts_alone():
    base = stream_cost.cost(GROK, Work((64,)))
    more = stream_cost.cost(GROK, Work((64,), new_tokens=11))
    a_token = (more.bytes_read - base.bytes_read) / 10
    assert 75e9 < a_token < 90e9
    assert more.seconds is not None and base.seconds is not None
    assert more.seconds > base.seconds + 10 * 70


@pytest.mark.parametrize(("budget", "several"), [(1_004_000_000, True), (8_000_000_000, False)])
def test_a_sweep_has_as_many_passes_as_the_model_makes_of_it(budget, several):
    from grok import load

    choice = small(budget)
    model = load(SMALL, mode="streamed", memory_budget=budget)
    tokens = model.encode([5] * 12)
    runs = choice.config.n_layers * choice.config.n_experts
    counts = dict.fromkeys(range(choice.config.n_layers), choice.config.n_experts)
    made = ForkedRuns(model, tokens).passes(counts)
    work = stream_cost.swept(choice, [ids(12)], runs)
    assert work.n_passes == 1 + len(made) and (len(made) > 1) == several
    assert stream_cost.cost(choice, work).memory_bytes == budget


def test_what_is_not_measured_gives_no_time_but_the_bytes(monkeypatch):
    from dataclasses import replace

    measured(monkeypatch, replace(RATES, read_bytes_per_s=None))
    cost = stream_cost.cost(GROK, Work((64,)))
    assert cost.seconds is None and cost.bytes_read > 3e11
    assert "time not measured" in stream_cost.cost_words(cost).lower()
    assert stream_cost.needs_asking(GROK, Work((64,)))
    assert "the disk not measured" in stream_choice.rates_words(GROK)


def test_a_model_that_is_resident_is_never_asked_about():
    from dataclasses import replace

    assert not stream_cost.needs_asking(replace(GROK, mode="resident"), Work((64,)))
