"""What a run of a streamed model says of itself: passes, layers, time left, place, its end."""

from __future__ import annotations

import pytest

from grok.engine.progress import PassProgress
from grok.errors import BusyError
from grok.serving.jobs import CancelledError
from pages.live.running import stream_choice, stream_cost, stream_progress, stream_run
from pages.live.running.stream_cost import Cost, Work
from pages.live.running.stream_run import RunRequest, StreamedRun


def going(passes: int = 1, new_tokens: int = 0, a_pass: float | None = 100.0) -> StreamedRun:
    work = Work((8,) * passes, new_tokens)
    seconds = None if a_pass is None else a_pass * work.n_passes
    cost = Cost(seconds, 1e9, 10**9, 8 * 10**9, a_pass, "the disk", work)
    request = RunRequest(None, "Trace", cost, lambda run: None, lambda result: None)  # type: ignore[arg-type]
    return StreamedRun(request)


def at(layer: int, seconds: float, left: float | None = None, read: int = 10**9) -> PassProgress:
    return PassProgress(layer, 64, layer / 65, read, seconds, left)


def test_one_pass_tells_its_layer_the_time_left_and_the_bytes():
    run = going()
    assert run.words() == "Starting …" and run.seconds_left == 100
    run.on_pass(at(12, 30, 180, 61 * 10**9))
    assert run.words() == "Layer 13 of 64 · 3 min left · 61 GB read"
    assert run.fraction == pytest.approx(12 / 65)


def test_the_time_left_goes_down_between_two_tellings_and_not_below_nothing(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stream_run.time, "monotonic", lambda: now[0])
    run = going()
    run.on_pass(at(12, 30, 60))
    now[0] += 45
    assert run.seconds_left == pytest.approx(15)
    now[0] += 45
    assert run.seconds_left == 0 and " · 1 s left · " in run.words()


def test_after_the_last_layer_come_the_next_tokens():
    run = going()
    run.on_pass(at(64, 30, 5))
    assert run.words().startswith("All 64 layers, now the next tokens · 5 s left")


def test_passes_are_counted_and_their_bytes_and_times_add_up():
    run = going(passes=3)
    run.on_pass(at(64, 40, 0, 5 * 10**9))
    run.on_pass(at(32, 20, 20, 2 * 10**9))
    assert run.passes == 1
    assert run.words() == "Pass 2 of 3 · Layer 33 of 64 · 60 s left · 7.0 GB read"
    assert run.fraction == pytest.approx((1 + 32 / 65) / 3)


def test_tokens_are_counted_as_tokens():
    run = going(new_tokens=5)
    run.on_pass(at(1, 1, 50))
    assert run.words().startswith("Token 1 of 5 · Layer 2 of 64")


def test_without_an_estimate_no_time_is_made_up():
    run = going(passes=2, a_pass=None)
    assert run.seconds_left is None
    run.on_pass(at(0, 1, None))
    assert run.words() == "Pass 1 of 2 · Layer 1 of 64 · 1.0 GB read"


def test_a_sweep_tells_its_own_share(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stream_run.time, "monotonic", lambda: now[0])
    run = going(passes=2)
    run.on_share(0, 200)
    now[0] += 30
    run.on_share(50, 200)
    assert run.fraction == 0.25 and run.seconds_left == pytest.approx(90)
    assert run.words() == "Sweep 25\u00a0% · 90 s left · 0.0 MB read"


def test_a_run_whose_browser_has_gone_ends_after_a_while_and_not_at_a_reload(monkeypatch):
    now, there = [100.0], [True]
    monkeypatch.setattr(stream_run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stream_run, "_present", lambda session: there[0])
    run = going()
    run.check()
    there[0] = False
    now[0] += stream_run.ALONE - 1
    run.on_pass(at(3, 5, 10))
    there[0] = True
    run.check()
    there[0] = False
    now[0] += stream_run.ALONE + 1
    with pytest.raises(CancelledError, match="browser has gone"):
        run.on_pass(at(4, 6, 10))


def test_what_stopped_says_how_far_it_came():
    run = going()
    assert run.stopped_words() == "Stopped before it began."
    run.on_pass(at(12, 30, 180, 61 * 10**9))
    assert run.stopped_words().startswith("Stopped after layer 12 of 64, with 61 GB read.")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "time not measured"),
        (0.05, "less than 0.1 s"),
        (42, "about 42 s"),
        (300, "about 5 min"),
        (9000, "about 2.5 h"),
    ],
)
def test_a_time_is_said_as_an_estimate(seconds, words):
    assert stream_choice.about(seconds) == words


def test_passes_of_a_continuation_count_the_text_and_each_token_but_the_first():
    assert Work((8,), 5).n_passes == 5 and Work((8,)).n_passes == 1 and Work((8, 4)).n_passes == 2
    assert "5 passes over the weights" in stream_cost.cost_words(going(new_tokens=5).request.cost)


def test_a_server_that_is_full_says_so_and_loses_nothing(monkeypatch):
    state: dict = {}
    monkeypatch.setattr(stream_progress.st, "session_state", state)

    class Full:
        def start(self, *arguments, **options):
            raise BusyError("8 runs go on or wait already. Try again later.")

    monkeypatch.setattr(stream_progress, "jobs", Full)
    monkeypatch.setattr(stream_progress, "check_may_run", lambda choice: None)
    request = going().request
    state[stream_progress.REQUEST.key] = request
    stream_progress.start(request)
    assert state[stream_progress.MESSAGE.key] == (
        "error",
        "8 runs go on or wait already. Try again later.",
    )
    assert state[stream_progress.REQUEST.key] is request


def test_a_run_goes_on_for_the_session_that_a_reload_began(monkeypatch):
    monkeypatch.setattr(stream_run, "_session", lambda: "before")
    run = stream_run.StreamedRun(None)
    monkeypatch.setattr(stream_run, "_session", lambda: "after")
    monkeypatch.setattr(stream_run, "_present", lambda session: session == "after")
    monkeypatch.setattr(stream_run, "ALONE", 0.0)
    with pytest.raises(CancelledError, match="browser has gone"):
        run.check()
    run.watched_here()
    run.check()
