"""What one person may use: said before, kept, and over in time."""

from __future__ import annotations

import pytest

from grok.errors import BusyError
from pages.access import limits, settings
from pages.access.limits import Limits, Used
from pages.access.messages import told, without_folders
from pages.access.settings import AccessError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in settings.NAMES:
        monkeypatch.delenv(name, raising=False)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_prompts_of_a_minute_are_counted_for_each_person_and_come_back():
    clock = Clock()
    used, most = Used(clock), Limits(2, 0, 0, 0)
    used.charge("ann", 5, most)
    clock.now = 20
    used.charge("ann", 5, most)
    with pytest.raises(BusyError, match="2 prompts within a minute. Go on in 40 s") as refused:
        used.charge("ann", 5, most)
    assert refused.value.retry_after == pytest.approx(40)
    used.charge("bob", 5, most)
    clock.now = 61
    used.charge("ann", 5, most)
    with pytest.raises(BusyError):
        used.charge("ann", 5, most)


def test_tokens_of_an_hour_are_counted_and_one_prompt_may_be_too_many():
    clock = Clock()
    used, most = Used(clock), Limits(0, 100, 0, 0)
    with pytest.raises(BusyError, match="takes 101 tokens within an hour; one person may run 100"):
        used.charge("ann", 101, most)
    used.charge("ann", 60, most)
    clock.now = 600
    used.charge("ann", 40, most)
    with pytest.raises(BusyError, match="Go on in 50 minutes"):
        used.charge("ann", 1, most)
    clock.now = 3601
    used.charge("ann", 60, most)


def test_a_machine_of_ones_own_counts_nothing_and_a_server_says_what_it_counts(monkeypatch):
    assert limits.current() == limits.NONE and limits.current().words == ""
    monkeypatch.setenv("GROK_LENS_ACCESS", "open")
    assert "30 prompts a minute and 200,000 tokens an hour" in limits.current().words
    monkeypatch.setenv("GROK_LENS_TOKENS_AN_HOUR", "0")
    assert limits.current().words == "One person may run 30 prompts a minute here."
    monkeypatch.setenv("GROK_LENS_MB_A_PERSON", "lots")
    with pytest.raises(AccessError, match="found “lots”; expected a whole number"):
        limits.current()


def test_a_server_offers_no_draws_that_take_minutes_unless_it_says_so(monkeypatch):
    assert list(limits.affordable((100, 200, 1000), 200)) == [100, 200, 1000]
    monkeypatch.setenv("GROK_LENS_ACCESS", "open")
    assert list(limits.affordable((100, 200, 1000), 200)) == [100, 200]
    monkeypatch.setenv(limits.LONG_NULLS, "on")
    assert list(limits.affordable((100, 200, 1000), 200)) == [100, 200, 1000]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Notes cannot be kept in /srv/lens/notes: full.",
            "Notes cannot be kept in …/notes: full.",
        ),
        ("/home/a/ckpt-0/x.npz, 'key'", "…/x.npz, 'key'"),
        ("found “/data/models/m”; expected", "found “…/m”; expected"),
        ("See ~/models/big.", "See …/big."),
        ("xai-org/grok-1 at https://huggingface.co/a/b, 3/4 of it", None),
    ],
)
def test_messages_of_a_server_name_files_and_not_folders(monkeypatch, text, shown):
    assert without_folders(text) == (shown or text)
    assert "/srv" not in text or "/srv" in told(text)
    monkeypatch.setenv("GROK_LENS_ACCESS", "open")
    assert "/srv" not in told(text)
