"""Results as values that JSON holds, whatever dataclass they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def as_values(result: Any, without: Collection[str] = ("rows",)) -> Any:
    """A result as dicts, lists, numbers and texts.

    Numbers that are not finite become None, which JSON has and NaN and infinity are not.

    Args:
        result: a dataclass, a named tuple, arrays or plain values, nested in any way.
        without: names of fields to leave out; by default directions in the stream.
    """
    if hasattr(result, "_asdict"):
        result = result._asdict()
    elif is_dataclass(result):
        result = {field.name: getattr(result, field.name) for field in fields(result)}
    if isinstance(result, Mapping):
        return {str(k): as_values(v, without) for k, v in result.items() if k not in without}
    if isinstance(result, (list, tuple)):
        return [as_values(one, without) for one in result]
    if isinstance(result, (np.ndarray, np.generic)):
        return as_values(result.tolist(), without)
    if isinstance(result, float):
        return result if math.isfinite(result) else None
    return result
