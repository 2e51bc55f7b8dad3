"""Given and generated tokens of one text: the loads of both, and the difference between them."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import figures
from lens.storage import csv_text
from lens.words import p_value_text, percent
from pages.live.one_trace import routing_statistics
from pages.live.one_trace.routing_views import View

MOST_ROWS = 8


def has_both(view: View) -> bool:
    """True where the text has given and generated tokens."""
    return 0 < int(view.trace.prompt_length) < int(view.n_tokens)


def show(view: View) -> None:
    """Loads of both parts, against parts of the same lengths elsewhere in the text."""
    found = routing_statistics.part_loads(view.key, int(view.trace.prompt_length), view.trace)
    test = found.test
    verdict = (
        f"more than parts elsewhere in the text in **{test.found()} of {view.n_layers}** layers "
        "(q ≤ 0.05)"
        if test.found()
        else "not distinguishable from parts elsewhere in the text in any layer"
    )
    st.markdown(
        f"The loads of {found.n_prompt} given and {found.n_generated} generated tokens differ by "
        f"{percent(test.value.mean(), 1)} of the assignments on average over layers, "
        f"{verdict}; turned elsewhere {percent(test.mean.mean(), 1)} (all layers together: "
        f"p {p_value_text(found.overall_p)}). Null: {test.method}. Texts drift, and generated "
        "tokens stand later: a difference is one of place and topic as much as of who wrote it."
    )
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
                {"prompt and generated": test},
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
        st.dataframe(
            {name: np.asarray(values)[order] for name, values in columns.items()},
            hide_index=True,
            height="content",
            column_config={
                "in the prompt": share,
                "generated": share,
                "difference": share,
                "p": st.column_config.NumberColumn(format="%.3f"),
                "q": st.column_config.NumberColumn(format="%.3f"),
            },
        )
