"""Information of token and position on the experts, margins, and the load that moments predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Unpack

import altair as alt
import numpy as np
import streamlit as st

from lens import cached, figures
from lens.errors import LensError
from lens.routers.router_set import RouterSet
from lens.stats.permutation_tests import AgainstChance
from lens.storage import csv_text
from lens.tables import traces as trace_tables
from lens.traces import RoutedText, margins
from lens.traces.information import Information
from lens.traces.logit_moments import Prediction
from lens.words import begun, fixed, p_value_text, percent
from pages.access.messages import told
from pages.live.one_trace import routing_statistics
from pages.live.one_trace.routing_views import View
from pages.shell import layout


def information(view: View) -> None:
    """Mutual information of token id and of position with the experts."""
    found = {"token id": routing_statistics.token_information(view.key, view.trace)}
    st.markdown(information_finding(found["token id"]))
    try:
        found["position"] = routing_statistics.position_information(view.key, view.trace)
        st.markdown(information_finding(found["position"]))
    except LensError as error:
        st.caption(told(error))
    information_figure(found, view.labels, view.figure)


def information_finding(found: Information) -> str:
    """Information of one label of tokens on the experts, in a sentence with its null."""
    test, n_layers = found.test, len(found.test.value)
    shares = found.share[np.isfinite(found.share)]
    some = test.found()
    size = f"mean {fixed(test.value.mean(), 3)} nats, by chance {fixed(test.mean.mean(), 3)}"
    if some:
        size += f", excess {fixed(test.excess.mean(), 3)}"
    if some and shares.size:
        size += f" ({percent(float(shares.mean()), 1)} of what there is to know)"
    name = begun(found.label)
    verdict = (
        f"tells of the expert in **{some} of {n_layers}** layers (q ≤ 0.05)"
        if some
        else "and expert: not distinguishable from chance in any layer"
    )
    note = f" {found.note}" if found.note else ""
    return f"**{name}** {verdict}: {size}. Null: {test.method}, seed {test.seed}.{note}"


class DrawFigure(Protocol):
    """A way to draw a figure, such as `View.figure`."""

    def __call__(
        self, chart: alt.TopLevelMixin, key: str, **options: Unpack[layout.FigureOptions]
    ) -> None: ...


def information_figure(
    found: dict[str, Information],
    labels: Sequence[str],
    figure: DrawFigure,
    key: str = "information",
) -> None:
    """The estimates of all layers with their bands."""
    tests = {name: one.test for name, one in found.items()}
    figure(
        figures.chance_lines(
            tests, labels, title="Information about the expert", unit="mutual information (nats)"
        ),
        key,
        table=lambda: trace_tables.information_csv(found, labels),
    )
    one = next(iter(found.values()))
    st.caption(
        f"Over the (token, choice) assignments of {one.n_tokens:,} tokens; {one.n_values:,} "
        f"different values, {one.n_repeated:,} tokens share theirs with another. H(expert) is "
        f"{fixed(one.entropy.mean(), 3)} nats on average; what fixes a token's choices would have "
        f"{fixed(one.most.mean(), 3)}."
    )


def margin_distribution(view: View, layer: int) -> None:
    """Margins of the choices, beside normal logits of the same covariance."""
    shape = routing_statistics.margin_shape(view.key, view.trace)
    test = shape.test
    some = test.found()
    middle = shape.levels.index(0.5)
    sizes = (
        f"median {fixed(np.mean(shape.quantiles[:, middle]), 3)} logits, normal "
        f"{fixed(np.mean(shape.normal[:, middle]), 3)}, mean over layers"
    )
    st.markdown(
        (
            f"Margins differ from those of normal logits in **{some} of {view.n_layers}** layers "
            f"(q ≤ 0.05): closer in {_count(test, below=True)}, wider in {_count(test)}; {sizes}."
            if some
            else "Margins are not distinguishable from those of normal logits with the same mean, "
            f"covariance and likeness of neighbours: {sizes}."
        )
        + f" Compared: median over spread; null: {test.method}, seed {test.seed}."
    )
    view.figure(
        figures.margin_quantiles(shape.quantiles, shape.normal, shape.levels, view.labels),
        "margin_quantiles",
        table=lambda: trace_tables.margins_csv(shape, view.labels),
    )
    edges, counts, expected = margins.margin_histogram(view.trace, layer)
    view.figure(
        figures.margin_histogram(edges, counts, expected, label=view.labels[layer]),
        "margin_histogram",
        words=(view.labels[layer],),
        table=lambda: csv_text.table_csv(
            {
                "margin from (logits)": edges[:-1],
                "to": edges[1:],
                "tokens": counts,
                "expected of normal logits": expected,
            }
        ),
    )


def _count(test: AgainstChance, *, below: bool = False) -> int:
    rare = np.nan_to_num(test.q, nan=1) <= 0.05
    side = test.value < test.mean if below else test.value >= test.mean
    return int(np.count_nonzero(rare & side))


def predicted_load(routers: RouterSet, trace: RoutedText, labels: list[str]) -> None:
    """Measured load against what the logits' moments and what the weights alone predict.

    For any page: draws sentences and figure. The weights' prediction is shown where the
    routers made the trace.
    """
    view = View(trace, routers, labels)
    own = trace.model_sha256 == routers.sha256 and routers.n_layers == view.n_layers
    isotropic = np.asarray(cached.breadth(routers)) if own else None
    found = routing_statistics.load_prediction(
        view.key, routers.key if own else "", trace, isotropic
    )
    lines = [prediction_line("the mean and covariance of this text's router logits", found.normal)]
    names = {"logits' mean and covariance": found.normal.load}
    if found.isotropic is not None:
        lines.append(prediction_line("the weights alone (isotropic prior)", found.isotropic))
        names["weights alone"] = found.isotropic.load
    st.markdown("\n".join(f"- {line}" for line in lines))
    st.caption(
        f"Mean absolute error of even use: {fixed(found.even_error, 4)}; of a perfect prediction, "
        "by "
        f"chance alone with {found.n_tokens:,} independent tokens: {fixed(found.noise_error, 4)}. "
        f"Null: experts of each layer relabelled, {found.draws:,} times, seed {found.seed}. Normal "
        f"logits: {found.method}."
    )
    note = f"normal logits: r {fixed(found.normal.correlation, 2)}"
    if found.isotropic is not None:
        note += f"; weights alone: r {fixed(found.isotropic.correlation, 2)}"
    else:
        st.caption("These routers did not make the trace, so their own prediction is not shown.")
    view.figure(
        figures.predicted_load(found.measured, names, labels, note=note),
        "predicted_load",
        table=lambda: trace_tables.predicted_load_csv(found, labels),
    )


def prediction_line(source: str, one: Prediction) -> str:
    """Correlation and error of one prediction, in a sentence with its null."""
    if np.isnan(one.correlation):
        return f"Predicted from {source}: every load is the same, so there is nothing to compare."
    low, high = one.null_correlation
    verdict = "" if one.p <= 0.05 else ", not distinguishable from chance"
    return (
        f"Predicted from {source}: correlation **{fixed(one.correlation, 2)}** (relabelled "
        f"{fixed(low, 2)} to {fixed(high, 2)}, p {p_value_text(one.p)}{verdict}), mean absolute "
        f"error {fixed(one.error, 4)} (relabelled {fixed(one.null_error, 4)})."
    )
