"""How a value came about: the call that made it, noted beside it.

A function that is `remembered` notes for each of its results which function was called with
what. Whatever is made of such a result by another remembered function leads back to it, down to
the file that was opened. So a figure on a page knows how it was made, and the code that makes it
again (`lens.recipe.program`) cannot say anything else.

Results are told apart by their identity, and not kept alive.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

WRITTEN_OUT = 2000
"""Numbers of an array that a program writes out where it doesn't know how they were made."""
FILES = {
    "RouterSet": ("lens.routers.router_set", "load_routers", "routers.npz"),
    "Trace": ("lens.traces.trace", "load_trace", "trace.npz"),
    "RoutingTrace": ("lens.traces.trace", "load_trace", "trace.npz"),
}
"""What reads a file of what the program cannot make again, by the name of its type."""
DEEPEST = 2  # parts of parts of a result


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a function."""

    function: Callable[..., Any]
    args: tuple[Node, ...]
    kwargs: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a result: `suffix` is what stands behind it, as ".breadth" or "[3, :]"."""

    whole: Node
    suffix: str


@dataclass(frozen=True, eq=False)
class Plain:
    """A number, a text, or a collection of them, as it is."""

    value: Any


@dataclass(frozen=True, eq=False)
class Group:
    """A tuple, list or dictionary of such values; `keys` are a dictionary's."""

    kind: type
    members: tuple[Node, ...]
    keys: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class File:
    """A file that was opened, by its name alone."""

    name: str


@dataclass(frozen=True, eq=False)
class Given:
    """Something that nothing is known of but its type."""

    kind: type


Node = Call | Part | Plain | Group | File | Given

_made: dict[int, tuple[weakref.ref[Any], Node]] = {}  # by the identity of the result
_owners: dict[int, weakref.ref[Any]] = {}  # the array whose memory others are windows of
_inside: ContextVar[bool] = ContextVar("inside a remembered call", default=False)


def remembered(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, which from now on notes how each of its results was made.

    What it calls itself is not noted: its own call says it all.
    """

    @functools.wraps(function)
    def noting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if _inside.get():
            return function(*args, **kwargs)
        token = _inside.set(True)
        try:
            result = function(*args, **kwargs)
        finally:
            _inside.reset(token)
        note(result, noting, *args, **kwargs)
        return result

    return noting


def note(result: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Note that a result is what this call gives, where it was made in another way.

    Functions that are told of progress are left out of it.
    """
    call = Call(
        function,
        tuple(node_of(one) for one in args),
        tuple((name, node_of(one)) for name, one in kwargs.items() if not callable(one)),
    )
    _note(result, call, [*args, *kwargs.values()], 0)


def node_of(value: Any) -> Node:
    """How a value was made, as far as that is known."""
    known = _noted(value)
    if known is not None and not _lost(known):
        return known
    if isinstance(value, np.ndarray):
        window = _window(value)
        if window is not None and not _lost(window):
            return window
        if value.size <= WRITTEN_OUT and value.dtype.kind in "biufU":
            return Plain(value.copy())
    elif type(value).__name__ in FILES:
        return Given(type(value)) if known is None else known
    elif _is_plain(value):
        return Plain(value)
    elif isinstance(value, dict):
        return Group(dict, tuple(map(node_of, value.values())), tuple(value))
    elif isinstance(value, tuple | list):
        return Group(list if isinstance(value, list) else tuple, tuple(map(node_of, value)))
    elif hasattr(value, "read") and isinstance(getattr(value, "name", None), str):
        return File(Path(value.name).name)
    elif is_dataclass(value) and not isinstance(value, type):
        inside = [
            (one.name, node_of(getattr(value, one.name))) for one in fields(value) if one.init
        ]
        if not any(isinstance(node, Given) for _, node in inside):
            return Call(type(value), (), tuple(inside))
    return Given(type(value)) if known is None else known


def _lost(node: Node) -> bool:
    """True where something that a call was given can neither be made nor read from a file."""
    if isinstance(node, Given):
        return node.kind.__name__ not in FILES
    if isinstance(node, Call):
        return any(_lost(one) for one in (*node.args, *(one for _, one in node.kwargs)))
    if isinstance(node, Part):
        return _lost(node.whole)
    return isinstance(node, Group) and any(map(_lost, node.members))


def _note(value: Any, node: Node, args: list[Any], depth: int) -> None:
    if any(value is one for one in args) or isinstance(value, str | type):
        return
    if isinstance(value, tuple | list):
        for place, one in enumerate(value):
            _note(one, Part(node, f"[{place}]"), args, depth)
    number = id(value)
    try:
        reference = weakref.ref(value, functools.partial(_forget, _made, number))
    except TypeError:
        return
    if depth and _noted(value) is not None:
        return
    _made[number] = (reference, node)
    if isinstance(value, np.ndarray):
        owner = _owner(value)
        _owners[id(owner)] = weakref.ref(value, functools.partial(_forget, _owners, id(owner)))
    elif is_dataclass(value) and depth < DEEPEST:
        for name, part in _parts(value):
            _note(part, Part(node, f".{name}"), args, depth + 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(value):
        part = getattr(value, field.name)
        if isinstance(part, np.ndarray) or is_dataclass(part):
            yield field.name, part


def _forget(where: dict[int, Any], number: int, gone: weakref.ref[Any]) -> None:
    kept = where.get(number)
    if kept is gone or (isinstance(kept, tuple) and kept[0] is gone):
        where.pop(number, None)


def _noted(value: Any) -> Node | None:
    kept = _made.get(id(value))
    return kept[1] if kept is not None and kept[0]() is value else None


def _owner(array: np.ndarray) -> Any:
    return array if array.base is None else array.base


def _window(view: np.ndarray) -> Node | None:
    """A view of an array whose making is known, by its indices."""
    kept = _owners.get(id(_owner(view)))
    whole = kept() if kept is not None else None
    if whole is None or _owner(whole) is not _owner(view):
        return None
    index = _index(view, whole)
    node = _noted(whole)
    return None if index is None or node is None else Part(node, index)


def _index(view: np.ndarray, whole: np.ndarray) -> str | None:
    """What stands between the brackets, if a view is `whole[…]`, of numbers and ranges."""
    if view.dtype != whole.dtype or not whole.flags.c_contiguous:
        return None
    left = view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    if left < 0:
        return None
    axis, index, words = 0, [], []
    for stride, length in zip(whole.strides, whole.shape, strict=True):
        start, left = divmod(left, stride)
        kept = axis < view.ndim and view.strides[axis] == stride
        stop = start + (view.shape[axis] if kept else 1)
        if stop > length:
            return None
        index.append(slice(start, stop) if kept else start)
        everything = kept and (start, stop) == (0, length)
        words.append(":" if everything else f"{start}:{stop}" if kept else str(start))
        axis += kept
    same = axis == view.ndim and not left and whole[tuple(index)].strides == view.strides
    while words and words[-1] == ":" and len(words) > 1:
        words.pop()
    return f"[{', '.join(words)}]" if same else None


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float | str | Path | np.generic | range):
        return True
    if isinstance(value, tuple | list):
        return all(_is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(_is_plain(one) for pair in value.items() for one in pair)
    return (
        is_dataclass(value)
        and not isinstance(value, type)
        and all(_is_plain(getattr(value, field.name)) for field in fields(value))
    )
