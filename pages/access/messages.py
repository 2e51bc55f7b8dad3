"""Errors as they are shown: as text, and on a server without the folders of its disk."""

from __future__ import annotations

import re

from lens.escaping import as_markdown
from pages.access import settings

# From the root or the home folder; of an address of the web it takes nothing.
ABSOLUTE = re.compile(r"(?<![\w:/.~-])~?/[^\s'\"“”‘’,;:()\[\]<>|]+")


def told(error: object) -> str:
    """What an error says, as Markdown that shows it as it is."""
    text = str(error)
    return as_markdown(without_folders(text) if settings.current().is_server else text)


def without_folders(text: str) -> str:
    """A text with the last part of each path from the root, in the place of all of it."""
    return ABSOLUTE.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    end = "" if path[-1] not in ".!?…" else path[-1]
    name = path.rstrip(".!?…/").rpartition("/")[2]
    return f"…/{name}{end}" if name else path
