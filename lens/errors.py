"""Errors in words for the person who can do something about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from grok.errors import GrokError


class LensError(Exception):
    """An expected failure whose text is fit for a reader.

    The text says where, what was found, what was expected and what to do next.
    Pages show it as it is; commands print it and exit with a non-zero code.
    Anything that is not a `LensError` is a defect and keeps its traceback.
    """


@contextmanager
def as_lens_error() -> Iterator[None]:
    """Turns what the readers of `grok` say of a file into a `LensError` of the same words.

    A context, or a decorator of a function that opens a model's files.
    """
    try:
        yield
    except GrokError as error:
        raise LensError(str(error)) from error
