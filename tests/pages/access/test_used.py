"""What somebody has run is counted once, by however many web processes, and is over in time."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from grok.errors import BusyError
from pages.access.used import Used

# A web process that counts so many prompts of ann, told to go by a line; it says how many it may.
PROCESS = """
import sys
from grok.errors import BusyError
from pages.access.used import Used
used, may = Used(sys.argv[1]), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    try:
        used.charge("ann", 7, a_minute=20, an_hour=1000)
        may += 1
    except BusyError:
        pass
print(may)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def test_prompts_of_a_minute_are_counted_for_each_person_and_come_back(tmp_path):
    clock = Clock()
    used, most = Used(tmp_path, clock), {"a_minute": 2, "an_hour": 0}
    used.charge("ann", 5, **most)
    clock.now += 20
    used.charge("ann", 5, **most)
    with pytest.raises(BusyError, match="2 prompts within a minute. Go on in 40 s") as refused:
        used.charge("ann", 5, **most)
    assert refused.value.retry_after == pytest.approx(40)
    used.charge("bob", 5, **most)
    clock.now += 41
    used.charge("ann", 5, **most)
    with pytest.raises(BusyError):
        used.charge("ann", 5, **most)


def test_tokens_of_an_hour_are_counted_and_one_prompt_may_be_too_many(tmp_path):
    clock = Clock()
    used, most = Used(tmp_path, clock), {"a_minute": 0, "an_hour": 100}
    with pytest.raises(BusyError, match="takes 101 tokens within an hour; one person may run 100"):
        used.charge("ann", 101, **most)
    used.charge("ann", 60, **most)
    clock.now += 600
    used.charge("ann", 40, **most)
    with pytest.raises(BusyError, match="Go on in 50 min"):
        used.charge("ann", 1, **most)
    clock.now += 3001
    used.charge("ann", 60, **most)


def test_two_web_processes_count_one_persons_prompts_together(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    assert sum(int(one.communicate()[0]) for one in both) == 20
    with pytest.raises(BusyError):  # and so does one that is started after them
        Used(tmp_path).charge("ann", 7, a_minute=20, an_hour=1000)


def test_a_file_that_is_no_use_lets_nobody_run_without_end_and_a_damaged_one_is_begun_anew(
    tmp_path, caplog
):
    used, most = Used(tmp_path), {"a_minute": 1, "an_hour": 0}
    used.file.write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING):
        used.charge("ann", 5, **most)
    assert "counted by each process alone" in caplog.text
    used.charge("ann", 5, **most)
    assert Used(tmp_path).file.read_bytes().startswith(b"SQLite format 3")
    (tmp_path / "a file").touch()
    blocked = Used(tmp_path / "a file")
    blocked.charge("ann", 5, **most)
    with pytest.raises(BusyError):
        blocked.charge("ann", 5, **most)
