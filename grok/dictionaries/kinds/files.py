"""Folders of dictionaries: `dictionary.safetensors` and `dictionary.json`.

Both are data that is read and checked, never code that runs. The JSON holds the hash of the other,
so a folder is complete when the two fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import save

from grok.checkpoints.safetensors import FileRanges, parse_json, read_header, read_tensor
from grok.dictionaries.kinds.design import Activation, Design, from_values
from grok.dictionaries.kinds.dictionary import Dictionary, param_shapes
from grok.errors import CheckpointError, GrokError
from grok.files import write_whole

FORMAT_VERSION = 1
TENSORS, TEXT = "dictionary.safetensors", "dictionary.json"
STORED = ("float32", "float16")
MOST_TEXT = 16 * 2**20


def save_dictionary(folder: str | Path, dictionary: Dictionary, stored: str = "float32") -> Path:
    """Writes a dictionary into a folder; an older one there stays until the new one is whole.

    Args:
        folder: of its files.
        dictionary: to be written.
        stored: "float32", or "float16" for half the bytes.

    Raises:
        GrokError: it cannot be written, or not in float16.
    """
    if stored not in STORED:
        raise GrokError(f"stored is {stored!r:.40}; expected {' or '.join(STORED)}.")
    folder = Path(folder)
    arrays = {}
    for name, value in flat(dictionary.params).items():
        with np.errstate(over="ignore"):
            narrow = np.ascontiguousarray(value, stored)
        if not np.isfinite(narrow).all():
            raise GrokError(
                f"{folder}: {name} has values that {stored} cannot hold; nothing saved."
            )
        arrays[name] = narrow
    content = save(arrays)
    text = {
        "format_version": FORMAT_VERSION,
        "design": asdict(dictionary.design),
        "activation": _rule(dictionary.activation),
        "stored": stored,
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
        "facts": dict(dictionary.facts),
    }

    def both(file: IO[bytes]) -> None:
        # The tensors have their room on the disk before the text takes the place of an older one.
        file.write(content)
        file.flush()
        write_whole(folder / TEXT, json.dumps(text, indent=1).encode())

    try:
        write_whole(folder / TENSORS, both)
    except OSError as error:
        raise GrokError(f"{folder}: the dictionary was not saved ({error.strerror}).") from error
    return folder


def tensors_sha256(folder: str | Path) -> str:
    """The hash of a dictionary's arrays, which databases of its features name it by.

    Raises:
        GrokError: the folder holds no dictionary.
    """
    found = _text(Path(folder) / TEXT).get("tensors_sha256")
    if not isinstance(found, str):
        raise CheckpointError(f"{Path(folder) / TEXT}: it has no tensors_sha256. Copy it again.")
    return found


def load_dictionary(folder: str | Path) -> Dictionary:
    """The dictionary of a folder, in float32; nothing in it is executed.

    Raises:
        GrokError: a file is missing, cut, changed, or says what no dictionary is.
    """
    folder = Path(folder)
    text = _text(folder / TEXT)
    if text.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / TEXT}: format {text.get('format_version')!r:.20}; this version reads "
            f"{FORMAT_VERSION}. Train or convert it again."
        )
    design = from_values(Design, _object(text, "design", folder), f"{folder / TEXT}: design")
    rule = from_values(Activation, _object(text, "activation", folder), f"{folder}: activation")
    if rule.function == "batch_topk":
        raise CheckpointError(
            f"{folder / TEXT}: batch_topk depends on a batch; expected jumprelu with thresholds."
        )
    source = FileRanges(folder / TENSORS)
    arrays = {}
    found, expected = read_header(source), param_shapes(design, rule)
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise CheckpointError(
            f"{folder / TENSORS}: its tensors are not those of this {design.kind}: {odd[0]!r:.60} "
            f"is {'missing' if odd[0] in expected else 'not expected'}."
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise CheckpointError(
                f"{folder / TENSORS}: {name} has shape {found[name].shape}; expected {shape}."
            )
    digest = hashlib.sha256(source.read(0, source.size)).hexdigest()
    if digest != text.get("tensors_sha256"):
        raise CheckpointError(
            f"{folder / TENSORS}: not the file that {TEXT} was written for. Copy both again."
        )
    for name in expected:
        arrays[name] = read_tensor(source, name, found[name])
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{folder / TENSORS}: {name} is not finite.")
    return Dictionary(design, rule, nested(arrays), _object(text, "facts", folder))


def _rule(activation: Activation) -> dict[str, Any]:
    return {"function": activation.function, "k": activation.k, "pooled": activation.pooled}


def _text(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_TEXT:
            raise CheckpointError(f"{file}: larger than {MOST_TEXT:,} bytes.")
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: no dictionary ({error.strerror}).") from error
    return parse_json(content, str(file))


def _object(text: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    value = text.get(name)
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder / TEXT}: {name} is {type(value).__name__}; expected {{…}}.")
    return value


def flat(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by flat names; lists become `encoder.0`, `encoder.1` and so on."""
    out: dict[str, np.ndarray] = {}
    for name, value in params.items():
        if isinstance(value, (list, tuple)):
            out |= {f"{name}.{i}": np.asarray(one) for i, one in enumerate(value)}
        else:
            out[name] = np.asarray(value)
    return out


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The opposite of `flat`."""
    out: dict[str, Any] = {}
    lists: dict[str, dict[int, np.ndarray]] = {}
    for name, value in arrays.items():
        stem, _, index = name.partition(".")
        if index:
            lists.setdefault(stem, {})[int(index)] = value
        else:
            out[name] = value
    return out | {stem: [own[i] for i in sorted(own)] for stem, own in lists.items()}
