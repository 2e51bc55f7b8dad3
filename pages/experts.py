"""Experts: how experts differ within a layer, and which are alike across layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.experts.chains import Chain
from lens.experts.measures import ExpertMeasures
from lens.routers.router_set import RouterSet
from lens.stats.chance import cosine_percentile
from lens.storage import csv_text
from lens.tables import routers as router_tables
from lens.traces import routing
from lens.words import percent
from pages.live.one_trace import routing_shape
from pages.live.session import kept_traces
from pages.shell import data_source, downloads, layout, links, null_settings
from pages.shell.null_settings import NullSettings
from pages.vocabulary import readout as vocabulary_readout

HOW_TO_READ = """
One cell is one expert of one layer, written L12·E3. **Numbers of experts carry no meaning across
layers**: a column of the map is no entity, only cells are.

- **Breadth**: the probability that a token is sent to the expert, `P(z_k among the top K)` with
  `z ~ N(0, W̃ᵀW̃)`, under an isotropic prior of the residual stream. It sums to K over a layer;
  chance is K / E. Unchanged by a scale per layer and by what all columns share. For top 1 or 2 of
  at most 16 experts by orthant probabilities, `P(k in the top 2) = Σ_{j≠k} P(z_k > z_m for all
  m ∉ {k, j}) − (E − 2)·P(k is first)`, else from a sample; the card says which. With a trace at
  hand the measured load stands beside it.
- **Norm**: `‖w̃_k‖₂`, in units of the weights. Logits grow with it.
- **Nearest elsewhere**: the largest cosine with an expert of another layer. Chance is the median
  of the largest of as many cosines of unrelated directions.
- **Variance** and **L1 / L2** are the classic measures; Gaussian weights give L1 / L2 = √(2d/π).
- **Load**: share of the (token, slot) assignments in the last trace; the even share is 1 / E.

The card lists the nearest experts of other layers. A percentile says where a cosine lies among
those of unrelated directions; the largest of n is expected near 100·(1 − 1/n). Matches are the
partners in the best one-to-one matching with the layer before and after.

**Chains.** Experts are followed from layer to layer by the matching that makes the sum of cosines
largest. A match is a link when unrelated layers, turned at random and matched the same way, rarely
give its cosine: q ≤ 0.05 over all links (Benjamini–Hochberg). A chain is born where no link leads
in and ends where none leads on. A very long column lends a little of its direction, reversed, to
all others once their mean is off; where it goes on, weak links of the others can beat chance too.

**Within a layer.** Unrelated columns less their mean have a cosine of −1 / (E − 1), give or take
1 / √d. Dots mark pairs that are other than that (two-sided, q ≤ 0.05 within the layer).
"""

MEASURES = {
    "breadth": "Breadth",
    "norm": "Norm",
    "max_similarity": "Nearest elsewhere",
    "variance": "Variance",
    "l1_l2": "L1 / L2",
    "load": "Load",
}
NEAREST = 8


def pick_expert(mark: Mapping[str, Any]) -> None:
    """A clicked cell becomes the expert shown."""
    links.choose(layer=int(mark["layer"]), expert=int(mark["expert"]))


def measured_load(routers: RouterSet) -> np.ndarray | None:
    """Load of every expert in the trace shown last, if these routers made it."""
    trace = kept_traces.shown()
    if trace is None or trace.model_sha256 != routers.sha256:
        return None
    return routing.load(trace)


def expert_map(
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    measure: str,
    view: str,
    picked: tuple[int, int],
) -> None:
    """One measure of all experts."""
    values = getattr(measures, measure) if measure != "load" or load is None else load
    chance = 1 / routers.n_experts if measure == "load" else measures.baselines.get(measure)
    labels = layout.layer_labels(routers)
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    layout.figure(
        figures.expert_map(values, labels, measure, chance, picked),
        "expert_map",
        routers,
        scale=0.92 if routers.n_layers <= 32 else 0.72,
        words=(measure, view),
        table=lambda: csv_text.matrix_csv(values, labels, names, "layer"),
        on_pick=pick_expert,
    )


def card(
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    view: str,
    layer: int,
    expert: int,
) -> None:
    """One expert: its numbers, its nearest experts, its matches in the neighbouring layers."""
    facts = [
        ("Breadth", f"{measures.breadth[layer, expert]:.3f}"),
        ("Norm", f"{measures.norm[layer, expert]:.3g}"),
        ("L1 / L2", f"{measures.l1_l2[layer, expert]:.3g}"),
    ]
    if load is not None:
        facts.append(("Load", percent(load[layer, expert], 1)))
    with st.container(horizontal=True, gap="small"):
        for name, value in facts:
            st.metric(name, value, width="content")
    st.caption(
        f"Chance: breadth {measures.baselines['breadth']:.3f}, "
        f"L1 / L2 {measures.baselines['l1_l2']:.3g}. Breadth {measures.breadth_method}."
    )
    nearest = cached.nearest_experts(routers, layer, expert, NEAREST, view)
    if nearest:
        st.markdown("Nearest experts of other layers")
        st.dataframe(
            {
                "expert": [routers.label(a, e) for a, e, _ in nearest],
                "cosine": [cosine for _, _, cosine in nearest],
                "percentile": [cosine_percentile(c, routers.d_model) for _, _, c in nearest],
            },
            hide_index=True,
            column_config={
                "cosine": st.column_config.NumberColumn(format="%.3f"),
                "percentile": st.column_config.NumberColumn(
                    "chance percentile", format="%.2f", help="Among cosines of unrelated directions"
                ),
            },
            key="nearest_experts",
        )
    matches = []
    for neighbour in (layer - 1, layer + 1):
        if 0 <= neighbour < routers.n_layers:
            pair = cached.layer_pair(routers, layer, neighbour, view)
            partner = routers.label(neighbour, int(pair.partner[expert]))
            matches.append(f"{partner} (cosine {pair.matched[expert]:.3f})")
    if matches:
        st.markdown("Matched in the neighbouring layers: " + ", ".join(matches))


def table(routers: RouterSet, measures: ExpertMeasures, load: np.ndarray | None, view: str) -> None:
    """All experts in a table that can be sorted; a chosen row is shown in the card."""
    layers, experts = (grid.ravel().tolist() for grid in np.indices(measures.norm.shape))
    columns: dict[str, Any] = {
        "expert": [routers.label(a, e) for a, e in zip(layers, experts, strict=True)]
    }
    for measure, name in MEASURES.items():
        values = load if measure == "load" else getattr(measures, measure)
        if values is not None:
            columns[name] = values.ravel()

    def picked() -> None:
        rows = st.session_state["expert_table"].selection.rows
        if rows:
            links.choose(layer=layers[rows[0]], expert=experts[rows[0]])

    st.dataframe(
        columns,
        hide_index=True,
        height=420,
        key="expert_table",
        on_select=picked,
        selection_mode="single-row",
        column_config={
            name: st.column_config.NumberColumn(format="%.4g") for name in list(columns)[1:]
        },
    )
    labels = layout.layer_labels(routers)
    downloads.row(
        "expert_measures",
        downloads.file_stem("expert_measures", routers.sha256, view),
        table=lambda: router_tables.expert_measures_csv(measures, labels),
    )


def same_layer(routers: RouterSet, view: str, layer: int, settings: NullSettings) -> None:
    """Experts of one layer against each other."""
    scope = links.choice(
        "within",
        "Compare",
        ["cosine", "correlation", "mean"],
        "cosine",
        shown={
            "cosine": "Cosine in the layer",
            "correlation": "Correlation in the layer",
            "mean": "Mean over layers (classic)",
        }.__getitem__,
        widget="segments",
    )
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    if scope == "cosine":
        found = cached.within_layers(routers, view, settings.draws, settings.seed)
        upper = np.triu_indices(routers.n_experts, 1)
        beyond = int((found.q[layer][upper] <= 0.05).sum())
        everywhere = int((found.q[:, upper[0], upper[1]] <= 0.05).any(axis=1).sum())
        st.markdown(
            f"**{beyond} of {len(upper[0]):,} pairs of {routers.label(layer)}** are other than "
            f"chance ({found.baseline:.3f} ± {found.sd:.3f}; {found.draws:,} draws, seed "
            f"{found.seed}); {everywhere} of {routers.n_layers} layers have such pairs."
        )
        layout.figure(
            figures.expert_cosines_against_chance(
                found.cosines[layer],
                found.q[layer],
                found.baseline,
                layer_label=routers.label(layer),
            ),
            "expert_correlation_matrix",
            routers,
            words=(scope, routers.label(layer), view),
            table=lambda: csv_text.table_csv(
                {
                    "expert": upper[0],
                    "with expert": upper[1],
                    "cosine (−1 to 1)": found.cosines[layer][upper],
                    "p (two-sided)": found.p[layer][upper],
                    "q (within the layer)": found.q[layer][upper],
                }
            ),
        )
        return
    matrix = cached.expert_correlation(routers, view)
    shown = matrix.mean(axis=0) if scope == "mean" else matrix[layer]
    label = None if scope == "mean" else routers.label(layer)
    layout.figure(
        figures.expert_correlation_matrix(shown, layer_label=label, measure="correlation"),
        "expert_correlation_matrix",
        routers,
        words=(scope, label or "all", view),
        table=lambda: csv_text.matrix_csv(shown, names, names, "expert"),
    )


def across(routers: RouterSet, view: str) -> None:
    """The classic comparison by index, labelled as such."""
    st.caption(
        "Classic: compares experts that share a number. Numbers carry no meaning across layers; "
        "the chains follow experts by what they read."
    )
    similarity = cached.expert_similarity_across_layers(routers, view)
    labels = layout.layer_labels(routers)
    layout.figure(
        figures.expert_similarity_across_layers(similarity, labels, view=view),
        "expert_similarity_across_layers",
        routers,
        words=(view,),
        table=lambda: router_tables.across_layers_csv(similarity, labels),
    )


def chain_in_words(routers: RouterSet, chain: Chain) -> str:
    """Where a chain is born, where it ends, and how strong its links are."""
    if len(chain) == 1:
        return "none of its matches beats chance: it is a chain of its own."
    first, last = routers.label(chain.first), routers.label(chain.last)
    return (
        f"born in {first}, ends in {last}, {len(chain)} layers; cosines "
        f"{min(chain.scores):.3f} to {max(chain.scores):.3f}."
    )


def chains(routers: RouterSet, view: str, layer: int, expert: int, settings: NullSettings) -> None:
    """Chains of matches that beat chance, and the one through the chosen expert."""
    with st.spinner("Following experts through the layers, and unrelated ones beside them …"):
        found = cached.significant_chains(routers, view, settings.draws, settings.seed)
    longest = found.chains[0]
    st.markdown(
        f"**{found.n_beyond:,} of {found.q.size:,} matches between adjacent layers beat chance** "
        f"(false discovery rate 5 %); the longest chain goes through {len(longest)} of "
        f"{routers.n_layers} layers. {routers.label(layer, expert)}: "
        f"{chain_in_words(routers, found.chain_of(layer, expert))}"
    )
    labels = layout.layer_labels(routers)
    if found.n_beyond:
        layout.figure(
            figures.expert_chains(found, labels, (layer, expert)),
            "expert_chains",
            routers,
            words=(view,),
            table=lambda: router_tables.significant_chains_csv(found, labels),
            on_pick=pick_expert,
        )
    chain = found.chain_of(layer, expert)
    rows = range(max(chain.first - 1, 0), min(chain.last + 1, routers.n_layers - 1))
    columns: dict[str, list[Any]] = {"from": [], "to": [], "cosine": [], "p": [], "q": []}
    for row in rows:
        here = chain.expert_at(row)
        if here is None:  # the match that leads to the first of the chain
            here = int(np.flatnonzero(found.partner[row] == chain.experts[0])[0])
        columns["from"].append(routers.label(row, here))
        columns["to"].append(routers.label(row + 1, int(found.partner[row, here])))
        columns["cosine"].append(found.score[row, here])
        columns["p"].append(found.p[row, here])
        columns["q"].append(found.q[row, here])
    columns["beats chance"] = [bool(q <= found.level) for q in columns["q"]]
    st.caption("The chain through the chosen expert, with the matches before and after it:")
    st.dataframe(
        columns,
        hide_index=True,
        key="chain_table",
        column_config={
            "cosine": st.column_config.NumberColumn(format="%.3f"),
            "p": st.column_config.NumberColumn(format="%.2g"),
            "q": st.column_config.NumberColumn(format="%.2g", help="Adjusted for all links"),
        },
    )
    downloads.row(
        "expert_chain",
        downloads.file_stem("expert_chain", routers.sha256, routers.label(layer, expert)),
        table=lambda: router_tables.significant_chains_csv(found, labels),
    )


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    view = data_source.current_view()
    layout.heading(
        "Experts",
        layout.finding(routers, "/experts"),
        HOW_TO_READ,
        routers,
        view=view,
        chance=True,
    )
    with st.spinner("Measuring the experts …"):
        measures = cached.expert_measures(routers, view)
    load = measured_load(routers)
    usable = [
        name
        for name in MEASURES
        if (name != "load" or load is not None)
        and (name != "max_similarity" or routers.n_layers > 1)
    ]
    measure = links.choice(
        "measure",
        "Measure",
        usable,
        "breadth",
        shown=MEASURES.__getitem__,
        widget="segments",
    )
    left, right = st.columns([3, 2], gap="medium")
    with right, st.container(border=True):
        first, second = st.columns(2)
        with first:
            layer = layout.layer_choice(routers)
        with second:
            expert = layout.expert_choice(routers)
        card(routers, measures, load, view, layer, expert)
    with left:
        expert_map(routers, measures, load, measure, view, (layer, expert))
        if measure != "load":
            other = cached.expert_measures(routers, "raw" if view == "canonical" else "canonical")
            layout.ranking_note(getattr(measures, measure), getattr(other, measure), "experts")
    for tab, container in links.tabs("tab", tab_names(routers)):
        with container:
            draw_tab(tab, routers, measures, load, view, (layer, expert))
    layout.share(routers)


def tab_names(routers: RouterSet) -> dict[str, str]:
    """The tabs that these routers have something for."""
    names = {"table": "Table", "listens": "Listens to", "within": "Within a layer"}
    if routers.n_layers > 1:
        names |= {"chains": "Chains of matches", "by_index": "By index (classic)"}
    return names | {"classic": "Variance and norms", "load": "Load"}


def draw_tab(
    tab: str,
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    view: str,
    picked: tuple[int, int],
) -> None:
    """What the open tab shows."""
    layer, expert = picked
    settings = null_settings.current()
    if tab == "table":
        table(routers, measures, load, view)
    elif tab == "listens":
        vocabulary_readout.show(routers, layer, expert, view)
    elif tab == "within":
        same_layer(routers, view, layer, settings)
    elif tab == "chains":
        chains(routers, view, layer, expert, settings)
    elif tab == "by_index":
        across(routers, view)
    elif tab == "classic":
        classic(routers, measures, view, expert)
    else:
        breadth_and_load(routers, measures, load, view, picked)


def classic(routers: RouterSet, measures: ExpertMeasures, view: str, expert: int) -> None:
    """Variance, norm and L1/L2 of all experts."""
    labels = layout.layer_labels(routers)
    layout.figure(
        figures.expert_variance_analysis(measures, labels, expert=expert),
        "expert_variance_analysis",
        routers,
        words=(view,),
        table=lambda: router_tables.expert_measures_csv(measures, labels),
    )


def breadth_and_load(
    routers: RouterSet,
    measures: ExpertMeasures,
    load: np.ndarray | None,
    view: str,
    picked: tuple[int, int],
) -> None:
    """What the weights promise against what a text did."""
    trace = kept_traces.shown()
    if load is None or trace is None:
        st.info("Run a prompt on the Live routing page with these routers' model to see it.")
        st.page_link("pages/live_routing.py", label="Live routing", icon=":material/alt_route:")
        return
    measured, labels = load, layout.layer_labels(routers)
    names = [f"E{expert}" for expert in range(routers.n_experts)]
    layout.figure(
        figures.breadth_against_load(measures.breadth, measured, labels, picked=picked),
        "breadth_against_load",
        routers,
        words=(view,),
        table=lambda: csv_text.matrix_csv(measured, labels, names, "layer"),
        on_pick=pick_expert,
    )
    routing_shape.predicted_load(routers, trace, labels)


show()
