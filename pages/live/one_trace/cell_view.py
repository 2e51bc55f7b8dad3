"""The chosen cell: one token in one layer, the margin of its choice, and tokens routed alike."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from grok.errors import GrokError
from lens import figures
from lens.chosen_by import CORRECTED
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.glossary import marked
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.traces import router_geometry, routing
from lens.words import fixed, listed, p_value_text, percent, significant
from pages.access.messages import told
from pages.guide import tables
from pages.live.one_trace import routing_statistics
from pages.live.one_trace.routing_views import View
from pages.notes import kept
from pages.shell import data_source, downloads, parts
from pages.shell.picks import pick_token

NEIGHBOURS = 8
NEAR = "near_tokens"
MANY = 4  # experts a token, above which a sentence says the first and the last of their gates


def show(view: View, token: int, layer: int) -> DeltaGenerator:
    """The card but for the logit lens, which needs the model.

    Returns:
        The container for `logit_lens.fill`, once the rest of the page stands.
    """
    with st.container(border=True, key="cell_card"):
        st.markdown(marked(sentence(view, token, layer)))
        left, right = st.columns(2, gap="large")
        with left:
            gates(view, token, layer)
        with right:
            flip(view, token, layer)
        slot = st.container()
        if view.n_tokens > 1:
            alike = "Tokens that this router sees alike"
            fold = parts.fold(alike, NEAR, icon=":material/join_inner:")
            if fold.open:
                with fold:
                    near(view, token, layer)
    return slot


def named(view: View, layer: int, experts: list[int]) -> Iterator[str]:
    """Experts of a layer, each with the name that somebody gave it."""
    titles = kept.titles(view.trace.model_sha256, layer)
    for expert in experts:
        own = f" (“{as_markdown(titles[expert])}”)" if expert in titles else ""
        yield f"**{view.labels[layer]}·E{expert}**{own}"


def sentence(view: View, token: int, layer: int) -> str:
    """Experts, mix, gates and margin of a token, in words."""
    trace = view.trace
    chosen = trace.experts[layer, token]
    used = chosen >= 0
    first, *others = [*named(view, layer, chosen[used].tolist())] or ["no expert"]
    shares = [percent(share) for share in routing.gate_share(trace)[layer, token][used]]
    values = [fixed(gate, 3) for gate in trace.gates[layer, token][used]]
    mix, raw = " : ".join(shares), ", ".join(values)
    if used.sum() > MANY:  # all are in the figure below
        others = [name.replace(f"{view.labels[layer]}·", "", 1) for name in others]
        mix, raw = f"{shares[0]} to {shares[-1]}", f"{values[0]} to {values[-1]}"
    margin = view.chosen_by.margin(fixed(routing.margin(trace)[layer, token], 3))
    raw_gates = "raw gates" if trace.plain_gates else "gates"
    part = "generated token" if token >= trace.prompt_length else "token"
    return (
        f"{part.capitalize()} {token} “{as_markdown(figures.visible(view.pieces[token]))}” goes to "
        f"{listed([first, *others])}. Mix {mix}, {raw_gates} {raw}, margin {margin}."
    )


def corrected(view: View, layer: int, token: int) -> np.ndarray | None:
    """Corrected scores of a cell [E], where the experts are chosen by these."""
    values = view.trace.choice_values
    if values is None or view.chosen_by.unit != CORRECTED:
        return None
    return np.asarray(values[layer, token])


def cell_figure(view: View, layer: int, token: int) -> alt.LayerChart:
    """What the router gave the experts for one token in one layer."""
    trace, chosen = view.trace, view.trace.experts[layer, token]
    found: alt.LayerChart = figures.cell_probabilities(
        trace.router_probs[layer, token],
        [int(e) for e in chosen if e >= 0],
        label=view.labels[layer],
        piece=view.pieces[token],
        gates=None if trace.plain_gates else trace.gates[layer, token][chosen >= 0],
        chosen_by=corrected(view, layer, token),
        axis=view.chosen_by.axis,
    )
    return found


def gates(view: View, token: int, layer: int) -> None:
    """All values of the router, the chosen experts outlined."""
    trace, words = view.trace, view.chosen_by
    experts = [int(e) for e in trace.experts[layer, token] if e >= 0]
    by = corrected(view, layer, token)
    view.figure(
        cell_figure(view, layer, token),
        "cell_probabilities",
        stretch=True,
        words=(view.labels[layer], f"token{token}"),
        table=lambda: csv_text.table_csv(
            {
                "expert": np.arange(view.n_experts),
                "router logit": trace.router_logits[layer, token],
                words.axis: trace.router_probs[layer, token],
                **({} if by is None else {words.unit: by}),
                "chosen": np.isin(np.arange(view.n_experts), experts),
            }
        ),
    )
    if words.said:
        st.caption(words.said)
    shared = routing.shared_in_words(trace, layer, token)
    if shared is not None:
        st.markdown(marked(shared[0]))
        st.caption(shared[1])


# --- what would flip the choice -------------------------------------------------------


def routers_of(view: View) -> RouterSet | None:
    """The routers of the model that made the trace, if one of the sources has them."""
    if view.routers.sha256 == view.trace.model_sha256:
        return view.routers
    for source in data_source.available():
        try:
            routers = data_source.routers_of(source)
        except (LensError, GrokError):
            continue
        if routers.sha256 == view.trace.model_sha256:
            return routers
    return None


def flip(view: View, token: int, layer: int) -> None:
    """The expert that is next in line, and the smallest change that lets another one in."""
    st.markdown("**What would flip it**")
    routers = routers_of(view)
    if routers is None:
        st.caption(
            "How large a change of what the router reads a margin is needs the routers of the "
            "model that made the trace; none of the sources has them."
        )
        return
    try:
        found = router_geometry.flips(view.trace, routers, layer)
        mixed = router_geometry.mixed_pushes(view.trace, routers, layer, token)
        drawn = router_geometry.random_pushes(view.trace, routers, layer, token)
    except LensError as error:
        st.caption(told(error))
        return
    label = view.labels[layer]
    leaves, enters = found.leaves[token], found.enters[token]
    following = found.next_in_line[token]
    other = (
        ""
        if (leaves, enters) == (found.last_chosen[token], following)
        else f" It is E{enters} in place of E{leaves}, whose columns lie further apart."
    )
    closer = (
        f" {percent(found.closer(token))} of the text's other tokens are closer to a change "
        "in this layer."
        if view.n_tokens > 1
        else ""
    )
    st.markdown(
        f"Next in line is **{label}·E{following}**, {fixed(found.margin[token], 3)} logits behind "
        f"E{found.last_chosen[token]}. The smallest push that changes the experts is "
        f"**{_of_length(float(found.push[token]))}** of the length of what the router reads.{other}"
        + closer
    )
    view.figure(
        figures.push_ticks(found.push, mixed, view.pieces, token=token, label=label),
        "push_ticks",
        stretch=True,
        words=(label, f"token{token}"),
        on_pick=pick_token,
        table=lambda: csv_text.table_csv(
            {
                "token": np.arange(view.n_tokens),
                "piece": view.pieces,
                "smallest push (share of the length)": found.push,
                "leaves": found.leaves,
                "enters": found.enters,
                "next in line": found.next_in_line,
                "margin (logits)": found.margin,
            }
        ),
    )
    st.caption(
        f"Control: {len(mixed):,} directions from one mixture of this layer's experts to another, "
        f"seed 0; {np.count_nonzero(mixed <= found.push[token]):,} of them change the experts with "
        f"a push of that length, half with {_share(mixed)}. Unrelated directions: half with "
        f"{_share(drawn)}."
    )


def _share(pushes: np.ndarray) -> str:
    """The median push of many, in words."""
    middle = float(np.sort(pushes)[len(pushes) // 2])
    return _of_length(middle) if np.isfinite(middle) else "none of any length"


def _of_length(share: float) -> str:
    """A push in percent of what the router reads, with two digits that count: "7.2 %", "130 %"."""
    value = 100 * share
    return (
        f"{significant(value, 2)}\u00a0%"
        if value < 99.5
        else f"{fixed(round(value, -1), 0)}\u00a0%"
    )


# --- the tokens that are routed alike -------------------------------------------------


def near(view: View, token: int, layer: int) -> None:
    """The other tokens whose gates in this layer are most like the chosen one's."""
    pairs = routing_statistics.pair_distances(view.key, layer, view.trace)
    nearest = routing_statistics.nearest_distances(view.key, layer, view.trace)
    found = router_geometry.neighbours(
        view.trace, layer, token, count=NEIGHBOURS, pairs=pairs, nearest=nearest
    )
    drawn = "" if found.seed is None else f" drawn with seed {found.seed}"
    verdict = "is" if found.as_near <= 0.05 else "is not"
    nearest_one = as_markdown(figures.visible(view.pieces[found.tokens[0]]))
    st.caption(
        f"The nearest, “{nearest_one}” (token "
        f"{found.tokens[0]}), is {fixed(found.distance[0], 3)} away; half of this layer's "
        f"{found.pairs:,} pairs{drawn} are further apart than {fixed(found.median, 3)}. That "
        f"{verdict} "
        f"nearer than the nearest ones of this text's other tokens are to them "
        f"(p {p_value_text(found.as_near)}, its rank among {len(nearest):,}). "
        "Distance: √ of the Jensen–Shannon divergence of the gates, nats; 0 to 0.83."
    )
    columns = {
        "token": found.tokens,
        "context": [context(view.pieces, int(t)) for t in found.tokens],
        "experts": [
            ", ".join(f"E{e}" for e in view.trace.experts[layer, t] if e >= 0) for t in found.tokens
        ],
        "distance": found.distance,
        "pairs as close": found.closer,
    }
    tables.show(
        columns,
        height="content",
        column_config={
            "distance": st.column_config.NumberColumn(format="%.3f"),
            "pairs as close": st.column_config.NumberColumn(
                format="percent", help="Share of all pairs of tokens of this layer"
            ),
        },
        key="neighbours",
    )
    downloads.row(
        "neighbours_of_token",
        downloads.file_stem(
            "neighbours", view.trace.model_sha256, view.labels[layer], f"token{token}"
        ),
        table=lambda: csv_text.table_csv(columns),
    )


def context(pieces: list[str], token: int, reach: int = 4) -> str:
    """A token in the text around it, marked."""
    before = "".join(pieces[max(token - reach, 0) : token])
    after = "".join(pieces[token + 1 : token + 1 + reach])
    return (
        figures.visible(before[-23:])
        + f" ⟦{figures.visible(pieces[token])}⟧ "
        + (figures.visible(after[:23]))
    )
