"""The chosen cell: one token in one layer, what its choice nearly was, and what stands near it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import streamlit as st

from grok.errors import GrokError
from lens import figures
from lens.errors import LensError
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.traces import router_geometry, routing
from lens.words import p_value_text, percent
from pages.live.one_trace import routing_statistics, routing_views
from pages.live.one_trace.routing_views import View
from pages.live.running import prompt_form, stream_cost, stream_progress
from pages.live.session import shared_models
from pages.shell import data_source, downloads

LENSES = "logit_lenses"  # of this session: they tell what it typed
MOST_LENSES = 4
NEIGHBOURS = 8


def show(view: View, token: int, layer: int) -> Any:
    """The card but for the logit lens, which needs the model.

    Returns:
        Where `fill_lens` draws, once the rest of the page stands.
    """
    with st.container(border=True):
        st.markdown(sentence(view, token, layer))
        left, right = st.columns(2, gap="large")
        with left:
            gates(view, token, layer)
        with right:
            flip(view, token, layer)
        slot = st.container()
        near(view, token, layer)
    return slot


def sentence(view: View, token: int, layer: int) -> str:
    """What the router decided for a token, in words."""
    trace = view.trace
    chosen = trace.experts[layer, token]
    used = chosen >= 0
    names = " and ".join(f"**{view.labels[layer]}·E{e}**" for e in chosen[used])
    mix = " : ".join(percent(s) for s in routing.gate_share(trace)[layer, token][used])
    raw = ", ".join(f"{g:.3f}" for g in trace.gates[layer, token][used])
    margin = routing.margin(trace)[layer, token]
    part = "generated token" if token >= trace.prompt_length else "token"
    return (
        f"{part.capitalize()} {token} “{figures.visible(view.pieces[token])}” goes to "
        f"{names or 'no expert'}. Mix {mix}, raw gates {raw}, margin {margin:.3f} logits."
    )


def gates(view: View, token: int, layer: int) -> None:
    """All probabilities of the router, the chosen experts outlined."""
    trace = view.trace
    experts = [int(e) for e in trace.experts[layer, token] if e >= 0]
    view.figure(
        figures.cell_probabilities(
            trace.router_probs[layer, token],
            experts,
            label=view.labels[layer],
            piece=view.pieces[token],
        ),
        "cell_probabilities",
        stretch=True,
        words=(view.labels[layer], f"token{token}"),
        table=lambda: csv_text.table_csv(
            {
                "expert": np.arange(view.n_experts),
                "router logit": trace.router_logits[layer, token],
                "gate (probability)": trace.router_probs[layer, token],
                "chosen": np.isin(np.arange(view.n_experts), experts),
            }
        ),
    )


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
    """Which expert is next in line, and the smallest change that lets another one in."""
    st.markdown("**What would flip it**")
    routers = routers_of(view)
    if routers is None:
        st.caption(
            "The margin is in logits. How large a change that is needs the routers of the model "
            "that made the trace; none of the sources has them."
        )
        return
    try:
        found = router_geometry.flips(view.trace, routers, layer)
        drawn = router_geometry.random_pushes(view.trace, routers, layer, token)
    except LensError as error:
        st.caption(str(error))
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
        f"Next in line is **{label}·E{following}**, {found.margin[token]:.3f} logits behind "
        f"E{found.last_chosen[token]}. The smallest push that changes the experts is "
        f"**{100 * found.push[token]:.2g}\u00a0%** of the length of what the router reads.{other}"
        + closer
    )
    view.figure(
        figures.push_ticks(found.push, drawn, view.pieces, token=token, label=label),
        "push_ticks",
        stretch=True,
        words=(label, f"token{token}"),
        on_pick=routing_views.pick_token,
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
        f"Control: {len(drawn):,} random directions, seed 0; "
        f"{np.count_nonzero(drawn <= found.push[token]):,} of them change the experts with a push "
        "of that length."
    )


# --- the tokens that are routed alike -------------------------------------------------


def near(view: View, token: int, layer: int) -> None:
    """The other tokens whose gates in this layer are most like the chosen one's."""
    if view.n_tokens < 2:
        return
    st.markdown("**Tokens that this router sees alike**")
    pairs = routing_statistics.pair_distances(view.key, layer, view.trace)
    found = router_geometry.neighbours(view.trace, layer, token, count=NEIGHBOURS, pairs=pairs)
    drawn = "" if found.seed is None else f" drawn with seed {found.seed}"
    chance = found.best_of_random
    verdict = "is" if chance <= 0.05 else "is not"
    st.caption(
        f"The nearest, “{figures.visible(view.pieces[found.tokens[0]])}” (token "
        f"{found.tokens[0]}), is {found.distance[0]:.3f} away; half of this layer's "
        f"{found.pairs:,} pairs{drawn} are further apart than {found.median:.3f}. That {verdict} "
        f"nearer than the best of {view.n_tokens - 1:,} random pairs would be "
        f"(p {p_value_text(chance)}). "
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
    st.dataframe(
        columns,
        hide_index=True,
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


# --- what the model expects next ------------------------------------------------------


def fill_lens(slot: Any, view: View, token: int, layer: int, choice: Any, *, asked: bool) -> None:
    """Candidates for the next token after the chosen layer, beside the whole model's.

    Args:
        place: what `show` returned.
        choice: the model that runs prompts here, if any.
        asked: the model is loaded for it only when a button is pressed.
    """
    with slot:
        found = lens_of(view, choice, asked=asked)
        if found is None:
            candidates(view, token)
            return
        kl = found.kl[:, token]
        typical = np.median(found.kl, axis=1)
        others = np.delete(found.kl[layer], token)
        nearer = ""
        if len(others):
            share = percent(float(np.mean(others < kl[layer])))
            nearer = f", {share} of its other tokens are nearer their end"
        st.markdown(
            f"**Next token.** If the model ended after {view.labels[layer]}, it would most expect "
            f"“{figures.visible(str(found.pieces[layer, token, 0]))}” "
            f"({found.probs[layer, token, 0]:.3f}); as a whole, "
            f"“{figures.visible(str(found.pieces[-1, token, 0]))}” "
            f"({found.probs[-1, token, 0]:.3f}). KL(whole ‖ up to {view.labels[layer]}) is "
            f"{kl[layer]:.2f} nats; median of the text {typical[layer]:.2f}{nearer}."
        )
        left, middle, right = st.columns([5, 4, 4], gap="medium")
        with left:
            course(view, found, token, layer)
        with middle:
            bars(view, found, token, layer)
        with right:
            candidates(view, token)


def course(view: View, found: Any, token: int, layer: int) -> None:
    """The likeliest next token after every layer."""
    view.figure(
        figures.logit_lens_by_layer(
            [str(piece) for piece in found.pieces[:, token, 0]],
            found.probs[:, token, 0],
            found.kl[:, token],
            view.labels,
            layer=layer,
            usual=np.median(found.kl, axis=1),
            after=view.pieces[token],
        ),
        "logit_lens",
        stretch=True,
        words=(f"token{token}",),
        on_pick=routing_views.pick_layer,
        table=lambda: csv_text.table_csv(
            {
                "layer": view.labels,
                "likeliest next": [str(piece) for piece in found.pieces[:, token, 0]],
                "probability": found.probs[:, token, 0],
                "KL from the whole model (nats)": found.kl[:, token],
                "median KL of the text's tokens": np.median(found.kl, axis=1),
            }
        ),
    )


def bars(view: View, found: Any, token: int, layer: int) -> None:
    """The likeliest next tokens after the chosen layer."""
    ids = [int(i) for i in found.tokens[layer, token]]
    names = [str(piece) for piece in found.pieces[layer, token]]
    following = int(view.trace.tokens[token + 1]) if token + 1 < view.n_tokens else None
    view.figure(
        figures.candidate_bars(
            names,
            found.probs[layer, token],
            after=view.pieces[token],
            chosen=ids.index(following) if following in ids else None,
            up_to=view.labels[layer],
        ),
        "lens_candidates",
        stretch=True,
        words=(view.labels[layer], f"token{token}"),
        table=lambda: csv_text.table_csv(
            {"token id": ids, "piece": names, "probability": found.probs[layer, token]}
        ),
    )


def candidates(view: View, token: int) -> None:
    """The tokens that the model thinks come next."""
    trace = view.trace
    ids = [int(i) for i in trace.candidates[token]]
    if not ids:
        st.caption("The trace holds no candidates for the next token.")
        return
    names = (
        [str(piece) for piece in trace.candidate_pieces[token]]
        if trace.candidate_pieces is not None
        else [f"id {i}" for i in ids]
    )
    following = int(trace.tokens[token + 1]) if token + 1 < view.n_tokens else None
    view.figure(
        figures.candidate_bars(
            names,
            trace.candidate_probs[token],
            after=view.pieces[token],
            chosen=ids.index(following) if following in ids else None,
        ),
        "next_token_candidates",
        stretch=True,
        words=(f"token{token}",),
        table=lambda: csv_text.table_csv(
            {"token id": ids, "piece": names, "probability": trace.candidate_probs[token]}
        ),
    )


def lens_of(view: View, choice: Any, *, asked: bool) -> Any:
    """The logit lens of a trace, read once a session, or None after saying why not."""
    trace = view.trace
    key = lens_key(trace)
    kept: dict[str, Any] = st.session_state.setdefault(LENSES, {})
    if key in kept:
        return kept[key]
    why = None
    if trace.settings.get("interventions"):
        why = "This run was changed by an intervention, so no logit lens is read here."
    elif choice is None:
        why = "The logit lens needs the model; none can run here."
    if why is not None:
        st.caption(why)
        return None
    apart = choice.streamed and stream_cost.needs_asking(choice, stream_cost.lens(trace))
    if (
        asked
        and not apart
        and not st.button("Read the logit lens", icon=":material/layers:", key="read_lens")
    ):
        return None
    dtype = str(trace.settings.get("dtype", "bfloat16"))
    strange = f"{key} {choice.path}"  # where the model turned out to be another one

    def read(on_wait: Any, on_load: Any) -> Any:
        model = shared_models.shared(choice, dtype, on_load)
        if model.model.sha256 != trace.model_sha256:
            return ""
        return model.logit_lens(np.asarray(trace.tokens), on_wait=on_wait)

    def keep(found: Any) -> None:
        while len(kept) >= MOST_LENSES:
            kept.pop(next(iter(kept)))
        kept[strange if found == "" else key] = found

    if strange in kept:
        found: Any = ""
    elif apart:
        stream_progress.button(
            choice, "Read the logit lens", stream_cost.lens(trace), "read_lens", read, keep
        )
        return None
    else:
        found = prompt_form.run_guarded(read, "Reading what each layer expects next")
    if found == "":
        st.caption("The logit lens needs the model that made the trace; it is not the one here.")
        return None
    if found is not None:
        keep(found)
    return found


def lens_key(trace: Any) -> str:
    """Hash of what the logit lens of a trace depends on."""
    digest = hashlib.sha256(f"{trace.model_sha256}|{trace.settings.get('dtype')}|".encode())
    digest.update(np.ascontiguousarray(trace.tokens, "<i4").data)
    return digest.hexdigest()
