"""Figures of one trace: token strip, map, cell, load, co-selection, order, paths."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Unpack

import altair as alt
import numpy as np
import streamlit as st

from lens import figures
from lens.chosen_by import ChosenBy, chosen_by
from lens.errors import LensError
from lens.figures.traces.token_maps import experts_text, token_domain
from lens.prompt_pairs.agreement import Agreement
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import routers as router_tables
from lens.tables import traces as trace_tables
from lens.traces import RoutedText, load_null, routing
from lens.words import counted, fixed, percent
from pages.live.one_trace import routing_statistics
from pages.shell import layout, links
from pages.shell.parts import then_drawn
from pages.shell.picks import pick_cell, pick_expert, pick_token

# Keys of the two parts of the page that are drawn alone.
CELL, STATISTICS = "inspect_cell", "inspect_statistics"

VALUES: dict[str, tuple[str, Callable[[RoutedText], np.ndarray]]] = {
    "margin": ("Margin", routing.margin),
    "top1": ("First choice", lambda trace: trace.experts[:, :, 0]),
    "entropy": ("Entropy", routing.entropy),
    "top1_prob": ("Largest gate", lambda trace: trace.gates[:, :, 0]),
    "lead": ("Lead", routing.lead),
}


class View:
    """A trace with what its figures have in common; `other` is a second one to compare with."""

    def __init__(
        self,
        trace: RoutedText,
        routers: RouterSet,
        labels: list[str],
        other: RoutedText | None = None,
    ) -> None:
        self.trace = trace
        self.other = other
        self.routers = routers
        self.labels = labels
        self.pieces = [str(piece) for piece in trace.pieces]
        self.n_layers, self.n_tokens, self.n_experts = trace.router_logits.shape
        self.top_k = trace.experts.shape[2]

    @cached_property
    def key(self) -> str:
        """Hash of the trace, for what is computed once."""
        return routing_statistics.trace_key(self.trace)

    @cached_property
    def chosen_by(self) -> ChosenBy:
        """What the router gives and the experts are chosen by, in words."""
        return chosen_by(self.trace)

    @cached_property
    def agreement(self) -> Agreement | None:
        """Experts shared with the second text; None where the two cannot be aligned."""
        if self.other is None:
            return None
        key = routing_statistics.trace_key(self.other)
        try:
            return routing_statistics.agreement(self.key, key, self.trace, self.other)
        except LensError:
            return None

    def figure(
        self, chart: alt.TopLevelMixin, key: str, **options: Unpack[layout.FigureOptions]
    ) -> None:
        """A figure whose files carry the hash of the model that made the trace."""
        layout.figure(chart, key, layout.of_model(self.trace.model_sha256), **options)

    def even(self) -> float:
        """Share of each expert when all are used alike."""
        return 1 / float(self.n_experts)


def telling_cell(view: View, place: tuple[int, int] | None) -> tuple[int, int]:
    """The token and layer that are looked at first: of what was found, the surest word.

    Args:
        view: the trace.
        place: layer and expert of the finding; None where it is of none.
    """
    words = np.array([any(c.isalnum() for c in piece) for piece in view.pieces])
    given = np.arange(view.n_tokens) < max(int(view.trace.prompt_length), 1)
    open_to = words & given if (words & given).any() else given
    if place is None:
        return int(np.flatnonzero(open_to)[-1]), 0
    gates = view.trace.router_probs[place[0], :, place[1]]
    return int(np.argmax(np.where(open_to, gates, -1))), place[0]


def selectors(view: View, place: tuple[int, int] | None = None) -> tuple[int, int, str]:
    """Token, layer and value, by list and by keyboard; see `telling_cell` for the first ones."""
    first_token, first_layer = telling_cell(view, place)
    first, second, third = st.columns([3, 2, 5], vertical_alignment="bottom")
    with first:
        token = links.choice(
            "token",
            "Token",
            range(view.n_tokens),
            first_token,
            shown=lambda t: f"{t} · {figures.visible(view.pieces[t])}",
        )
    with second:
        layer = layout.layer_choice(view.labels, default=first_layer)
    names = {name: words for name, (words, _) in VALUES.items()}
    if view.agreement is not None:
        names["agreement"] = "Agreement"
    with third:
        what = links.segments(
            "what",
            "Map shows",
            list(names),
            "margin",
            shown=names.__getitem__,
        )
    return token, layer, what


def strip(view: View, token: int, layer: int, what: str) -> None:
    """The text as tokens with their experts in the chosen layer, in the map's colours."""
    experts = view.trace.experts[layer]
    values = map_values(view, what)
    colours = None
    if what != "top1":
        known = view.chosen_by.quantity(what)
        domain = token_domain(values, known, view.n_experts)
        colours = figures.StripColours(values[layer], known, view.labels[layer], domain)
    view.figure(
        figures.token_strip(
            view.pieces,
            colours,
            experts=experts,
            picked=token,
            prompt_length=view.trace.prompt_length,
            width=880,
        ),
        "token_strip",
        on_pick=pick_token,
        table=lambda: csv_text.table_csv(
            {
                "token": np.arange(view.n_tokens),
                "piece": view.pieces,
                f"experts in {view.labels[layer]}": experts_text(experts),
                f"{what} in {view.labels[layer]}": values[layer],
            }
        ),
    )


def map_values(view: View, what: str) -> np.ndarray:
    """Values of the map [L, T]."""
    if what == "agreement" and view.agreement is not None:
        return view.agreement.shared
    return VALUES[what][1](view.trace)


def agreement_note(view: View) -> None:
    """Experts that two texts share, beside tokens paired at random, in words."""
    found = view.agreement
    if found is None:
        return
    start = (
        " Left out of the test: the first "
        f"{counted(found.common_start, 'token')}, the same in both."
        if found.common_start
        else ""
    )
    if found.test is None:
        st.caption(
            f"{found.compared} aligned tokens after the first change: too few for a test.{start}"
        )
        return
    test = found.test
    verdict = (
        f"more than by chance in **{test.found()} of {view.n_layers}** layers (q ≤ 0.05)"
        if test.found()
        else "not distinguishable from chance in any layer"
    )
    st.markdown(
        f"The two texts' {found.compared} aligned tokens share "
        f"{percent(test.value.mean())} of their experts, {verdict}; paired at random "
        f"{percent(test.mean.mean())}, even choices {percent(found.even)}. Null: "
        f"{test.method}, seed {test.seed}.{start}"
    )


def token_map(view: View, token: int, layer: int, what: str) -> None:
    """One value for every token in every layer."""
    values = map_values(view, what)
    view.figure(
        figures.token_layer_map(
            values,
            view.chosen_by.quantity(what),
            view.pieces,
            view.labels,
            (token, layer),
            prompt_length=view.trace.prompt_length,
            n_experts=view.n_experts,
            experts=view.trace.experts,
        ),
        "token_layer_map",
        words=(what,),
        on_pick=pick_cell,
        table=lambda: router_tables.token_layer_csv(values, what, view.pieces, view.labels),
    )


def load(view: View, layer: int) -> None:
    """Each expert's share of the assignments with its interval, against the chance band."""
    share = routing.load(view.trace)
    low, high = routing.load_interval(view.n_tokens, view.top_k, view.n_experts)
    least, most = load_null.share_interval(view.trace)
    even = view.even()
    apart = (least > even) | (most < even)
    worth = view.n_tokens / load_null.choice_times(view.trace)
    st.markdown(
        f"Even use, {percent(even, 1)}, lies outside the interval of "
        f"**{np.count_nonzero(apart)} of {share.size}** experts, in "
        f"{np.count_nonzero(apart.any(axis=1))} of {view.n_layers} layers; by chance in about "
        f"{fixed(0.05 * view.n_layers, 1)}. Intervals (Clopper–Pearson) hold together for each "
        f"layer at 95\u00a0%. Neighbours choose alike, so the {view.n_tokens:,} tokens count as "
        f"{fixed(worth.mean(), 0)} independent ones (mean over layers)."
    )
    view.figure(
        figures.load_by_layer(share, low, high, view.labels, interval=(least, most)),
        "load_by_layer",
        on_pick=then_drawn(pick_expert, CELL, STATISTICS),
        table=lambda: trace_tables.trace_load_csv(share, view.labels, low, high, least, most),
    )


def coselection(view: View, layer: int) -> None:
    """Pairs of experts of the chosen layer that are chosen together."""
    if view.top_k < 2:
        st.caption("Each token has one expert, so none are chosen together.")
        return
    found = routing.coselection(view.trace)
    test = routing_statistics.pair_test(view.key, view.trace)
    upper = np.triu(np.ones((view.n_experts, view.n_experts), dtype=bool), 1)
    asked = np.isfinite(test.q[:, upper])
    rare = np.nan_to_num(test.q[:, upper], nan=1) <= 0.05
    st.markdown(
        f"**{np.count_nonzero(rare)} of {np.count_nonzero(asked)}** pairs in all layers are chosen "
        f"together more or less often than their loads explain (q ≤ 0.05), "
        f"{np.count_nonzero(rare[layer])} of them in {view.labels[layer]}. Null: {test.method}; "
        "Benjamini–Hochberg over all pairs of all layers. Experts that one topic prefers are "
        "chosen together too."
        if rare.any()
        else f"Pairs of experts are not distinguishable from what their loads explain: none of "
        f"{np.count_nonzero(asked)} in all layers at q ≤ 0.05. Null: {test.method}."
    )
    view.figure(
        figures.coselection_matrix(
            found.lift[layer], found.counts[layer], label=view.labels[layer], q=test.q[layer]
        ),
        "coselection",
        words=(view.labels[layer],),
        table=lambda: trace_tables.pairs_csv(found, test, view.labels),
    )


def order(view: View) -> None:
    """Effective experts of each layer, and experts that neighbouring tokens share."""
    repeat, test = (
        routing.repeat_rate(view.trace),
        routing_statistics.repeat_test(view.key, view.trace),
    )
    tests = {"first choice": test.first, "any choice": test.any}
    found = ", ".join(
        f"{name} in **{one.found()} of {view.n_layers}** layers (mean "
        f"{percent(one.value.mean(), 1)}, shuffled {percent(one.mean.mean(), 1)})"
        for name, one in tests.items()
    )
    some = test.first.found() + test.any.found() > 0
    st.markdown(
        (
            f"Neighbouring tokens share experts otherwise than the same tokens in random order: "
            f"{found}."
            if some
            else "How often neighbouring tokens share experts is not distinguishable from the same "
            f"tokens in random order: {found}."
        )
        + f" Even, independent choices would repeat {percent(repeat.chance_first, 1)} and "
        f"{percent(repeat.chance_any, 1)}. Null: {test.first.method}, seed "
        f"{test.first.seed}."
    )
    use = routing_statistics.even_use(view.key, view.trace)
    left, right = st.columns(2, gap="large")
    with left:
        view.figure(
            figures.chance_lines(
                tests,
                view.labels,
                title="Neighbouring tokens with the same expert",
                unit="share of neighbouring tokens",
                width=420,
            ),
            "repeat_rate",
            stretch=True,
            table=lambda: trace_tables.chance_csv(tests, view.labels, "share of neighbours"),
        )
    with right:
        view.figure(
            figures.chance_lines(
                {"effective experts": use},
                view.labels,
                title="Effective number of experts",
                unit="exp(entropy of the load)",
                width=420,
            ),
            "effective_experts",
            stretch=True,
            table=lambda: trace_tables.chance_csv(
                {"effective experts": use}, view.labels, "experts"
            ),
        )
        st.caption(
            f"Below even use at q ≤ 0.05 in {use.found()} of {view.n_layers} layers. Even use "
            f"gives {fixed(use.mean.mean(), 2)} on average, not {view.n_experts} (95\u00a0%: "
            f"{fixed(use.low.mean(), 2)} to {fixed(use.high.mean(), 2)}, mean over layers): "
            f"{use.method}."
        )


def paths(view: View, layer: int) -> None:
    """Tokens that go from each first choice to each of the next layer."""
    if view.n_layers < 2:
        st.caption("The trace has one layer, so there are no paths.")
        return
    most = min(view.n_layers, 12)
    first = min(max(layer - most // 2, 0), view.n_layers - most)
    rows = list(range(first, first + most))
    found = routing.paths(view.trace, rows)
    step, source, target = (grid.ravel() for grid in np.indices(found.counts.shape))
    view.figure(
        figures.routing_paths(found.counts, [view.labels[row] for row in rows]),
        "routing_paths",
        table=lambda: csv_text.table_csv(
            {
                "from layer": [view.labels[rows[s]] for s in step],
                "from expert": source,
                "to expert": target,
                "tokens": found.counts.ravel(),
                "expected if independent": found.expected.ravel(),
            }
        ),
    )


def compare(view: View, other: View, what: str) -> None:
    """Two prompts, token by token from the start."""
    n = min(view.n_tokens, other.n_tokens)
    if (view.n_layers, view.n_experts) != (other.n_layers, other.n_experts):
        st.info("These traces come from models of different shapes; they cannot be aligned.")
        return
    what = what if what in VALUES else "margin"
    first, second = (VALUES[what][1](v.trace)[:, :n] for v in (view, other))
    difference = first != second if what == "top1" else first - second
    view.figure(
        figures.difference_map(
            difference.astype(float),
            view.chosen_by.quantity(what),
            view.pieces[:n],
            other.pieces[:n],
            view.labels,
        ),
        "compare_prompts",
        words=(what,),
        on_pick=then_drawn(pick_cell, CELL, STATISTICS),
        table=lambda: router_tables.token_layer_csv(
            difference.astype(float),
            what,
            [f"{a} | {b}" for a, b in zip(view.pieces[:n], other.pieces[:n], strict=True)],
            view.labels,
        ),
    )
