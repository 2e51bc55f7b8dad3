"""Chains of matches that beat chance, and the one through the chosen expert."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.experts.chains import Chain
from lens.routers.router_set import RouterSet
from lens.tables import routers as router_tables
from pages.shell import downloads, layout
from pages.shell.null_settings import NullSettings
from pages.shell.picks import pick_expert


def chain_in_words(routers: RouterSet, chain: Chain) -> str:
    """First and last layer of a chain, and its cosines, in words."""
    if len(chain) == 1:
        return "none of its matches beats chance: it is a chain of its own."
    first, last = routers.label(chain.first), routers.label(chain.last)
    return (
        f"born in {first}, ends in {last}, {len(chain)} layers; cosines "
        f"{min(chain.scores):.3f} to {max(chain.scores):.3f}."
    )


def show(routers: RouterSet, view: str, layer: int, expert: int, settings: NullSettings) -> None:
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
    matches = []
    for row in rows:
        here = chain.expert_at(row)
        if here is None:  # the match that leads to the first of the chain
            here = int(np.flatnonzero(found.partner[row] == chain.experts[0])[0])
        matches.append((row, here))
    columns = {
        "from": [routers.label(*match) for match in matches],
        "to": [routers.label(row + 1, int(found.partner[row, here])) for row, here in matches],
        "cosine": [found.score[match] for match in matches],
        "p": [found.p[match] for match in matches],
        "q": [found.q[match] for match in matches],
        "beats chance": [bool(found.q[match] <= found.level) for match in matches],
    }
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
