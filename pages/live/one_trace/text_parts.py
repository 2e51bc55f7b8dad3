"""Given and generated tokens of one text: their loads as a whole, and the jump between them."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import figures
from lens.storage import csv_text
from lens.traces.continuation import PartLoads
from lens.words import p_value_text, percent
from pages.guide import tables
from pages.live.one_trace import routing_statistics
from pages.live.one_trace.routing_views import View

MOST_ROWS = 8


def has_both(view: View) -> bool:
    """True where the text has given and generated tokens."""
    return 0 < int(view.trace.prompt_length) < int(view.n_tokens)


def jump_words(found: PartLoads) -> str:
    """Whether loads jump where generation begins, in words with null and p."""
    jump = found.jump
    if jump is None:
        return (
            "Whether generation routes otherwise cannot be told from so short a text. "
            f"{found.no_jump}"
        )
    numbers = (
        f"{percent(jump.test.value.mean(), 1)} of the assignments move between the {jump.window} "
        f"tokens before the border and the {jump.window} after it, at the {jump.places:,} other "
        f"borders of the text {percent(jump.test.mean.mean(), 1)} on average "
        f"(p {p_value_text(jump.overall_p)} over all layers)"
    )
    if jump.overall_p <= 0.05:
        return f"**Loads jump where generation begins**, more than at other borders: {numbers}."
    return (
        "**No jump where generation begins** that could be told from the text's other borders: "
        f"{numbers}. So nothing here says that generation routes otherwise."
    )


def drift_words(found: PartLoads) -> str:
    """How far the parts differ as a whole, drift included, in words with null and p."""
    test = found.test
    verdict = (
        "other than the rest of the text gives"
        if found.overall_p <= 0.05
        else "not distinguishable from the rest of the text"
    )
    return (
        f"As a whole the loads of {found.n_prompt:,} given and {found.n_generated:,} generated "
        f"tokens differ by {percent(test.value.mean(), 1)} of the assignments, {verdict} (parts "
        f"of the same lengths elsewhere: {percent(test.mean.mean(), 1)} on average, "
        f"p {p_value_text(found.overall_p)} over all layers, q ≤ 0.05 in {test.found()} of "
        f"{len(test.q)}). Texts drift, and generated tokens stand later, so that says nothing "
        "of who wrote them."
    )


def show(view: View) -> None:
    """The jump at the border, then loads of both parts as a whole."""
    found = routing_statistics.part_loads(view.key, int(view.trace.prompt_length), view.trace)
    test = found.test
    st.markdown(jump_words(found))
    nulls = "" if found.jump is None else f" Null of the jump: {found.jump.test.method}."
    st.caption(f"{drift_words(found)} Null: {test.method}.{nulls}")
    left, right = st.columns(2, gap="large")
    rows, experts = np.indices(found.p.shape)
    units = [f"{view.labels[a]}·E{e}" for a, e in zip(rows.ravel(), experts.ravel(), strict=True)]
    columns = {
        "expert": units,
        "in the prompt": found.prompt.ravel(),
        "generated": found.generated.ravel(),
        "difference": found.difference.ravel(),
        "p": found.p.ravel(),
        "q": found.q.ravel(),
    }
    with left:
        view.figure(
            figures.chance_lines(
                {"prompt and generated": test}
                | ({} if found.jump is None else {"at the border": found.jump.test}),
                view.labels,
                title="Loads of prompt and generated tokens",
                unit="share of assignments that differ",
                width=420,
            ),
            "part_loads",
            stretch=True,
            table=lambda: csv_text.table_csv(columns),
        )
    with right:
        order = np.argsort(-np.abs(found.difference.ravel()), kind="stable")[:MOST_ROWS]
        st.caption(f"The {len(order)} largest differences of {len(units)}; q is over all of them")
        share = st.column_config.NumberColumn(format="percent")
        tables.show(
            {name: np.asarray(values)[order] for name, values in columns.items()},
            height="content",
            column_config={
                "in the prompt": share,
                "generated": share,
                "difference": share,
            },
        )
