"""Where dictionaries disagree about which layer acts on a choice, settled by running the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from grok.cached import shared_dictionary
from lens import figures
from lens.features.claims import DRAWS, Settled, settled
from lens.storage import csv_text
from lens.words import begun, counted, listed, p_value_text, percent
from pages.guide import tables
from pages.live.circuit import naming, run
from pages.live.circuit.run import Cell, Traced
from pages.shell import layout, parts

if TYPE_CHECKING:
    from grok.dictionaries.attribution import LayerClaims

SITE = "moe.normed"
NAMES = {"own": "your dictionary", "transcoder": "the transcoder", "clt": "the CLT"}
ALIKE = 0.05  # of p: above it, who was nearer more often is no more than a coin's fall


def show(cell: Cell, folders: Mapping[str, Path], known: Traced) -> None:
    """The claims about each layer below a choice, once their button was pressed.

    Args:
        cell: of the choice.
        folders: of all dictionaries at hand, by `NAMES`.
        known: the graph of the choice.
    """
    below = [i for i in cell.choice.config.moe_layers if i < cell.number]
    both = {
        NAMES[kind]: folder for kind, folder in folders.items() if set(below) <= written(folder)
    }
    if len(both) < 2 or not below:
        return
    st.markdown("**Which layer acts?**")
    found = run.CLAIMS.kept(dict).get(run.claims_key(cell, both, known.target))
    if found is None:
        slot = st.container()
        with slot:
            cost = run.claims_cost(cell, both, len(below))
            st.caption(f"{begun(listed(list(both)))} may name different layers. {cost}")
            asked = st.button("Compare their claims", icon=":material/balance:", key="claim_layers")
        if not asked:
            return
        found = run.claimed(cell, both, known.target, len(below))
        if found is None:
            return
        st.rerun(scope="fragment") if parts.alone() else st.rerun()
    drawn(cell, known, found)


def written(folder: Path) -> set[int]:
    """Layers of whose experts a dictionary says what they add."""
    targets = shared_dictionary(str(folder)).design.targets
    return {point.layer for point in targets if point.site == SITE}


def drawn(cell: Cell, known: Traced, found: LayerClaims) -> None:
    """The finding, the figure, and all numbers on a press."""
    told = settled(found)
    st.markdown(in_words(found.names, told))
    what = naming.choice_name(known.target)
    columns = claim_columns(found)
    layout.figure(
        figures.layer_claims_chart(
            found.names,
            found.layers,
            found.claims,
            found.measured,
            found.disputed,
            title=f"L{cell.number}: what {what} loses or gains without a layer's experts",
        ),
        "layer_claims",
        layout.of_model(cell.trace.model_sha256),
        words=(f"L{cell.number}", f"token{cell.token}", what.replace(" − ", "-")),
        stretch=True,
        table=lambda: csv_text.table_csv(columns),
    )
    with st.popover("Numbers", icon=":material/table_rows:", key="claim_numbers"):
        st.markdown(in_numbers(found.names, told))
        number = st.column_config.NumberColumn(format="%+.3f")
        tables.show(
            columns,
            key="claim_table",
            column_config=dict.fromkeys(list(columns)[2:-1], number),
        )
        st.caption(
            "Logits by which the choice changes without a layer's experts. Attention held: with "
            "the patterns of the plain run. Directly: what a dictionary claims without the paths "
            "through later layers. Nearest: whose claim is nearest to what was measured."
        )


def in_words(names: tuple[str, ...], told: Settled) -> str:
    """How many layers are disputed, whose claims were nearer, and beside what."""
    every = counted(told.layers, "layer")
    if not told.disputed:
        start = f"{begun(listed(names))} agree about the {every} below."
    else:
        order = np.argsort(-told.nearer, kind="stable")
        sided = listed([f"{names[s]} in {int(told.nearer[s])}" for s in order])
        coin = "no more than a coin would give" if told.even > ALIKE else "more than a coin gives"
        start = (
            f"{begun(listed(names))} disagree about **{told.disputed} of {every}** below. Run "
            "without each layer's experts, the model came nearer to the claim of "
            f"{sided}: {coin}."
        )
    good = [s for s in range(len(names)) if told.missed[s] < 1]
    if not good:
        return f"{start} **Neither is better than claiming nothing.**"
    best = min(good, key=lambda s: told.missed[s])
    others = [
        f"{names[s]} {percent(float(told.missed[s]))}" for s in range(len(names)) if s != best
    ]
    return (
        f"{start} Over all layers **{names[best]}** misses "
        f"{percent(float(told.missed[best]))} of what they did, {listed(others)}; claiming nothing "
        f"misses {percent(1.0)}."
    )


def in_numbers(names: tuple[str, ...], told: Settled) -> str:
    """What the sentence had to beat."""
    lines = []
    for s, name in enumerate(names):
        line = f"- **{begun(name)}** misses {percent(float(told.missed[s]))} of all changes"
        if np.isfinite(told.p[s]):
            line += (
                f"; with its claims shuffled among the layers {percent(float(told.dealt[s]))}, in "
                f"the middle of {DRAWS:,} shuffles (as little with p "
                f"{p_value_text(float(told.p[s]))})"
            )
        lines.append(f"{line}.")
    if told.disputed:
        lines.append(
            f"- A coin for each disputed layer makes one of them nearer in "
            f"{int(told.nearer.max())} of {told.disputed} or more with p "
            f"{p_value_text(told.even)}."
        )
    return "\n".join(lines)


def claim_columns(found: LayerClaims) -> dict[str, object]:
    """All numbers, a row for each layer."""
    own = {f"{name} claims": found.claims[s] for s, name in enumerate(found.names)}
    direct = {f"{name}, directly": -found.direct[s] for s, name in enumerate(found.names)}
    return {
        "layer": found.layers,
        "disputed": np.where(found.disputed, "yes", "no"),
        **own,
        "measured": found.measured[1],
        "measured, attention held": found.measured[0],
        **direct,
        "nearest": [found.names[s] for s in found.nearest()],
    }
