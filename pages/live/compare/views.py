"""Two runs beside each other: both texts, the map of what differs, one cell of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import streamlit as st

from lens import figures
from lens.figures.prompt_pairs import routing as compared
from lens.prompt_pairs import paired_routing
from lens.prompt_pairs.alignment import KINDS
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.traces import routing
from pages.live.compare import paired_statistics as statistics
from pages.live.compare.run import Result
from pages.live.one_trace.routing_views import View
from pages.live.session import kept_traces as traces
from pages.shell import links, null_settings

SHOWN = {
    "kept": "Experts in common",
    "margin": "Margin",
    "lead": "Lead",
    "entropy": "Entropy",
    "top1_prob": "Largest gate",
}


class Beside:
    """Two runs with what their figures have in common."""

    def __init__(
        self, result: Result, routers: RouterSet, block: int, null: null_settings.NullSettings
    ) -> None:
        self.result = result
        self.runs = result.runs()
        self.labels = traces.labels(result.first, routers)
        self.first = View(result.first, routers, self.labels)
        self.second = View(result.second, routers, self.labels)
        self.block = block
        self.null = null

    @property
    def options(self) -> tuple[str, int, int, int]:
        """What identifies a test, but for its quantity."""
        return self.result.key, self.block, self.null.draws - 1, self.null.seed

    @cached_property
    def pair_names(self) -> list[str]:
        return compared.pair_names(self.first.pieces, self.second.pieces, self.result.alignment)

    @cached_property
    def kept(self) -> np.ndarray:
        """Share of experts in common [L, A]."""
        return paired_routing.kept_experts(self.runs)

    @cached_property
    def moved(self) -> np.ndarray:
        """Share of layers in which a pair has other experts [A]."""
        return np.where(np.isnan(self.kept[0]), np.nan, (self.kept < 1 - 1e-9).mean(axis=0))

    def values(self, what: str) -> np.ndarray:
        """What the map shows [L, A]."""
        return self.kept if what == "kept" else paired_routing.difference(self.runs, what)

    def difference(self, what: str) -> Any:
        key, block, draws, seed = self.options
        return statistics.difference(key, what, block, draws, seed, self.runs)

    def agreement(self) -> Any:
        return statistics.agreement(*self.options, self.runs)

    def loads(self) -> Any:
        return statistics.loads(*self.options, self.runs)

    def fading(self) -> Any:
        return statistics.fading(*self.options, self.runs)

    def expected(self) -> Any:
        return statistics.expected(*self.options, self.runs, self.result.first, self.result.second)

    def figure(self, chart: Any, key: str, **options: Any) -> None:
        """A figure whose files carry the hash of the model that made the runs."""
        self.first.figure(chart, f"compare_{key}", **options)


def pick_pair(mark: Mapping[str, Any]) -> None:
    """A clicked token becomes the pair shown."""
    links.choose(pair=int(mark["pair"]))


def pick_cell(mark: Mapping[str, Any]) -> None:
    """A clicked cell becomes the pair and the layer shown."""
    links.choose(pair=int(mark["pair"]), layer=int(mark["layer"]))


def pick_layer(mark: Mapping[str, Any]) -> None:
    """A clicked row becomes the layer shown."""
    links.choose(layer=int(mark["layer"]))


def selectors(beside: Beside) -> tuple[int, int, str]:
    """Pair, layer and value, by list and by keyboard."""
    most, first = 0, 0  # the token, and its layer, that differ most
    if np.isfinite(beside.moved).any():
        most = int(np.nanargmax(beside.moved))
        first = int(np.argmin(beside.kept[:, most]))
    one, two, three = st.columns([3, 2, 5], vertical_alignment="bottom")
    with one:
        pair = links.choice(
            "pair",
            "Token (first | second)",
            range(beside.result.alignment.n_pairs),
            most,
            shown=beside.pair_names.__getitem__,
        )
    with two:
        ids = [label.removeprefix("L") for label in beside.labels]
        layer = links.choice(
            "layer",
            "Layer",
            range(len(beside.labels)),
            first,
            text=ids.__getitem__,
            shown=beside.labels.__getitem__,
        )
    with three:
        what = links.choice(
            "differs",
            "Map shows",
            list(SHOWN),
            "kept",
            shown=SHOWN.__getitem__,
            widget="segments",
        )
    return pair, layer, what


def strip(beside: Beside, pair: int) -> None:
    """Both texts, token under token."""
    result = beside.result
    found = result.alignment

    def table() -> str:
        return csv_text.table_csv(
            {
                f"place in {result.names[0]}": found.first,
                f"place in {result.names[1]}": found.second,
                "token": np.asarray(KINDS)[found.kind],
                "piece": [beside.first.pieces[i] if i >= 0 else "" for i in found.first],
                "other piece": [beside.second.pieces[j] if j >= 0 else "" for j in found.second],
                "layers with other experts (share)": beside.moved,
            }
        )

    beside.figure(
        compared.aligned_strip(
            beside.first.pieces,
            beside.second.pieces,
            found,
            beside.moved,
            picked=pair,
            names=result.names,
        ),
        "strip",
        on_pick=pick_pair,
        table=table,
    )


def compared_map(beside: Beside, pair: int, layer: int, what: str) -> None:
    """One value for every pair of the same token in every layer."""
    values = beside.values(what)
    if not np.isfinite(values).any():
        st.info("The texts have no token in common, so there is nothing to lay side by side.")
        return
    beside.figure(
        compared.compared_map(
            values,
            what,
            beside.pair_names,
            beside.labels,
            picked=(pair, layer),
            runs=beside.result.names,
        ),
        "map",
        words=(what,),
        on_pick=pick_cell,
        table=lambda: csv_text.matrix_csv(
            values.T,
            beside.pair_names,
            beside.labels,
            f"{SHOWN[what]}, first less second" if what != "kept" else SHOWN[what],
        ),
    )


def cell(beside: Beside, pair: int, layer: int) -> None:
    """One token in one layer, in both runs."""
    found = beside.result.alignment
    sides = [
        (view, name, int(places[pair]))
        for view, name, places in (
            (beside.first, beside.result.names[0], found.first),
            (beside.second, beside.result.names[1], found.second),
        )
        if places[pair] >= 0
    ]
    label = beside.labels[layer]
    words = []
    for view, name, at in sides:
        trace = view.trace
        experts = [int(e) for e in trace.experts[layer, at] if e >= 0]
        margin = routing.margin(trace)[layer, at] if view.top_k < view.n_experts else np.nan
        units = " and ".join(f"**{label}·E{e}**" for e in experts)
        words.append(
            f"“{figures.visible(view.pieces[at])}” in {name}, place {at}: {units}, margin "
            f"{margin:.3f} logits"
        )
    st.markdown("; ".join(words) + ".")
    for column, (view, name, at) in zip(st.columns(2, gap="large"), sides, strict=False):
        with column:
            st.caption(name.capitalize())
            probs = view.trace.router_probs[layer, at]
            experts = [int(e) for e in view.trace.experts[layer, at] if e >= 0]
            beside.figure(
                figures.cell_probabilities(probs, experts, label=label, piece=view.pieces[at]),
                f"cell_{beside.result.names.index(name)}",
                words=(label, f"token{at}"),
                table=lambda probs=probs, experts=experts: csv_text.table_csv(  # type: ignore[misc]
                    {
                        "expert": np.arange(len(probs)),
                        "gate (probability)": probs,
                        "chosen": np.isin(np.arange(len(probs)), experts),
                    }
                ),
            )
