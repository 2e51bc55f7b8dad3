"""Two runs beside each other: both texts, the map of differences, one cell of it."""

from __future__ import annotations

from functools import cached_property
from typing import Unpack

import altair as alt
import numpy as np
import streamlit as st

from lens import figures
from lens.escaping import as_markdown
from lens.figures.prompt_pairs import routing as routing_figures
from lens.prompt_pairs import paired_routing, paired_tests
from lens.prompt_pairs.alignment import KINDS
from lens.prompt_pairs.fading import Fading
from lens.prompt_pairs.next_token_change import NextTokenChange
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.traces import routing
from lens.words import fixed, listed
from pages.live.compare import paired_statistics
from pages.live.compare.run import Result
from pages.live.one_trace.cell_view import cell_figure
from pages.live.one_trace.routing_views import View
from pages.live.session import kept_traces
from pages.shell import layout, links, null_settings
from pages.shell.picks import Mark

SHOWN = {
    "kept": "Experts in common",
    "margin": "Margin",
    "lead": "Lead",
    "entropy": "Entropy",
    "top1_prob": "Largest gate",
}


class Comparison:
    """Two runs with what their figures have in common."""

    def __init__(
        self,
        result: Result,
        routers: RouterSet,
        block: int | None,
        null: null_settings.NullSettings,
    ) -> None:
        self.result = result
        self.runs = result.runs()
        self.labels = kept_traces.labels(result.first, routers)
        self.first = View(result.first, routers, self.labels)
        self.second = View(result.second, routers, self.labels)
        self.block = block
        self.null = null

    @property
    def options(self) -> tuple[str, int | None, int, int]:
        """Runs, block (None: by the rule), draws and seed: what identifies a test of a quantity."""
        return self.result.key, self.block, self.null.draws - 1, self.null.seed

    @cached_property
    def pair_names(self) -> list[str]:
        return routing_figures.pair_names(
            self.first.pieces, self.second.pieces, self.result.alignment
        )

    @cached_property
    def kept(self) -> np.ndarray:
        """Share of experts in common [L, A]."""
        return paired_routing.kept_experts(self.runs)

    @cached_property
    def moved(self) -> np.ndarray:
        """Share of layers in which a pair has other experts [A]."""
        return np.where(np.isnan(self.kept[0]), np.nan, (self.kept < 1 - 1e-9).mean(axis=0))

    def values(self, what: str) -> np.ndarray:
        """Values of the map [L, A]."""
        return self.kept if what == "kept" else paired_routing.difference(self.runs, what)

    def difference(self, what: str) -> paired_tests.DifferenceTest:
        key, block, draws, seed = self.options
        return paired_statistics.difference(key, what, block, draws, seed, self.runs)

    def agreement(self) -> paired_tests.AgreementTest:
        return paired_statistics.agreement(*self.options, self.runs)

    def loads(self) -> paired_tests.LoadDifference:
        return paired_statistics.loads(*self.options, self.runs)

    def fading(self) -> Fading:
        return paired_statistics.fading(*self.options, self.runs)

    def expected(self) -> NextTokenChange:
        return paired_statistics.expected(
            *self.options, self.runs, self.result.first, self.result.second
        )

    def figure(
        self, chart: alt.TopLevelMixin, key: str, **options: Unpack[layout.FigureOptions]
    ) -> None:
        """A figure whose files carry the hash of the model that made the runs."""
        self.first.figure(chart, f"compare_{key}", **options)


def pick_pair(mark: Mark) -> None:
    """A clicked token becomes the pair shown."""
    links.choose(pair=int(mark["pair"]))


def pick_cell(mark: Mark) -> None:
    """A clicked cell becomes the pair and the layer shown."""
    links.choose(pair=int(mark["pair"]), layer=int(mark["layer"]))


def selectors(comparison: Comparison) -> tuple[int, int, str]:
    """Pair, layer and value, by list and by keyboard."""
    most, first = 0, 0  # the token, and its layer, that differ most
    if np.isfinite(comparison.moved).any():
        most = int(np.nanargmax(comparison.moved))
        first = int(np.argmin(comparison.kept[:, most]))
    one, two, three = st.columns([3, 2, 5], vertical_alignment="bottom")
    with one:
        pair = links.choice(
            "pair",
            "Token (first | second)",
            range(comparison.result.alignment.n_pairs),
            most,
            shown=comparison.pair_names.__getitem__,
        )
    with two:
        layer = layout.layer_choice(comparison.labels, default=first)
    with three:
        what = links.segments(
            "differs",
            "Map shows",
            list(SHOWN),
            "kept",
            shown=SHOWN.__getitem__,
        )
    return pair, layer, what


def strip(comparison: Comparison, pair: int) -> None:
    """Both texts, token under token."""
    result = comparison.result
    found = result.alignment

    def table() -> str:
        return csv_text.table_csv(
            {
                f"place in {result.names[0]}": found.first,
                f"place in {result.names[1]}": found.second,
                "token": np.asarray(KINDS)[found.kind],
                "piece": [comparison.first.pieces[i] if i >= 0 else "" for i in found.first],
                "other piece": [
                    comparison.second.pieces[j] if j >= 0 else "" for j in found.second
                ],
                "layers with other experts (share)": comparison.moved,
            }
        )

    comparison.figure(
        routing_figures.aligned_strip(
            comparison.first.pieces,
            comparison.second.pieces,
            found,
            comparison.moved,
            picked=pair,
            names=result.names,
        ),
        "strip",
        on_pick=pick_pair,
        table=table,
    )


def difference_map(comparison: Comparison, pair: int, layer: int, what: str) -> None:
    """One value for every pair of the same token in every layer."""
    values = comparison.values(what)
    if not np.isfinite(values).any():
        st.info("The texts have no token in common, so there is nothing to lay side by side.")
        return
    comparison.figure(
        routing_figures.pair_map(
            values,
            comparison.first.chosen_by.quantity("top1_value" if what == "top1_prob" else what),
            comparison.pair_names,
            comparison.labels,
            picked=(pair, layer),
            runs=comparison.result.names,
        ),
        "map",
        words=(what,),
        on_pick=pick_cell,
        table=lambda: csv_text.matrix_csv(
            values.T,
            comparison.pair_names,
            comparison.labels,
            f"{SHOWN[what]}, first less second" if what != "kept" else SHOWN[what],
        ),
    )


def cell(comparison: Comparison, pair: int, layer: int) -> None:
    """One token in one layer, in both runs."""
    found = comparison.result.alignment
    sides = [
        (view, name, int(positions[pair]))
        for view, name, positions in (
            (comparison.first, comparison.result.names[0], found.first),
            (comparison.second, comparison.result.names[1], found.second),
        )
        if positions[pair] >= 0
    ]
    label = comparison.labels[layer]
    words = []
    for view, name, at in sides:
        trace = view.trace
        experts = [int(e) for e in trace.experts[layer, at] if e >= 0]
        margin = routing.margin(trace)[layer, at] if view.top_k < view.n_experts else np.nan
        closeness = view.chosen_by.margin(fixed(margin, 3))
        named = [f"**{'' if i else f'{label}·'}E{e}**" for i, e in enumerate(experts)]
        words.append(
            f"“{as_markdown(figures.visible(view.pieces[at]))}” in {name}, place {at}: "
            f"{listed(named or ['no expert'])}, margin {closeness}"
        )
    st.markdown("; ".join(words) + ".")
    for column, (view, name, at) in zip(st.columns(2, gap="large"), sides, strict=False):
        with column:
            st.caption(name.capitalize())
            probs = view.trace.router_probs[layer, at]
            experts = [int(e) for e in view.trace.experts[layer, at] if e >= 0]
            comparison.figure(
                cell_figure(view, layer, at),
                f"cell_{comparison.result.names.index(name)}",
                words=(label, f"token{at}"),
                stretch=True,
                table=lambda view=view, probs=probs, experts=experts: csv_text.table_csv(  # type: ignore[misc]
                    {
                        "expert": np.arange(len(probs)),
                        view.chosen_by.axis: probs,
                        "chosen": np.isin(np.arange(len(probs)), experts),
                    }
                ),
            )
