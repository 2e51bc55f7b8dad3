"""The dictionaries that stand beside the bundled model, by their kind. No JAX here."""

from __future__ import annotations

from pathlib import Path

from grok.config import BUNDLED_DICTIONARIES
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.files import TEXT, load_dictionary
from grok.errors import GrokError


def bundled_kinds(folder: Path = BUNDLED_DICTIONARIES) -> list[str]:
    """The kinds that there are, such as "transcoder"; their card says how good they are."""
    return sorted(one.parent.name for one in folder.glob(f"*/{TEXT}"))


def bundled_dictionary(kind: str, folder: Path = BUNDLED_DICTIONARIES) -> Dictionary:
    """The bundled dictionary of a kind.

    Raises:
        GrokError: there is none.
    """
    kinds = bundled_kinds(folder)
    if kind not in kinds:
        raise GrokError(
            f"There is no bundled dictionary {kind!r:.40}; there are {', '.join(kinds) or 'none'}. "
            "Train one with `python -m grok.dictionaries.train`."
        )
    return load_dictionary(folder / kind)
