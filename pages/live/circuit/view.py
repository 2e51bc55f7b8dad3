"""The circuit of a choice: drawn, looked at node by node, and tested on the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from streamlit.elements.lib.mutable_expander_container import ExpanderContainer

from grok.cached import shared_dictionary
from grok.errors import GrokError
from lens import figures
from lens.errors import LensError
from lens.features.circuit import FIRST, MOST, Circuit, Shown, circuit_of
from lens.glossary import marked
from lens.storage import csv_text
from lens.words import counted, percent
from pages.access.messages import told
from pages.live.circuit import layers, naming, node, run
from pages.live.circuit.naming import Names
from pages.live.circuit.run import PINS, Cell, Pins, Traced
from pages.live.session import dictionaries
from pages.live.session.shared_models import ModelChoice
from pages.notes import kept_features
from pages.shell import downloads, layout, parts
from pages.shell.picks import Mark
from pages.shell.session_keys import widget

if TYPE_CHECKING:
    from lens.traces import RoutedText

FOLD, PART, NODE = "circuit", "circuit_part", "circuit_node"
FITS = 60  # nodes that are still told apart in the width of a phone; more of them scroll
KINDS = {"own": "Your dictionary", "transcoder": "Transcoder", "clt": "Across layers (CLT)"}
HOW_TO_READ = """
The **circuit of a choice** says of what a router's logit is made, of what that is made, and so down
to the words. The choice stands on top, layers below it, tokens across.

- **A line** is what one node gives to the next, in logits at the top and in a feature's strength
  below; its width is the share of all that the next one gets. Attention patterns and the norms'
  lengths are held as they were, so inputs sum exactly to what they make.
- **Missed** (diamonds) is what experts wrote and the dictionary has no feature for, a node a layer,
  never left out. Where it is large the picture is not to be trusted. **Biases** are there whatever
  the text is.
- **Influence** of a node: the share of the choice that goes through it, over all paths, sizes taken
  without their signs. Of all influence, some ends in words and biases, some in what is missed, some
  in features that were not looked into.
- **Replacement** is the share that ends in words, of all that ends in words or is lost;
  **completeness** the mean share of a node's inputs that is not lost. 100 % would explain all; no
  score says that a feature means what its words suggest.
- **Test it** runs the model without a node: first with all held, which must give the line's number
  (that checks the sum); then with attention patterns held; then with all free, which is what the
  model does. Random directions of the same lengths in the same places are the control. A circuit
  that the free model does not follow is a picture of the dictionary, not of the model.
- A **transcoder** explains each layer's experts by themselves; a **CLT** may say in one layer what
  another did, so its picture is shorter and may name a layer that does not act.
- **Which layer acts**: what each dictionary's graph says that the choice loses without a layer's
  experts, over all paths, beside what it does lose when the model is run so. Disputed are layers
  about which claims differ by more than half of the smaller one. Claims are sums, and a layer's
  experts taken out whole are a large change: expect them to miss much. Claiming nothing misses
  100 %; the same claims dealt out to other layers say whether a dictionary knows *which* layer.
"""


def place() -> ExpanderContainer:
    """The fold under the cell's card."""
    return parts.fold("Circuit of this choice", FOLD, icon=":material/polyline:")


def fill(
    fold: ExpanderContainer,
    trace: RoutedText,
    choice: ModelChoice | None,
    key: str,
    at: tuple[int, int, int],
) -> None:
    """The circuit of a cell, where the fold is open; nothing is read or run before.

    Args:
        fold: from `place`.
        trace: of a text.
        choice: the model that runs prompts here, if any.
        key: hash of the trace.
        at: token, row of the layer in the trace, and the layer's own number.
    """
    if not fold.open:
        return
    with fold:
        why = dictionaries.why_not(trace, choice, "A circuit")
        if why or choice is None:
            st.caption(why)
            return
        of_cell(Cell(trace, key, *at, choice))


@parts.part(key=PART)
def of_cell(cell: Cell) -> None:
    """What is chosen, and its circuit once it was traced; drawn alone when a node is clicked."""
    try:
        folders = dictionaries.by_kind(cell.trace, cell.choice)
        if not folders:
            st.caption(
                "No dictionary of what experts add is at hand for this model. Train a transcoder "
                "or a clt with python -m grok.dictionaries.train, and start the app with "
                "--dictionary and its folder."
            )
            return
        kind, expert, other = chosen(cell, list(folders))
        known = traced(cell, folders[kind], expert, other)
        if known is not None:
            drawn(cell, folders[kind], known)
            layers.show(cell, folders, known)
    except (GrokError, LensError) as error:
        st.caption(told(error))


def chosen(cell: Cell, kinds: Sequence[str]) -> tuple[str, int, int | None]:
    """Dictionary, the chosen expert, and the one it is held against, if any."""
    trace = cell.trace
    experts = [int(e) for e in trace.experts[cell.row, cell.token] if e >= 0]
    logits = trace.router_logits[cell.row, cell.token]
    others = np.setdiff1d(np.arange(len(logits)), experts)
    options: dict[str, tuple[int, int | None]] = {}
    if len(others):
        nearest = int(others[np.argmax(logits[others])])
        options |= {f"over_{i}": (e, nearest) for i, e in enumerate(experts)}
    options |= {f"alone_{i}": (e, None) for i, e in enumerate(experts)}

    def named(option: str) -> str:
        expert, other = options[option]
        return f"E{expert} alone" if other is None else f"E{expert} rather than E{other}"

    first = next(iter(options))
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        picked = st.segmented_control(
            "Which choice",
            list(options),
            format_func=named,
            default=first,
            required=True,
            key="circuit_choice",
        )
        kind = st.segmented_control(
            "Dictionary",
            list(kinds),
            format_func=KINDS.__getitem__,
            default=kinds[0],
            required=True,
            key="circuit_dictionary",
        )
    return (str(kind) if kind in kinds else kinds[0], *options.get(str(picked), options[first]))


def traced(cell: Cell, folder: Path, expert: int, other: int | None) -> Traced | None:
    """The graph of a choice, once its button was pressed."""
    known = run.GRAPHS.kept(dict).get(run.key_of(cell, folder, expert, other))
    if known is None:
        slot = st.container()
        with slot:
            st.caption(run.cost(cell, folder))
            asked = st.button(
                "Trace the circuit", icon=":material/polyline:", key="trace_circuit", type="primary"
            )
        if not asked:
            return None
        known = run.traced(cell, folder, expert, other)
        if known is None:
            return None
        st.rerun(scope="fragment") if parts.alone() else st.rerun()
    own = known.read.experts[known.read.row(cell.number), cell.token]
    if set(own.tolist()) != {int(e) for e in cell.trace.experts[cell.row, cell.token] if e >= 0}:
        st.caption(
            f"In {run.DTYPE}, in which sums are exact, this token goes to other experts: rounding "
            "decided this choice, so it has no circuit."
        )
        return None
    return known


def drawn(cell: Cell, folder: Path, known: Traced) -> None:
    """Scores, the figure, and the node that is looked at."""
    key = run.key_of(cell, folder, known.target.index, known.target.other)
    pins = PINS.kept(dict).setdefault(key, Pins())
    found = dictionaries.database(folder)
    st.markdown(marked(scores(known)))
    circuit = circuit_of(known.graph, asked(pins))
    design = shared_dictionary(str(folder)).design
    store = None if found is None else found[1]
    notes = {} if store is None else kept_features.own(store.summary().dictionary_sha256)
    names = naming.names_of(
        circuit, known.graph, known.target, design, store, kept_features.names(notes)
    )
    state = widget(NODE)
    if state.get() not in circuit.keys:
        state.set(circuit.keys[0])
    figure(cell, known, circuit, names, str(state.get()))
    st.selectbox(
        "Look at", list(circuit.keys), key=NODE, format_func=lambda one: names[one][1],
        help="A click on a node of the figure chooses it too.",
    )  # fmt: skip
    node.show(node.Looked(cell, key, known, circuit, names, pins), found, str(state.get()))


def asked(pins: Pins) -> Shown:
    """What the controls ask of the drawing."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        most = st.slider(
            "Features and words", 5, MOST, FIRST, key="circuit_most", width=260,
            help="Those with the most influence are drawn.",
        )  # fmt: skip
        over = st.toggle("A feature is one node at all its tokens", key="circuit_over", value=False)
        folded = st.toggle(
            "Fold what is not pinned",
            key="circuit_folded",
            value=False,
            disabled=not (pins.pinned or pins.groups),
            help="Other features become a node a layer. Pin a node first.",
        )
    return Shown(
        most, pins.pinned, pins.groups, over, bool(folded and (pins.pinned or pins.groups))
    )


def scores(known: Traced) -> str:
    """How much of the choice the graph explains, in words."""
    found = known.graph.scores
    return (
        f"Of all that makes this choice, **{percent(found.words)}** comes from words, "
        f"{percent(found.fixed)} from biases; **{percent(found.missed)}** the dictionary misses, "
        f"and {percent(found.unread)} ends in features that were not looked into. Replacement "
        f"{percent(found.replacement)}, completeness {percent(found.completeness_inner)}."
    )


def figure(cell: Cell, known: Traced, circuit: Circuit, names: Names, picked: str) -> None:
    """The drawing, with its downloads."""
    tokens = {int(t) for t in circuit.tokens if t >= 0}
    pieces = {t: figures.visible(str(known.graph.pieces[t])) for t in tokens}
    picked = "" if picked == circuit.keys[0] else picked  # the choice: all lines stand out
    nodes, edges = figures.circuit_rows(circuit, names, pieces, picked)
    origin = layout.of_model(cell.trace.model_sha256)
    what = naming.choice_name(known.target)
    words = (f"L{cell.number}", f"token{cell.token}", what.replace(" − ", "-"))

    def pick(mark: Mark) -> None:
        if mark.get("key") in circuit.keys:
            widget(NODE).set(mark["key"])

    layout.figure(
        figures.route_circuit(
            nodes, edges, title=f"L{cell.number}: what {what} is made of", picked=picked
        ),
        "route_circuit",
        origin,
        words=words,
        stretch=len(circuit.keys) <= FITS,
        on_pick=pick,
        table=lambda: csv_text.table_csv(edge_columns(circuit, names)),
    )
    carried = circuit.influence[[kind in ("feature", "group") for kind in circuit.kinds]]
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.download_button(
            "JSON of the whole graph",
            lambda: graph_json(known),
            file_name=f"{downloads.file_stem('circuit', cell.trace.model_sha256, *words)}.json",
            mime="application/json",
            key="circuit_json",
            on_click="ignore",
            type="tertiary",
            icon=":material/download:",
        )
        st.caption(
            f"{counted(len(carried), 'feature')} drawn, the largest with "
            f"{percent(float(carried.max(initial=0.0)))} of the influence; {circuit.not_drawn:,} "
            "features and words of the graph are not."
        )


def edge_columns(circuit: Circuit, names: Names) -> dict[str, object]:
    """All edges between drawn nodes, for a file."""
    long = [names[key][1] for key in circuit.keys]
    return {
        "from": [long[i] for i in circuit.sources],
        "from key": [circuit.keys[i] for i in circuit.sources],
        "to": [long[i] for i in circuit.targets],
        "to key": [circuit.keys[i] for i in circuit.targets],
        "gives": circuit.weights,
        "share of its inputs": circuit.shares,
        "influence of from": circuit.influence[circuit.sources],
        "drawn": circuit.strong,
    }


def graph_json(known: Traced) -> bytes:
    """The whole graph as JSON; nothing of it is folded."""
    import json

    from lens.features.values import as_values

    return json.dumps(as_values(known.graph), ensure_ascii=False).encode()
