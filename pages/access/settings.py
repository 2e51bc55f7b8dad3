"""Whom this server lets in, and what it allows them, as the environment says.

Each variable may stand in `.streamlit/secrets.toml` instead, above its first section.

    GROK_LENS_ACCESS        open | signed-in | list; without it only this machine gets in
    GROK_LENS_ACCESS_LIST   of "list": addresses and domains, as in "ann@a.org, @b.org"
    GROK_LENS_OWNERS        see the server's load, end runs, clear caches
    GROK_LENS_RUNNERS       may run prompts
    GROK_LENS_VIEWERS       may look
    GROK_LENS_ROLE          of all others: runner (default) | viewer
    GROK_LENS_SIGN_IN_HOURS after which one signs in again (default 12)
    GROK_LENS_CONTACT       whom to ask, as the refused read it
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from lens.errors import LensError
from lens.escaping import plain

Kind = Literal["here", "open", "signed-in", "list"]
Role = Literal["viewer", "runner", "owner"]

ACCESS, LIST = "GROK_LENS_ACCESS", "GROK_LENS_ACCESS_LIST"
OWNERS, RUNNERS, VIEWERS = "GROK_LENS_OWNERS", "GROK_LENS_RUNNERS", "GROK_LENS_VIEWERS"
ROLE, HOURS, CONTACT = "GROK_LENS_ROLE", "GROK_LENS_SIGN_IN_HOURS", "GROK_LENS_CONTACT"
HUB = "GROK_LENS_HUB_ALLOW"
NAMES = (ACCESS, LIST, OWNERS, RUNNERS, VIEWERS, ROLE, HOURS, CONTACT, HUB)
KINDS = ("open", "signed-in", "list")
ADDRESS = re.compile(r"[^@\s,;]+@[^@\s,;]+\.[^@\s,;]+")
DOMAIN = re.compile(r"@?([a-z0-9-]+\.)+[a-z0-9-]+")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class AccessError(LensError):
    """Something that this visitor may not do here, or a setting that cannot hold."""


@dataclass(frozen=True)
class People:
    """Addresses, and domains of which every address counts."""

    addresses: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()

    def __contains__(self, address: str) -> bool:
        one = address.strip().lower()
        return one in self.addresses or one.rpartition("@")[2] in self.domains

    def __bool__(self) -> bool:
        return bool(self.addresses or self.domains)


@dataclass(frozen=True)
class Access:
    """What the environment says; see the top of this file."""

    kind: Kind
    listed: People
    owners: People
    runners: People
    viewers: People
    role: Role
    hours: float
    contact: str
    repositories: tuple[str, ...]

    @property
    def is_server(self) -> bool:
        """True where others than this machine's own people get in."""
        return self.kind != "here"

    @property
    def asks(self) -> bool:
        """True where one has to sign in."""
        return self.kind in ("signed-in", "list")


def current() -> Access:
    """The settings of the environment.

    Raises:
        AccessError: one of them cannot be understood.
    """
    return _read(tuple(os.environ.get(name, "") for name in NAMES))


@lru_cache(maxsize=4)
def _read(values: tuple[str, ...]) -> Access:
    given: Mapping[str, str] = dict(zip(NAMES, (value.strip() for value in values), strict=True))
    kind = given[ACCESS].lower() or "here"
    if kind not in (*KINDS, "here"):
        raise AccessError(f"{ACCESS}: found “{kind}”; expected {', '.join(KINDS)}, or nothing.")
    role = given[ROLE].lower() or "runner"
    if role not in ("runner", "viewer"):
        raise AccessError(f"{ROLE}: found “{role}”; expected runner or viewer.")
    try:
        hours = float(given[HOURS] or 12)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= 720:
        raise AccessError(f"{HOURS}: found “{given[HOURS]}”; expected hours, up to 720.")
    listed = people(LIST, given[LIST])
    if kind == "list" and not listed:
        raise AccessError(
            f"{ACCESS} is list, and {LIST} is empty, so that nobody would get in. Name addresses "
            "and domains there, as in: ann@example.org, @example.com"
        )
    repositories = tuple(re.split(r"[\s,;]+", given[HUB])) if given[HUB] else ()
    for one in repositories:
        if not REPOSITORY.fullmatch(one):
            raise AccessError(f"{HUB}: found “{one}”; expected repositories, as in xai-org/grok-1.")
    return Access(
        cast(Kind, kind),
        listed,
        people(OWNERS, given[OWNERS]),
        people(RUNNERS, given[RUNNERS]),
        people(VIEWERS, given[VIEWERS]),
        cast(Role, role),
        hours,
        plain(given[CONTACT]),
        repositories,
    )


def people(name: str, text: str) -> People:
    """Addresses and domains between commas, semicolons or blanks; "@b.org" is a domain.

    Raises:
        AccessError: something among them is neither.
    """
    found = [one for one in re.split(r"[\s,;]+", text.strip().lower()) if one]
    for one in found:
        if not ADDRESS.fullmatch(one) and not DOMAIN.fullmatch(one):
            raise AccessError(
                f"{name}: found “{one}”; expected addresses and domains, as in: ann@example.org, "
                "@example.com"
            )
    addresses = frozenset(one for one in found if ADDRESS.fullmatch(one))
    return People(addresses, frozenset(one.lstrip("@") for one in found) - addresses)


def is_loopback(host: str | None) -> bool:
    """True for an address or a name that no other machine can reach; not for none at all."""
    if host is None:
        return False
    name = host.strip("[]").lower()
    if name == "localhost" or name.startswith("unix://"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_start(address: str | None) -> Access:
    """The settings, once they are known to hold for a server at this address.

    Args:
        address: that the server is to listen on; None for all.

    Raises:
        AccessError: others would reach it, and nothing says who may.
    """
    access = current()
    if not access.is_server and not is_loopback(address):
        raise AccessError(
            f"server.address: found {address or 'none, which means all'}, so that other machines "
            f"would reach this app, and {ACCESS} does not say whom to let in. Set it to signed-in "
            f"or list (docs/hosting.md says how), or to open, which lets in everybody. Or leave "
            "the address at 127.0.0.1."
        )
    return access
