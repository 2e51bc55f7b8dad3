"""Jobs in the background: progress, turns, limits, and every way to end."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from grok.errors import BusyError, GrokError
from grok.serving.jobs import Job, Jobs, patient_turn
from grok.serving.queue import FairQueue

ROOT = Path(__file__).resolve().parents[3]
SOON = 120.0


class Gate:
    """Work that tells its progress, then waits until it is let through."""

    def __init__(self) -> None:
        self.inside, self.open = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> None:
        job.progress(1, 4)
        self.inside.set()
        while not self.open.wait(0.01):
            job.check()
        job.progress(4, 4)


def test_a_job_tells_its_progress_and_ends():
    jobs, gate, told = Jobs(), Gate(), []
    job = jobs.start("a", gate, ended=told.append)
    assert gate.inside.wait(SOON)
    assert (job.state.status, job.state.done, job.state.total) == ("running", 1, 4)
    assert jobs.get("a") is job
    gate.open.set()
    state = job.wait(SOON)
    assert (state.status, state.done, state.ended) == ("done", 4, True)
    assert [one.status for one in told] == ["done"]
    assert jobs.get("a") is None


def test_a_cancelled_job_ends_where_it_tells_its_progress():
    jobs, gate, told = Jobs(), Gate(), []
    job = jobs.start("a", gate, ended=told.append)
    assert gate.inside.wait(SOON)
    job.cancel()
    assert job.wait(SOON).status == "cancelled"
    assert [one.status for one in told] == ["cancelled"]


def test_jobs_wait_in_the_order_they_came_and_leave_the_line_when_cancelled():
    jobs, gates = Jobs(at_once=1), [Gate() for _ in range(4)]
    started = [jobs.start(i, gate) for i, gate in enumerate(gates)]
    assert gates[0].inside.wait(SOON)
    assert [job.state.status for job in started] == ["running"] + ["waiting"] * 3
    assert [job.state.n_before for job in started] == [0, 1, 2, 3]
    started[1].cancel()
    assert started[1].wait(SOON).status == "cancelled"
    assert not gates[1].inside.is_set()
    assert [started[i].state.n_before for i in (2, 3)] == [1, 2]
    gates[0].open.set()
    assert gates[2].inside.wait(SOON)
    assert not gates[3].inside.is_set()
    gates[2].open.set()
    gates[3].open.set()
    assert started[3].wait(SOON).status == "done"


def test_as_many_run_at_once_as_are_allowed():
    jobs, gates = Jobs(at_once=2), [Gate() for _ in range(3)]
    started = [jobs.start(i, gate) for i, gate in enumerate(gates)]
    assert gates[0].inside.wait(SOON) and gates[1].inside.wait(SOON)
    assert started[2].state.status == "waiting"
    for gate in gates:
        gate.open.set()
    assert all(job.wait(SOON).status == "done" for job in started)


def test_too_many_jobs_are_refused_by_all_and_by_group_and_by_key():
    jobs, gate = Jobs(at_once=1, most=3, most_of_one=2), Gate()
    first = jobs.start("a", gate, group="me")
    with pytest.raises(BusyError, match="runs already"):
        jobs.start("a", gate, group="you")
    jobs.start("b", gate, group="me")
    with pytest.raises(BusyError, match="2 of your runs"):
        jobs.start("c", gate, group="me")
    last = jobs.start("c", gate, group="you")
    with pytest.raises(BusyError, match="3 runs go on or wait"):
        jobs.start("d", gate, group="they")
    gate.open.set()
    assert first.wait(SOON).ended and last.wait(SOON).ended
    assert jobs.start("a", gate, group="me").wait(SOON).status == "done"


def test_an_expected_error_is_the_jobs_and_a_defect_is_logged_without_its_text(caplog):
    jobs = Jobs()

    def refuse(job: Job) -> None:
        raise GrokError("the disk is full")

    def break_down(job: Job) -> None:
        raise ValueError("what somebody typed")

    state = jobs.start("a", refuse).wait(SOON)
    assert (state.status, str(state.error)) == ("failed", "the disk is full")
    assert caplog.text == ""
    state = jobs.start("b", break_down).wait(SOON)
    assert state.status == "failed"
    assert "ValueError" in caplog.text and "test_jobs.py" in caplog.text
    assert "typed" not in caplog.text


def test_a_mishap_after_a_job_does_not_keep_its_place():
    jobs = Jobs(at_once=1)

    def mishap(state) -> None:
        raise RuntimeError("no")

    assert jobs.start("a", lambda job: None, ended=mishap).wait(SOON).status == "done"
    assert jobs.start("a", lambda job: None).wait(SOON).status == "done"


def test_jobs_end_with_the_program_and_no_more_are_begun():
    jobs, gates = Jobs(at_once=1), [Gate(), Gate()]
    started = [jobs.start(i, gate) for i, gate in enumerate(gates)]
    assert gates[0].inside.wait(SOON)
    jobs.close()
    assert [job.state.status for job in started] == ["cancelled"] * 2
    with pytest.raises(BusyError, match="is ending"):
        jobs.start("late", gates[0])


def test_a_program_that_ends_with_work_under_way_ends_cleanly():
    code = (
        "import threading, time\nfrom grok.serving.jobs import Jobs\n"
        "on = threading.Event()\n"
        "def work(job):\n    job.progress(0, 1)\n    print('on', flush=True)\n    on.set()\n"
        "    while True:\n        time.sleep(0.01)\n        job.check()\n"
        "jobs = Jobs().close_at_exit()\n"
        "jobs.start('a', work, ended=lambda state: print(state.status, flush=True))\n"
        "on.wait(120)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["on", "cancelled"], "")


def test_a_patient_turn_outlasts_a_full_queue_and_holds_it_meanwhile():
    queue = FairQueue(most_waiting=0, timeout=0.05)
    tries, entered = [], threading.Event()
    holds = queue.turn()
    holds.__enter__()

    def wait() -> None:
        with patient_turn(queue, lambda: tries.append(1), pause=0.01):
            entered.set()
            assert queue.n_callers == 1

    waiting = threading.Thread(target=wait)
    waiting.start()
    while len(tries) < 3:
        assert not entered.wait(0.01)
    holds.__exit__(None, None, None)
    waiting.join(SOON)
    assert entered.is_set()
    assert queue.n_callers == 0


def test_a_wait_for_a_turn_ends_when_it_is_checked():
    queue = FairQueue(most_waiting=0, timeout=0.05)

    def stop() -> None:
        raise GrokError("cancelled")

    with queue.turn(), pytest.raises(GrokError, match="cancelled"):
        with patient_turn(queue, stop):
            pytest.fail("entered")
    with pytest.raises(BusyError, match="of the work itself"), patient_turn(queue, lambda: None):
        raise BusyError("of the work itself")
    assert queue.n_callers == 0
