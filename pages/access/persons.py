"""Who a visitor is, by the provider's word, and what role they have."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from streamlit.runtime.scriptrunner import get_script_run_ctx

from grok.errors import PromptError
from pages.access import settings
from pages.access.settings import Access, Role

Standing = Literal["inside", "unknown", "ended", "not listed"]


@dataclass(frozen=True)
class Person:
    """Somebody who has signed in.

    Attributes:
        key: the provider and its name for the person, which never changes.
        address: of mail, in lower case; empty where the provider tells none that it has checked.
        since: seconds since 1970 at which the provider was asked.
    """

    key: str
    address: str
    since: float


def of_claims(claims: Mapping[str, Any]) -> Person | None:
    """The person of a provider's claims, or None where they name nobody."""
    subject = claims.get("sub") or claims.get("email")
    if not claims.get("is_logged_in") or not subject:
        return None
    checked = claims.get("email_verified", True) not in (False, "false")
    address = str(claims.get("email") or "").strip().lower() if checked else ""
    try:
        since = float(claims.get("iat") or 0)
    except (TypeError, ValueError):
        since = 0.0
    return Person(f"{claims.get('iss', '')} {subject}", address, since)


def has_session() -> bool:
    """True where a visitor's page is drawn in this thread, so that it can be known who that is."""
    return get_script_run_ctx(suppress_warning=True) is not None


def current() -> Person | None:
    """The person of this session, signed in however long ago."""
    context = get_script_run_ctx(suppress_warning=True)
    # What `st.user` holds, which looks for a file of secrets each time that it is asked.
    return None if context is None else of_claims(context.user_info)


def signed_in() -> Person | None:
    """The person of this session, whose sign-in still counts."""
    person = current()
    return None if person is None or has_ended(person, settings.current()) else person


def standing(person: Person | None, access: Access, now: float | None = None) -> Standing:
    """Whether somebody is let in, and if not, why."""
    if not access.asks:
        return "inside"
    if person is None:
        return "unknown"
    if has_ended(person, access, now):
        return "ended"
    if access.kind == "list" and person.address not in access.listed:
        return "not listed"
    return "inside"


def has_ended(person: Person, access: Access, now: float | None = None) -> bool:
    """True where a sign-in is too long ago to count, or in the future."""
    now = time.time() if now is None else now
    return not -300 <= now - person.since < 3600 * access.hours


def role_of(person: Person | None, access: Access, now: float | None = None) -> Role:
    """What somebody may do who is let in; on a machine of their own everything."""
    if not access.is_server:
        return "owner"
    unknown = person is None or has_ended(person, access, now)
    address = "" if person is None or unknown else person.address
    if address and address in access.owners:
        return "owner"
    if address and address in access.runners:
        return "runner"
    if address and address in access.viewers:
        return "viewer"
    return access.role


def role() -> Role:
    """The role of this session's person."""
    return role_of(current(), settings.current())


def check_may_run() -> None:
    """Refuse to run a prompt for somebody who may only look, or is no longer signed in.

    Raises:
        PromptError: it is so; the text says whom to ask.
    """
    access, person = settings.current(), current()
    if standing(person, access) != "inside":
        raise PromptError("Your sign-in has ended. Load the page again, and sign in.")
    if role_of(person, access) == "viewer":
        raise PromptError(MAY_LOOK + ask(access))


MAY_LOOK = "You may look at everything here, but not run prompts."


def ask(access: Access) -> str:
    """Whom to ask, as a sentence with a blank before it."""
    return f" Ask {access.contact}." if access.contact else " Ask whoever runs this server."
