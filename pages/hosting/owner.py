"""Whose runs are listed: the person signed in, else the browser, by a key in a cookie.

The key is random and says nothing about anybody. Only its SHA-256 reaches the disk, so who
reads the runs' folder cannot claim them.
"""

from __future__ import annotations

import hashlib
import re
import secrets

import streamlit as st

from pages.access import persons
from pages.shell.session_keys import SessionKey, SessionValue

COOKIE = "grok_lens_owner"
YEAR = 365 * 24 * 3600
_KEY = re.compile(r"[A-Za-z0-9_-]{43}")
_KEPT = SessionValue[str](SessionKey.OWNER_KEY)
# {key} is a random token of letters, digits, "-" and "_".
_SCRIPT = """<script>(() => {{
  if (document.cookie.split("; ").some((one) => one.startsWith("{cookie}="))) return;
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = "{cookie}={key}; Path=/; Max-Age={age}; SameSite=Strict" + secure;
}})();</script>"""


def current() -> str:
    """SHA-256 of the owner's key, the same for all tabs of a browser once it is remembered."""
    person = persons.signed_in()
    if person is not None:
        return hashlib.sha256(f"person:{person.key}".encode()).hexdigest()
    return hashlib.sha256(f"browser:{_key()}".encode()).hexdigest()


def whose() -> str:
    """Who is meant by "alone", in words."""
    return "this browser" if persons.signed_in() is None else "you"


def remember() -> None:
    """Leave the key with the browser, for a year; call it once there is something to find again."""
    if persons.signed_in() is None and _cookie() is None:
        script = _SCRIPT.format(cookie=COOKIE, key=_key(), age=YEAR)
        st.html(script, unsafe_allow_javascript=True)


def _key() -> str:
    """The session's key: the cookie of its first draw, or a new one, kept for the session."""
    return _KEPT.kept(lambda: _cookie() or secrets.token_urlsafe(32))


def _cookie() -> str | None:
    value = st.context.cookies.get(COOKIE)
    return value if isinstance(value, str) and _KEY.fullmatch(value) else None
