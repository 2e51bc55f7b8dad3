"""What one person may use of a server: prompts, tokens, runs kept, space for them.

    GROK_LENS_PROMPTS_A_MINUTE   default 30
    GROK_LENS_TOKENS_AN_HOUR     default 200000, of prompts as they are typed
    GROK_LENS_RUNS_A_PERSON      runs of many prompts that are kept, default 20
    GROK_LENS_MB_A_PERSON        space that these may take, default 1000
    GROK_LENS_LONG_NULLS         on: choices of draws that take minutes are offered

0 is no limit. All web processes that share the folder of notes count together (see `used`), and a
machine of one's own counts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pages.access import settings
from pages.access.settings import AccessError
from pages.access.used import Used

Option = TypeVar("Option", bound=float)
MB = 10**6
LONG_NULLS = "GROK_LENS_LONG_NULLS"
DRAWN = ("draws", "sets", "trees", "permutations")  # names of an address that `affordable` bounds


@dataclass(frozen=True)
class Limits:
    """Limits of one person; 0 is none."""

    prompts_a_minute: int
    tokens_an_hour: int
    runs: int
    megabytes: int

    @property
    def words(self) -> str:
        """What one may run, in a sentence; empty where all is allowed."""
        said = []
        if self.prompts_a_minute:
            said.append(f"{self.prompts_a_minute:,} prompts a minute")
        if self.tokens_an_hour:
            said.append(f"{self.tokens_an_hour:,} tokens an hour")
        return f"One person may run {' and '.join(said)} here." if said else ""


NONE = Limits(0, 0, 0, 0)


def current() -> Limits:
    """The limits of the environment; none where only this machine gets in.

    Raises:
        AccessError: one is no whole number.
    """
    if not settings.current().is_server:
        return NONE
    return Limits(
        _number("GROK_LENS_PROMPTS_A_MINUTE", 30),
        _number("GROK_LENS_TOKENS_AN_HOUR", 200_000),
        _number("GROK_LENS_RUNS_A_PERSON", 20),
        _number("GROK_LENS_MB_A_PERSON", 1000),
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or len(text) > 12:
        raise AccessError(f"{name}: found “{text}”; expected a whole number, 0 for no limit.")
    return int(text)


USED = Used()


def charge(person: str | None, tokens: int) -> None:
    """Count a prompt of somebody; None is nobody in particular, who has no limit.

    Raises:
        BusyError: it would be more than one may; the text says when to go on.
    """
    if person is not None:
        own = current()
        USED.charge(person, tokens, a_minute=own.prompts_a_minute, an_hour=own.tokens_an_hour)


def reason(name: str) -> str:
    """Why an address cannot have what it asks for under a name, after a comma."""
    if name in DRAWN and settings.current().is_server:
        return "which takes longer than this server allows"
    return "which this data does not have"


def affordable(options: Sequence[Option], default: Option) -> Sequence[Option]:
    """Of these numbers of draws those that a server offers to everybody who has an address."""
    allowed = os.environ.get(LONG_NULLS, "").strip().lower() in ("1", "on", "yes", "true")
    if allowed or not settings.current().is_server:
        return options
    return [one for one in options if one <= default]
