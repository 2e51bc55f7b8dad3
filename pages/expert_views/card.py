"""One expert: what it takes, its place in the layers around it, then its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from lens import cached
from lens.escaping import as_markdown
from lens.experts.measures import ExpertMeasures
from lens.experts.nearest import NearExpert
from lens.glossary import help_of
from lens.many_prompts.expert_cards import ExpertCards
from lens.routers.router_set import RouterSet
from lens.words import fixed, percent, significant
from pages.expert_views import takes
from pages.guide import tables
from pages.shell import links
from pages.vocabulary import chips

NEAREST = 8
REACH = 2  # layers before and after
STRIP = """<style>
.st-key-chain_strip button { padding: 0.1rem 0.4rem; min-height: 1.9rem; }
.st-key-chain_strip button p { font-size: 0.82rem; }
</style>"""


@dataclass(frozen=True)
class Known:
    """What is known of all experts, for the card of one.

    Attributes:
        measures: of their weights.
        load: in the trace shown last.
        cards: what they take in a stored run.
        words: the read-out of the vocabulary.
    """

    measures: ExpertMeasures
    load: np.ndarray | None
    cards: ExpertCards | None
    words: chips.Words | None


def show(routers: RouterSet, known: Known, view: str, layer: int, expert: int) -> None:
    """What it takes, its chain, then its nearest experts and its weights, folded."""
    name = routers.label(layer, expert)
    if known.cards is not None:
        takes.show(known.cards, layer, expert, name)
    elif known.words is not None:
        chips.show(routers, known.words, layer, expert)
        st.caption("From the token embedding alone: no texts of this model are stored.")
    else:
        st.caption(
            f"Routers alone do not say what {name} takes: that needs the model. Start the app "
            "with its checkpoint to see words."
        )
    if routers.n_layers > 1:
        strip(routers, known.cards, view, layer, expert)
    nearest = cached.near_experts(routers, layer, expert, NEAREST, view)
    with st.expander("By its weights alone: words, nearest experts, measures"):
        if known.cards is not None and known.words is not None:
            chips.show(routers, known.words, layer, expert)
        if nearest:
            st.markdown("**Nearest experts of other layers**")
            nearest_table(routers, nearest)
        weights(known.measures, known.load, layer, expert)


def strip(
    routers: RouterSet, cards: ExpertCards | None, view: str, layer: int, expert: int
) -> None:
    """The closest match by direction in the layers around it; a click opens that expert."""
    st.caption(
        "Its closest match, step by step, in the layers around it (a single match is seldom "
        "beyond chance):"
    )
    st.html(STRIP)
    main = None if cards is None else cards.main
    with st.container(horizontal=True, gap="xsmall", key="chain_strip"):
        for at, here in around(routers, view, layer, expert):
            kind = -1 if main is None else int(main[at, here])
            what = f" {cards.labels[kind]}" if cards is not None and kind >= 0 else ""
            st.button(
                routers.label(at, here) + as_markdown(what),
                key=f"strip_{at}",
                type="primary" if at == layer else "secondary",
                on_click=links.choose,
                kwargs={"layer": at, "expert": here},
            )


def around(routers: RouterSet, view: str, layer: int, expert: int) -> list[tuple[int, int]]:
    """Layer and expert of the matches up to two layers before and after, and the expert itself."""
    found = {layer: expert}
    for step in (-1, 1):
        here = expert
        for at in range(layer, layer + REACH * step, step):
            if not 0 <= at + step < routers.n_layers:
                break
            here = int(cached.layer_pair(routers, at, at + step, view).partner[here])
            found[at + step] = here
    return sorted(found.items())


def weights(measures: ExpertMeasures, load: np.ndarray | None, layer: int, expert: int) -> None:
    """Breadth, norm and the spread of the weights, beside what even ones have."""
    facts = [
        ("Breadth", f"{fixed(measures.breadth[layer, expert], 3)}"),
        ("Norm", f"{significant(measures.norm[layer, expert])}"),
        ("L1 / L2", f"{significant(measures.l1_l2[layer, expert])}"),
    ]
    if load is not None:
        facts.append(("Load", percent(load[layer, expert], 1)))
    with st.container(horizontal=True, gap="small"):
        for name, value in facts:
            st.metric(name, value, width="content", help=help_of(None, name))
    st.caption(
        f"Even breadth {fixed(measures.baselines['breadth'], 3)}; L1 / L2 of Gaussian weights "
        f"{significant(measures.baselines['l1_l2'])}. Breadth is known by "
        f"{measures.breadth_method}."
    )


def nearest_table(routers: RouterSet, nearest: list[NearExpert]) -> None:
    """The nearest experts of other layers, each with its place among what chance gives."""
    others = (routers.n_layers - 1) * routers.n_experts
    tables.show(
        {
            "expert": [routers.label(near.layer, near.expert) for near in nearest],
            "cosine": [near.cosine for near in nearest],
            "mixed": [near.mixed_percentile for near in nearest],
            "unrelated": [near.unrelated_percentile for near in nearest],
        },
        column_config={
            "cosine": st.column_config.NumberColumn(format="%.3f"),
            "mixed": st.column_config.NumberColumn(
                "% of mixed",
                format="%.2f",
                help="Percentile among cosines of experts mixed within the same two layers, which "
                f"read the same directions. For the nearest of {others:,} experts "
                f"{fixed(100 * (1 - 1 / others), 2)} is usual",
            ),
            "unrelated": st.column_config.NumberColumn(
                "% of unrelated",
                format="%.2f",
                help="Percentile among cosines of unrelated directions",
            ),
        },
        key="nearest_experts",
    )
