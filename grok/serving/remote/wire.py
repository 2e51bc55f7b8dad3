"""Results as bytes: one `.npz` without objects, read without trust in who wrote it.

A routing trace alone is a trace file, which the explorer opens. Anything else is a tree of known
classes, written as JSON in the entry `tree`, with its arrays beside it.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from grok.errors import GrokError
from grok.trace import RoutingTrace

# Classes whose objects are sent, and where they are: imported when one is met.
KNOWN = {
    "RoutingTrace": "grok.trace",
    "Forward": "grok.engine.compiled",
    "Step": "grok.runner.results",
    "WhatIf": "grok.experiments.what_if",
    "LogitLens": "grok.experiments.logit_lens",
    "AblationSweep": "grok.experiments.ablation",
    "PatchSweep": "grok.experiments.patching",
}
TREE = "tree"
KIND = "$"  # in the tree, the key that says what an object stands for


class WireError(GrokError):
    """Bytes that are no result."""


def packed(value: Any) -> bytes:
    """A result as the bytes of an `.npz`."""
    arrays: dict[str, np.ndarray]
    if isinstance(value, RoutingTrace):
        arrays = value.arrays()
    else:
        arrays = {}
        tree = _tree(value, arrays)
        arrays[TREE] = np.array(json.dumps(tree))
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpacked(data: bytes) -> Any:
    """The result that bytes hold.

    Raises:
        WireError: they hold none.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if TREE not in arrays:
            return _trace(arrays)
        return _value(json.loads(str(arrays[TREE])), arrays)
    except Exception as error:  # zipfile, zlib, numpy and json raise a dozen kinds
        raise WireError(
            "The model's server sent a result that cannot be read. Use the same version of this "
            "program on both sides."
        ) from error


def _trace(arrays: Mapping[str, np.ndarray]) -> RoutingTrace:
    fields = [field.name for field in dataclasses.fields(RoutingTrace)]
    values: dict[str, Any] = {name: arrays[name] for name in fields if name in arrays}
    for name, kind in (("score", str), ("plain_gates", bool)):  # of some families alone
        if name in values:
            values[name] = kind(values[name])
    values["prompt_length"] = int(values["prompt_length"])
    values["model_sha256"] = str(values["model_sha256"])
    values["settings"] = json.loads(str(values["settings"]))
    return RoutingTrace(**values)


def _tree(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise WireError(f"An array of {value.dtype} cannot be sent.")
        arrays[f"a{len(arrays)}"] = value
        return {KIND: "array", "name": f"a{len(arrays) - 1}"}
    if isinstance(value, np.generic):
        return value.item()
    if name in KNOWN and type(value).__module__ == KNOWN[name]:
        fields = _fields(type(value))
        return {KIND: name, "fields": {n: _tree(getattr(value, n), arrays) for n in fields}}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {KIND: kind, "items": [_tree(one, arrays) for one in value]}
    if isinstance(value, Mapping):
        return {KIND: "dict", "fields": {str(n): _tree(one, arrays) for n, one in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise WireError(f"A {name} cannot be sent.")


def _value(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    kind = tree[KIND]
    if kind == "array":
        return arrays[tree["name"]]
    if kind in ("list", "tuple"):
        items = [_value(one, arrays) for one in tree["items"]]
        return items if kind == "list" else tuple(items)
    fields = {str(name): _value(one, arrays) for name, one in tree["fields"].items()}
    if kind == "dict":
        return fields
    return getattr(import_module(KNOWN[kind]), kind)(**fields)


def _fields(kind: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return tuple(kind._fields)
