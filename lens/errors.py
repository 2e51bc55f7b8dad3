"""What went wrong, in words for the person who can do something about it."""

from __future__ import annotations


class LensError(Exception):
    """An expected failure whose text is fit for a reader.

    The text says where, what was found, what was expected and what to do next.
    Pages show it as it is; commands print it and exit with a non-zero code.
    Anything that is not a `LensError` is a defect and keeps its traceback.
    """
