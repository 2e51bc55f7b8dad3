"""Tables whose heads explain themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from lens.glossary import help_of

Columns = Mapping[str, Sequence[object] | Any]
P_VALUES = ("p", "q")
"""Columns with two digits that count, where nothing else is said of them."""


def show(
    data: Columns | Sequence[Mapping[str, object]],
    *,
    column_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """A table without row numbers; each head says on hover what its words mean.

    Args:
        data: columns by their names, or rows.
        column_config: what is said of some columns; their help comes before the glossary's.
        options: of `st.dataframe`.
    """
    names = data if isinstance(data, Mapping) else data[0] if data else ()
    config: dict[Any, Any] = {
        str(name): explained(str(name), column_config or {}) for name in names
    }
    st.dataframe(data, hide_index=True, column_config=config, **options)


def explained(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a column with the meanings of the words in its head."""
    plain = (
        st.column_config.NumberColumn(format="%.2g")
        if name in P_VALUES
        else st.column_config.Column()
    )
    settings: dict[str, Any] = dict(given.get(name, plain))
    return settings | {"help": help_of(settings.get("help"), settings.get("label") or name)}
