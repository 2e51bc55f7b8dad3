"""What the environment says of who gets in, and what cannot hold."""

from __future__ import annotations

import pytest

from pages.access import persons, settings
from pages.access.settings import AccessError

NOW = 1_000_000.0
ANN = {
    "is_logged_in": True,
    "iss": "https://p",
    "sub": "7",
    "email": "Ann@Example.org",
    "email_verified": True,
    "iat": NOW - 60,
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in settings.NAMES:
        monkeypatch.delenv(name, raising=False)


def access(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(f"GROK_LENS_{name}", value)
    return settings.current()


@pytest.mark.parametrize("address", [None, "0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_without_a_word_the_app_stays_on_its_machine(monkeypatch, address):
    with pytest.raises(AccessError, match="GROK_LENS_ACCESS does not say"):
        settings.check_start(address)
    monkeypatch.setenv("GROK_LENS_ACCESS", "open")
    assert settings.check_start(address).is_server


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "unix:///a/b"])
def test_this_machines_own_addresses_need_no_word(address):
    assert not settings.check_start(address).is_server


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"ACCESS": "everyone"}, "found “everyone”; expected open, signed-in, list"),
        ({"ACCESS": "list"}, "nobody would get in"),
        ({"ACCESS": "list", "ACCESS_LIST": "a@b"}, "ACCESS_LIST: found “a@b”"),
        ({"OWNERS": "*"}, "OWNERS: found"),
        ({"ROLE": "owner"}, "expected runner or viewer"),
        ({"SIGN_IN_HOURS": "never"}, "expected hours"),
        ({"HUB_ALLOW": "https://x"}, "expected repositories"),
    ],
)
def test_a_setting_that_cannot_hold_says_what_was_expected(monkeypatch, values, match):
    with pytest.raises(AccessError, match=match):
        access(monkeypatch, **values)


def test_a_list_holds_addresses_and_whole_domains_and_no_more(monkeypatch):
    found = access(monkeypatch, ACCESS="list", ACCESS_LIST="Bob@b.org; @example.org, c.io").listed
    for one in ("bob@b.org", "ANN@example.org", "x@c.io"):
        assert one in found
    for one in ("eve@b.org", "ann@evil-example.org", "ann@example.org.evil.io", "", "example.org"):
        assert one not in found or one == "example.org"


@pytest.mark.parametrize(
    ("claims", "standing"),
    [
        ({}, "inside"),
        ({"is_logged_in": False}, "unknown"),
        ({"sub": "", "email": ""}, "unknown"),
        ({"email_verified": False}, "not listed"),
        ({"email": "eve@b.org"}, "not listed"),
        ({"iat": NOW - 13 * 3600}, "ended"),
        ({"iat": NOW + 3600}, "ended"),
        ({"iat": None}, "ended"),
        ({"iat": "soon"}, "ended"),
    ],
)
def test_who_is_let_in(monkeypatch, claims, standing):
    found = access(monkeypatch, ACCESS="list", ACCESS_LIST="@example.org")
    assert persons.standing(persons.of_claims(ANN | claims), found, NOW) == standing


def test_roles_come_from_lists_and_a_machine_of_ones_own_has_none(monkeypatch):
    ann = persons.of_claims(ANN)
    assert persons.role_of(None, settings.current()) == "owner"
    found = access(monkeypatch, ACCESS="signed-in", ROLE="viewer", RUNNERS="@example.org")
    assert persons.role_of(ann, found, NOW) == "runner"
    assert (
        persons.role_of(persons.of_claims(ANN | {"email_verified": False}), found, NOW) == "viewer"
    )
    found = access(monkeypatch, OWNERS="ann@example.org")
    assert persons.role_of(ann, found, NOW) == "owner"
    assert persons.role_of(None, found, NOW) == "viewer"
    assert persons.role_of(ann, found, NOW + 13 * 3600) == "viewer"
