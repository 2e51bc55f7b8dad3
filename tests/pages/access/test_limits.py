"""What one person may use: said before, kept, and over in time."""

from __future__ import annotations

import pytest

from pages.access import limits, settings
from pages.access.messages import told, without_folders
from pages.access.settings import AccessError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in settings.NAMES:
        monkeypatch.delenv(name, raising=False)


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
