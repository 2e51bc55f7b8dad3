"""The `.npz` of values that a trace saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grok.errors import GrokError
from grok.files import write_whole
from grok.trace import RoutingTrace

FORMAT_VERSION = 1


class SavedTrace:
    """The values that `Tracing.save` wrote.

    Attributes:
        values: array [T, ...] of each site, by its full name.
        tokens: ids [T]; pieces: their pieces.
        prompt_length: tokens that were given.
        model_sha256: hash over the routers of the model.
        settings: of the run, interventions included.
    """

    def __init__(self, entries: Mapping[str, np.ndarray]) -> None:
        self.values = {
            name[len("site:") :]: array
            for name, array in entries.items()
            if name.startswith("site:")
        }
        self.tokens, self.pieces = entries["tokens"], entries["pieces"]
        self.prompt_length = int(entries["prompt_length"])
        self.model_sha256 = str(entries["model_sha256"])
        self.settings: dict[str, Any] = json.loads(str(entries["settings"]))


def write_saved(
    file: str | Path, routing: RoutingTrace, values: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes values with the tokens, model hash and settings of their run, whole or not at all.

    Args:
        file: in a folder that exists.
        routing: of the run.
        values: full names of sites and arrays [T, ...]; bfloat16 becomes float32, which holds it
            exactly.

    Raises:
        GrokError: the file cannot be written.
    """
    entries: dict[str, Any] = {
        "format_version": np.array(FORMAT_VERSION, np.int32),
        "tokens": routing.tokens.astype(np.int32),
        "pieces": routing.pieces.astype(np.str_),
        "prompt_length": np.array(routing.prompt_length, np.int32),
        "model_sha256": np.array(routing.model_sha256),
        "settings": np.array(json.dumps(routing.settings, sort_keys=True)),
    }
    for name, value in values:
        wide = value if value.dtype.kind in "iu" else value.astype(np.float32)
        entries[f"site:{name}"] = wide
    file = Path(file)
    if not file.parent.is_dir() or file.is_dir():
        raise GrokError(f"{file}: not a file in an existing folder; nothing was saved.")
    try:
        write_whole(file, lambda stream: np.savez_compressed(stream, **entries))
    except OSError as error:
        raise GrokError(f"{file}: nothing was saved ({error.strerror}).") from error


def load_saved(file: str | Path) -> SavedTrace:
    """The values that `Tracing.save` wrote; nothing in the file is executed.

    Raises:
        GrokError: the file cannot be read as one of these.
    """
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as entries:
            if int(entries["format_version"]) != FORMAT_VERSION:
                raise ValueError(f"format {entries['format_version']}")
            return SavedTrace({name: entries[name] for name in entries.files})
    except (
        Exception
    ) as error:  # zipfile, zlib, numpy and json raise a dozen kinds for damaged bytes
        raise GrokError(
            f"{file}: not a file of saved values ({type(error).__name__}); expected one that a "
            "trace's save(FILE) wrote. Save it again."
        ) from error
