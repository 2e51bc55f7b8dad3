"""Edits as plain data (lists, numbers, texts), to be sent to a model in another process.

Only the interventions of `grok.interventions.kinds` can be sent; a function of one's own is code.
Infinite numbers are texts, as JSON has none: "inf", "-inf".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.errors import InterventionError
from grok.interventions import kinds
from grok.interventions.edits import Edits, Request, request
from grok.interventions.kinds import Intervention

Plain = Any  # what JSON can hold


def _numbers(value: Plain) -> Any:
    """An array of nested lists, whole numbers as int32 and all else as float32."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "iu":
            return array.astype(np.int32)
        return array.astype(np.float32)  # texts such as "-inf" too
    except (TypeError, ValueError) as error:
        raise InterventionError(
            "Expected numbers, or nested lists of them of one shape."
        ) from error


def _key(value: Plain) -> Any:
    return value if isinstance(value, int) else jnp.asarray(value, jnp.uint32)


# Name -> the function that makes it and how each of its arguments is read.
KINDS: Mapping[str, tuple[Callable[..., Intervention], tuple[Callable[[Plain], Any], ...]]] = {
    "ban": (kinds.ban, (_numbers,)),
    "include": (kinds.include, (_numbers,)),
    "force": (kinds.force, (_numbers,)),
    "temperature": (kinds.temperature, (_numbers,)),
    "set_top_k": (kinds.set_top_k, (int,)),
    "scale": (kinds.scale, (_numbers,)),
    "zero_out": (kinds.zero_out, ()),
    "add_vector": (kinds.add_vector, (_numbers, _numbers)),
    "replace_with": (kinds.replace_with, (_numbers,)),
    "clamp": (kinds.clamp, (_numbers, _numbers)),
    "noise": (kinds.noise, (_numbers, _key)),
}


def plain_edits(edits: Edits) -> list[dict[str, Plain]]:
    """Edits as plain data.

    Raises:
        InterventionError: one is a function of one's own, or refers to another value.
    """
    return [_plain_request(one) for one in edits.requests]


def edits_of(data: Sequence[Mapping[str, Plain]]) -> Edits:
    """The edits that plain data stands for.

    Raises:
        SiteError, InterventionError: it stands for none.
    """
    return Edits(tuple(_request(one) for one in data))


def _plain_request(one: Request) -> dict[str, Plain]:
    if one.references:
        raise InterventionError(
            f"{one}: it uses another value of the run, which cannot be sent. Run it in a program "
            "that loads the model itself."
        )
    found = {"site": one.site, **_plain_intervention(one.function)}
    if one.layers is not None:
        found["layers"] = list(one.layers)
    if isinstance(one.positions, slice):
        found["positions"] = {"start": one.positions.start, "stop": one.positions.stop}
    elif one.positions is not None:
        found["positions"] = list(one.positions)
    return found


def _plain_intervention(one: Intervention) -> dict[str, Plain]:
    if one.name == "compose":
        return {"kind": "compose", "parts": [_plain_intervention(part) for part in one.arguments]}
    name = one.name.partition("(")[0]
    arguments = [_plain_numbers(argument) for argument in one.arguments]
    if name == "set_top_k":
        arguments = [getattr(one.function, "k", 0)]
    data = {"kind": name, "arguments": arguments}
    # Somebody's own function may have the name of one that is known.
    if name not in KINDS or _intervention(data).function != one.function:
        raise InterventionError(
            f"{one.name}: a function of your own cannot be sent to a model in another process; "
            f"expected one of {', '.join(KINDS)}, compose."
        )
    return data


def _plain_numbers(value: Any) -> Plain:
    if isinstance(value, jax.Array) and value.dtype == jnp.bfloat16:
        value = value.astype(jnp.float32)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InterventionError("An array of the intervention holds no numbers; it cannot be sent.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        texts = [float(x) if np.isfinite(x) else str(x) for x in array.ravel()]
        return np.array(texts, object).reshape(array.shape).tolist()
    return array.tolist()


def _request(data: Mapping[str, Plain]) -> Request:
    positions = data.get("positions")
    if isinstance(positions, Mapping):
        positions = slice(positions.get("start"), positions.get("stop"))
    return request(data["site"], _intervention(data), data.get("layers"), positions)


def _intervention(data: Mapping[str, Plain]) -> Intervention:
    kind, arguments = str(data.get("kind")), data.get("arguments", [])
    if kind == "compose":
        return kinds.compose(*(_intervention(part) for part in data.get("parts", [])))
    if kind not in KINDS:
        raise InterventionError(
            f"kind is {kind!r:.40}; expected one of {', '.join(KINDS)}, compose."
        )
    make, reads = KINDS[kind]
    if len(arguments) > len(reads):
        raise InterventionError(
            f"{kind}: {len(arguments)} arguments; expected at most {len(reads)}."
        )
    try:
        return make(*(read(one) for read, one in zip(reads, arguments, strict=False)))
    except (TypeError, ValueError, OverflowError) as error:
        raise InterventionError(
            f"{kind}: its arguments don't fit; expected what grok.interventions.{kind} takes."
        ) from error
