"""Chains of matches that beat mixed experts, and the one through the chosen expert."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.experts.chains import Chain
from lens.experts.same_expert import MatchedLinks
from lens.findings import of_routers
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import routers as router_tables
from lens.words import fixed
from pages.guide import tables
from pages.shell import downloads, finding_block, layout
from pages.shell.null_settings import NullSettings
from pages.shell.picks import pick_expert


def chain_in_words(routers: RouterSet, chain: Chain) -> str:
    """First and last layer of a chain, and its cosines, in words."""
    if len(chain) == 1:
        return "none of its matches can be told from mixed experts: it is a chain of its own."
    first, last = routers.label(chain.first), routers.label(chain.last)
    return (
        f"born in {first}, ends in {last}, {len(chain)} layers; cosines "
        f"{fixed(min(chain.scores), 3)} to {fixed(max(chain.scores), 3)}."
    )


def show(routers: RouterSet, view: str, layer: int, expert: int, settings: NullSettings) -> None:
    """Chains of matches that beat mixed experts, and the one through the chosen expert."""
    with st.spinner("Following experts through the layers, and mixed ones beside them …"):
        found = cached.significant_chains(routers, view, settings.draws, settings.seed)
    links = found.links
    assert links is not None, "the tab is there for two layers or more"
    finding_block.line(of_routers.experts_carry_on(found))
    st.markdown(
        f"{routers.label(layer, expert)}: {chain_in_words(routers, found.chain_of(layer, expert))}"
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
    matches = matches_around(found.chain_of(layer, expert), links, routers.n_layers)
    columns = {
        "from": [routers.label(*match) for match in matches],
        "to": [routers.label(row + 1, int(links.partner[row, here])) for row, here in matches],
        "cosine": [links.score[match] for match in matches],
        "p": [links.p[match] for match in matches],
        "q": [links.q[match] for match in matches],
        "beats mixed experts": [bool(links.q[match] <= found.level) for match in matches],
    }
    st.caption("The chain through the chosen expert, with the matches before and after it:")
    tables.show(
        columns,
        key="chain_table",
        column_config={
            "cosine": st.column_config.NumberColumn(format="%.3f"),
            "q": st.column_config.NumberColumn(format="%.2g", help="Adjusted for all links"),
        },
    )
    downloads.row(
        "expert_chain",
        downloads.file_stem("expert_chain", routers.sha256, routers.label(layer, expert)),
        table=lambda: csv_text.table_csv(columns),
    )


def matches_around(chain: Chain, links: MatchedLinks, n_layers: int) -> list[tuple[int, int]]:
    """The matches of a chain, that before its first layer and that after its last."""
    matches = []
    for row in range(max(chain.first - 1, 0), min(chain.last + 1, n_layers - 1)):
        here = chain.expert_at(row)
        if here is None:  # the match that leads to the first of the chain
            here = int(np.flatnonzero(links.partner[row] == chain.experts[0])[0])
        matches.append((row, here))
    return matches
