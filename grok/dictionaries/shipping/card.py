"""The card of the dictionaries in a folder, written from their evaluations and from nothing else.

Every number in the text comes from the files, so the card cannot disagree with what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grok.dictionaries.evaluate import EVALUATION
from grok.dictionaries.kinds.bundled import bundled_kinds
from grok.dictionaries.kinds.files import TENSORS, TEXT, load_dictionary, tensors_sha256
from grok.dictionaries.shipping.sections import aim, sections
from grok.errors import GrokError
from grok.files import write_whole
from grok.training.card import markdown_table

README, RECORD = "README.md", "card.json"


def write_card(folder: str | Path) -> Path:
    """Writes README.md and card.json over all dictionaries of a folder; returns the former.

    Raises:
        GrokError: there is none, or one without an evaluation.
    """
    folder = Path(folder)
    kinds = bundled_kinds(folder)
    if not kinds:
        raise GrokError(f"{folder}: no dictionary; expected folders with {TEXT}.")
    records = {kind: record(folder / kind) for kind in kinds}
    text = json.dumps(records, indent=1, allow_nan=False)
    try:
        write_whole(folder / README, card_text(records).encode())
        write_whole(folder / RECORD, (text + "\n").encode())
    except OSError as error:
        raise GrokError(f"{folder}: the card was not written ({error.strerror}).") from error
    return folder / README


def record(folder: Path) -> dict[str, Any]:
    """What the card says of one dictionary: its facts, its evaluation, and whether it is any good.

    Raises:
        GrokError: files are missing, or the evaluation is of another dictionary.
    """
    dictionary = load_dictionary(folder)
    try:
        found = json.loads((folder / EVALUATION).read_text())
    except (OSError, ValueError) as error:
        raise GrokError(
            f"{folder / EVALUATION}: cannot be read ({error!s:.80}). Measure the dictionary with "
            "`python -m grok.dictionaries.ship`."
        ) from error
    settings = dictionary.facts.get("settings", {})
    return {
        "kind": dictionary.design.kind,
        "reads": list(dictionary.design.reads),
        "writes": list(dictionary.design.writes),
        "features": dictionary.design.features,
        "groups": len(dictionary.design.groups),
        "parameters": dictionary.design.n_parameters,
        "tokens": settings.get("training", {}).get("tokens"),
        "seed": dictionary.facts.get("seed"),
        "bytes": (folder / TENSORS).stat().st_size,
        "sha256": tensors_sha256(folder),
        "model_sha256": dictionary.facts.get("model_sha256"),
        "aim": aim(found),
        "evaluation": found,
    }


def card_text(records: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    parts = [OPENING, *_opening(records)]
    for kind, one in records.items():
        parts += [f"## {kind}", *sections(one["evaluation"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


OPENING = """\
# The bundled dictionaries

Learned sparse features of the bundled model; `bundled_dictionary(KIND)` of
`grok.dictionaries.kinds.bundled` gives one. All figures are of held-out text and of the files as
they are stored; `python -m grok.dictionaries.ship --card` writes this card from the
`evaluation.json` beside each of them. How to read them stands in `docs/dictionaries.md`.
"""


def _opening(records: Mapping[str, Any]) -> Iterator[str]:
    header = ("", "reads", "writes", "features", "parameters", "tokens", "seed", "bytes")
    yield markdown_table(
        header,
        [
            (
                kind,
                ", ".join(one["reads"]),
                ", ".join(one["writes"]),
                f"{one['groups']} x {one['features']:,}",
                f"{one['parameters']:,}",
                f"{one['tokens']:,}" if one["tokens"] else "",
                str(one["seed"]),
                f"{one['bytes']:,}",
            )
            for kind, one in records.items()
        ],
    )
    yield (
        "What they were made for: at most 0.25 of the variance left over (FVU) with 16 active "
        "features a layer, fewer than 10 % dead, and clearly less left over than as many principal "
        "axes or as many of the experts' own neurons leave."
    )
    names = list(dict.fromkeys(name for one in records.values() for name in one["aim"]))
    rows = [(name, *(one["aim"].get(name, "") for one in records.values())) for name in names]
    yield markdown_table(("", *records), rows)
