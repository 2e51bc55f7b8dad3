"""The code that figures offer to copy, run in place of a paste."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from lens.figures.as_python import figure_program
from lens.figures.printing import Print


def made_again(code: str) -> alt.TopLevelMixin:
    """The chart that a program makes."""
    space: dict[str, Any] = {}
    exec(compile(code, "pasted", "exec"), space)
    return space["chart"]


def check(shown: Mapping[str, alt.TopLevelMixin], expected: set[str]) -> dict[str, str]:
    """The code of each figure, after it made the same figure again.

    Args:
        shown: figures by their keys.
        expected: keys that must be among them.
    """
    assert expected <= set(shown), expected - set(shown)
    codes = {
        key: figure_program(chart, "pdf", Print(), file=f"{key}.pdf")
        for key, chart in shown.items()
    }
    for key, code in codes.items():
        assert made_again(code).to_dict() == shown[key].to_dict(), key
    return codes
