"""A web process is killed in the middle of a run of many prompts, while another uses the folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from grok.experiments import collecting
from lens.errors import LensError
from lens.many_prompts.prompt_lists import PromptList
from lens.many_prompts.run_statistics import run_traces
from lens.many_prompts.run_store import RunStore
from pages.live.many import runs as many_runs
from pages.live.session.shared_models import ModelChoice

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "data" / "tiny3"
OWNER = "0" * 64
PART = 40  # tokens
PATIENCE = 300.0  # seconds that a busy machine may take

WEB = """
import sys, threading
sys.path.insert(0, {root!r})
from tests.faults import test_kills as here
here.collecting.PART_TOKENS = here.PART
here.begin(here.RunStore({folder!r}), slow=True)
print("begun", flush=True)
threading.Event().wait()
"""


def choice() -> ModelChoice:
    from grok.architectures.families import open_checkpoint

    return ModelChoice("Small", str(SMALL), open_checkpoint(SMALL).config, has_tokenizer=False)


def begin(store: RunStore, *, slow: bool = False) -> str:
    """The id of a run that goes on in a thread of this process, as the page starts it.

    Args:
        slow: it rests after each part, so that somebody can come between.
    """
    texts = tuple(" ".join(str(3 + (7 * i + j) % 250) for j in range(20)) for i in range(24))
    prompts = PromptList(texts, ("a", "b") * 12, "lines")
    if slow:
        written = collecting.write_manifest

        def rest(*arguments: object) -> None:
            written(*arguments)
            time.sleep(0.2)

        collecting.write_manifest = rest
    chosen = choice()
    writing = store.create(
        OWNER, prompts, model_name="Small", dtype="float32", n_experts=chosen.config.n_experts
    )
    many_runs._start(chosen, writing)
    return writing.run.id


def until(found, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)


def go_on(store: RunStore, run_id: str) -> None:
    many_runs._start(choice(), store.resume(run_id, OWNER))
    job = many_runs.jobs().get(run_id)
    assert job is None or job.wait(PATIENCE).ended


def test_what_was_finished_before_a_kill_is_kept_and_the_run_goes_on_from_there(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(collecting, "PART_TOKENS", PART)
    store = RunStore(tmp_path / "runs")
    code = WEB.format(root=str(ROOT), folder=str(store.folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as web:
        try:
            until(lambda: web.poll() is not None or any(store._all()), "the run is begun")
            (run,) = store.runs_of(OWNER)
            until(
                lambda: web.poll() is not None or len(run.routing_files) >= 3,
                "three parts are done",
            )
            seen = store.get(run.id)
            assert seen.status == "running" and seen.model_name == "Small"
            with pytest.raises(LensError, match="goes on already"):
                store.resume(run.id, OWNER)  # one writer, of two processes
            RunStore(store.folder).sweep()
        finally:
            web.send_signal(signal.SIGKILL)
    assert web.returncode == -signal.SIGKILL
    stopped = store.get(run.id)
    assert stopped.status == "stopped"
    kept = {file.name: file.stat().st_mtime_ns for file in stopped.routing_files}
    assert 3 <= len(kept) < 12
    go_on(store, run.id)
    done = store.get(run.id)
    assert (done.status, done.n_tokens, done.tokens_done) == ("finished", 480, 480)
    now = {file.name: file.stat().st_mtime_ns for file in done.routing_files}
    counted = sorted(kept)[:-1]  # the last may have been written and not yet counted
    assert len(now) == 12 and all(now[name] == kept[name] for name in counted)

    alone = begin(RunStore(tmp_path / "alone"))
    job = many_runs.jobs().get(alone)
    assert job is None or job.wait(PATIENCE).ended
    whole = run_traces(RunStore(tmp_path / "alone").get(alone))
    found = run_traces(done)
    for name in ("tokens", "experts", "counts", "label_of"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
