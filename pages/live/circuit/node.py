"""One node of a circuit: what it is, what it is made of and gives to, and its test on the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from lens.escaping import as_markdown
from lens.features.circuit import FEATURE, FIXED, GROUP, TARGET, WORD, Circuit, Edge, edges_of
from lens.features.store import FeatureStore
from lens.words import fixed, percent, significant
from pages.guide import tables
from pages.live.circuit import run
from pages.live.circuit.naming import Names
from pages.live.circuit.run import Cell, Pins, Traced
from pages.live.session import dictionaries
from pages.shell.link_names import page_file
from pages.shell.session_keys import selected_rows, widget

if TYPE_CHECKING:
    from grok.dictionaries.attribution import NodeCheck, Target

LISTED = 12
LONGEST_NAME = 40
CHANCE = 0.05  # of random directions that may do as much
NEAR = 0.5  # of what was predicted: further off the model does not follow


@dataclass(frozen=True, eq=False)
class Looked:
    """A drawing that is looked at.

    Attributes:
        cell: whose circuit it is.
        key: of the graph.
        known: the graph.
        circuit: the drawing; names: of its nodes.
        pins: of this circuit.
    """

    cell: Cell
    key: str
    known: Traced
    circuit: Circuit
    names: Names
    pins: Pins

    def long(self, node: int) -> str:
        """A node's long name, plain text."""
        return self.names[self.circuit.keys[node]][1]


def show(look: Looked, database: tuple[str, FeatureStore] | None, key: str) -> None:
    """The panel of a node."""
    circuit = look.circuit
    at = circuit.at(key)
    kind = circuit.kinds[at]
    name = look.long(at)
    st.markdown(f"**{as_markdown(name[:1].upper() + name[1:])}**. {in_words(look, at)}")
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        if kind in (FEATURE, WORD):
            pinned = key in look.pins.pinned
            st.button(
                "Unpin" if pinned else "Pin",
                icon=":material/keep_off:" if pinned else ":material/keep:",
                key="circuit_pin",
                on_click=turn_pin,
                args=(look.pins, key),
            )
        grouping(look, key, kind)
        if kind == FEATURE and database is not None:
            i = int(circuit.members[at][0])
            st.page_link(
                page_file("features"),
                label="Its card",
                icon=":material/scatter_plot:",
                query_params={
                    "feature": f"{look.known.graph.groups[i]}-{look.known.graph.features[i]}",
                    "dictionary": database[0],
                },
                width="content",
            )
    if kind == FEATURE and database is not None:
        usually(look, at, database[1])
    inputs, outputs = edges_of(circuit, key)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**Made of**")
        listed(look, inputs, "circuit_inputs", made_of(look, at))
    if kind != TARGET:
        with right:
            st.markdown("**Gives to**")
            listed(look, outputs, "circuit_outputs", [])
    on_the_model(look, key, outputs)


def in_words(look: Looked, at: int) -> str:
    """What a node is to the choice."""
    circuit, kind = look.circuit, look.circuit.kinds[at]
    value = float(circuit.values[at])
    if kind == TARGET:
        return f"The choice: {fixed(value, 3)} logits, in float32."
    strength = f" Strength {fixed(value, 2)}." if kind in (FEATURE, GROUP) else ""
    return f"{percent(float(circuit.influence[at]), 1)} of the influence.{strength}"


def usually(look: Looked, at: int, store: FeatureStore) -> None:
    """When a feature is active in other text."""
    graph, i = look.known.graph, int(look.circuit.members[at][0])
    said = dictionaries.usually_on(
        store.summary().dictionary_sha256, int(graph.groups[i]), int(graph.features[i]),
        _store=store,
    )  # fmt: skip
    if said:
        st.caption(f"In other text it is active on {as_markdown(said)}.")


def turn_pin(pins: Pins, key: str) -> None:
    """Pins a node, or lets it go."""
    pins.pinned ^= {key}


def grouping(look: Looked, key: str, kind: str) -> None:
    """Several features as one node with a name, or such a node taken apart."""
    pins, circuit = look.pins, look.circuit
    if kind == GROUP:
        name = key.removeprefix(f"{GROUP} ")

        def apart() -> None:
            pins.groups.pop(name, None)

        st.button(
            "Take apart", icon=":material/call_split:", key="circuit_apart",
            on_click=apart,
        )  # fmt: skip
        return
    if kind != FEATURE:
        return
    features = [k for k, one in zip(circuit.keys, circuit.kinds, strict=True) if one == FEATURE]

    def together() -> None:
        name = " ".join(str(widget("circuit_name").get() or "").split())[:LONGEST_NAME]
        some = list(widget("circuit_some").get() or [])
        if name and some:
            pins.groups[name] = some
            widget("circuit_node").set(f"{GROUP} {name}")

    with st.popover("Group", icon=":material/join:"):
        st.multiselect(
            "Features", features, default=[key], key="circuit_some",
            format_func=lambda one: look.names[one][1],
        )  # fmt: skip
        st.text_input("Name of the node", key="circuit_name", max_chars=LONGEST_NAME)
        st.button("Draw as one node", key="circuit_together", on_click=together)


def made_of(look: Looked, at: int) -> list[tuple[str, float]]:
    """What of a node's inputs is in no row of the table."""
    circuit = look.circuit
    if not circuit.open[at]:
        return []
    rest = [("features and words that are not drawn", float(circuit.hidden[at]))]
    left = float(circuit.left_out[at])
    return rest + ([("smaller ones, left out of the graph", left)] if np.isfinite(left) else [])


def listed(look: Looked, edges: list[Edge], key: str, rest: list[tuple[str, float]]) -> None:
    """Edges as a table whose rows lead to the other node, and what it leaves out."""
    circuit = look.circuit
    if not edges and not rest:
        st.caption("Nothing: a leaf." if key == "circuit_inputs" else "Nothing that is drawn.")
        return
    most, cut = edges[:LISTED], edges[LISTED:]
    if cut:
        rest = [(f"{len(cut):,} more nodes", sum(one.weight for one in cut)), *rest]

    def go() -> None:
        found = selected_rows(key)
        if found:
            widget("circuit_node").set(circuit.keys[most[found[0]].other])

    tables.show(
        {
            "node": [look.long(one.other) for one in most],
            "gives": [one.weight for one in most],
            "share": [one.share for one in most],
        },
        key=key,
        on_select=go,
        selection_mode="single-row",
        height="content",
        column_config={
            "gives": st.column_config.NumberColumn(
                format="%+.3f", help="Logits of the choice, or strength of a feature"
            ),
            "share": st.column_config.NumberColumn(
                format="percent", help="Of all that the one that gets it is made of"
            ),
        },
    )
    if rest:
        said = ", ".join(f"{name} {fixed(value, 3, sign=True)}" for name, value in rest)
        st.caption(f"And {said}." if key == "circuit_inputs" else f"And {said}, each to its own.")


# --- the test on the model ------------------------------------------------------------


def on_the_model(look: Looked, key: str, outputs: list[Edge]) -> None:
    """The node taken out of the model, beside what its edge says and random directions."""
    circuit = look.circuit
    at = circuit.at(key)
    if circuit.kinds[at] == TARGET:
        st.caption("Choose a node to test what the choice does without it.")
        return
    if circuit.kinds[at] == FIXED:
        st.caption("Biases are part of routers and features and can't be taken out one by one.")
        return
    ends = {circuit.keys[0]: circuit.values[0]}
    single = [one.other for one in outputs if len(circuit.members[one.other]) == 1]
    ends |= {circuit.keys[i]: 0.0 for i in single if circuit.kinds[i] == FEATURE}
    if widget("circuit_end").get() not in ends:
        widget("circuit_end").set(circuit.keys[0])
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        end = st.selectbox(
            "What it does to", list(ends), key="circuit_end", width=340,
            format_func=lambda one: look.names[one][1],
        )  # fmt: skip
        end = end if end in ends else circuit.keys[0]
        place = (look.key, key, str(end), ",".join(map(str, circuit.members[at])))
        known = run.CHECKS.kept(dict).get(place)
        pressed = known is None and st.button(
            "Test it",
            icon=":material/science:",
            key="circuit_test",
            help="Runs the model without this node, and with random directions in its place.",
        )
    if pressed:
        members = circuit.members[at].tolist()
        known = run.checked(look.cell, place, look.known, members, target_of(look, str(end)))
    if known is not None:
        st.markdown(outcome(known, as_markdown(look.names[str(end)][1])))


def target_of(look: Looked, key: str) -> Target:
    """What is measured: the choice, or a feature's strength."""
    from grok.dictionaries.attribution import Target

    at = look.circuit.at(key)
    if look.circuit.kinds[at] == TARGET:
        return look.known.target
    graph, i = look.known.graph, int(look.circuit.members[at][0])
    return Target(
        "feature", int(graph.tokens[i]), int(graph.features[i]), group=int(graph.groups[i])
    )


def outcome(check: NodeCheck, end: str) -> str:
    """What the model did, beside what was predicted and random directions."""
    held, patterns, free = (float(one) for one in check.measured)
    drawn = np.abs(check.random[-1])
    beyond = int((drawn >= abs(free)).sum())
    if beyond > CHANCE * len(drawn):
        verdict = "**No more than random directions do.**"
    elif abs(free - check.predicted) <= NEAR * abs(check.predicted):
        verdict = "**The model follows the line.**"
    elif free * check.predicted > 0:
        verdict = "**The model goes the same way, by another amount.**"
    else:
        verdict = "**The model goes the other way.**"
    chance = (
        f"none of {len(drawn)} random directions of the same lengths changes it as much"
        if not beyond
        else f"{beyond} of {len(drawn)} random directions of the same lengths change it as much "
        "or more"
    )
    return (
        f"{verdict} Without it {end}, {significant(check.value)} before, was predicted to change "
        f"by {significant(check.predicted, sign=True)}. With all held it changes by "
        f"{significant(held, sign=True)}, with attention patterns held by "
        f"{significant(patterns, sign=True)}, with the model free by "
        f"**{significant(free, sign=True)}**. Control: {chance} (on average "
        f"{significant(float(drawn.mean()), 2)})."
    )
