"""One expert banned, or given to every token: the run beside the one as it is."""

from __future__ import annotations

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lens import figures
from lens.figures.prompt_pairs import interventions as intervention_figures
from lens.finding import Finding
from lens.findings import of_pairs
from lens.prompt_pairs import interventions
from lens.prompt_pairs.interventions import AmongOthers
from lens.storage import csv_text
from lens.tables import routers as router_tables
from lens.words import p_value_text, percent, significant
from pages.live.one_trace import routing_views
from pages.live.running import prompt_form, stream_choice, stream_cost, stream_progress
from pages.live.running.controls import dtype_choice, model_labels
from pages.live.session import shared_models
from pages.live.session.mode_context import ModeContext
from pages.live.what_if import examples
from pages.live.what_if.one_expert_run import SEED, Request, Result, computed, others_of
from pages.shell import layout, links
from pages.shell.picks import pick_token
from pages.shell.session_keys import SessionKey, SessionValue

ACTIONS = {"ban": "Ban it", "include": "Give it to every token"}
SAID = {"ban": "ban", "include": "give every token"}
DONE = {"ban": "Banning {0}", "include": "Giving every token {0}"}
# Seconds that a run may take to be made anew whenever a choice changes.
QUICK = 2.0
KEPT = SessionValue[Result](SessionKey.WHAT_IF_ONE)


def ask(request: Request, choice: shared_models.ModelChoice) -> None:
    """Run it, or show what a streamed model needs for it."""
    others = others_of(request.expert, choice.config.n_experts)
    ran = prompt_form.run_or_ask(
        choice,
        f"{ACTIONS[request.action]} and look",
        # The last one takes the same tokens' other expert.
        lambda: stream_cost.changed(
            choice, request.text, 1 + len(others), 1 if request.action == "ban" else 0
        ),
        lambda *told: computed(request, choice, *told),
        KEPT.set,
    )
    if not ran and not choice.streamed:
        KEPT.drop()  # nothing is shown beside an error; a run cut short leaves the last result


def show(context: ModeContext, choice: shared_models.ModelChoice) -> Finding | None:
    """The question's controls and, after a run, its answer; returns the finding."""
    known = KEPT.get()
    known = known if known is not None and known.request.path == choice.path else None
    shown = None if known is None else known.request.text
    clicked = examples.row(choice, examples.ONE)
    with prompt_form.fold(shown):
        text = examples.text_box(choice)
        dtype = dtype_choice()
    labels = model_labels(choice)
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    with row:
        layer, expert, action, asked = sentence(choice, labels)
    request = Request(choice.path, dtype, text, layer, expert, action)
    again = (
        known is not None
        and known.request.prompt == request.prompt
        and known.request != request
        and known.seconds < QUICK
    )
    if asked or clicked or again:
        ask(request, choice)
        known = KEPT.get()
        if known is not None and known.request.text != shown:
            prompt_form.draw_again()
    stream_progress.board()
    if known is None or known.request.path != choice.path:
        return None
    if known.request != request:
        st.caption("Below is the last run; press Run for what is chosen now.")
    return answer(known, context, labels, row)


def sentence(choice: shared_models.ModelChoice, labels: list[str]) -> tuple[int, int, str, bool]:
    """What is to be done, as a sentence to fill in: layer, expert, action, Run pressed."""
    rows = {text.removeprefix("L"): row for row, text in enumerate(labels)}
    st.markdown("In", width="content")
    layer = links.choice(
        "layer", "Layer", rows, 0, shown=labels.__getitem__, collapsed=True, width=90
    )
    action = links.choice(
        "action",
        "What if",
        list(SAID),
        "ban",
        shown=SAID.__getitem__,
        collapsed=True,
        width=180,
    )
    experts = range(choice.config.n_experts)
    expert = links.choice(
        "expert", "Expert", experts, 0, shown=layout.expert_name, collapsed=True, width=90
    )
    st.markdown("for this text", width="content")
    asked = st.button(
        stream_choice.label(choice, "Run"),
        type="primary",
        icon=":material/play_arrow:",
        key="run_one",
    )
    return layer, expert, action, asked


def finding(result: Result, name: str, among: AmongOthers) -> Finding:
    """Effect of the intervention, beside the same on the layer's other experts."""
    request = result.request
    banned = request.action == "ban"
    return of_pairs.one_change(
        DONE[request.action].format(name),
        f"Without {name}" if banned else "",
        among,
        "other experts of its layer",
        details(result, name, among),
        used=not banned or interventions.use(result.own.base, request.layer, request.expert) > 0,
    )


def details(result: Result, name: str, among: AmongOthers) -> str:
    """Effect of the intervention, beside the same on the layer's other experts, in words."""
    request, n = result.request, result.own.kl.size
    used = interventions.use(result.own.base, request.layer, request.expert)
    count = among.others.size + 1
    verdict = f"rank {among.rank} of {count}, p {p_value_text(among.p)}: " + (
        "more than another expert of the layer"
        if among.p <= 0.05
        else f"more than every other, which is all that {count} experts can show"
        if among.rank == 1
        else "not distinguishable from another expert of the layer"
    )
    return (
        f"{DONE[request.action].format(name)}, which {percent(used)} of {n:,} tokens use, changes "
        f"what the model expects next by {significant(among.value)} nats a token (KL). The same on "
        f"{among.others.size} other experts of the layer: {significant(among.others.min())} to "
        f"{significant(among.others.max())}, mean {significant(among.others.mean())} ({verdict})."
    ) + same_tokens_text(result)


def same_tokens_text(result: Result) -> str:
    """The expert beside another one of the same tokens, in words; empty where not asked."""
    if result.instead is None:
        return ""
    beside = interventions.beside_same_tokens(result.own.kl, result.instead, seed=SEED)
    if beside.blocks.too_few:
        verdict = "too few independent tokens to tell the two apart"
    elif beside.p > 0.05:
        verdict = f"not distinguishable, p {p_value_text(beside.p)}"
    else:
        way = "less" if beside.instead < beside.value else "more"
        verdict = f"{way}, p {p_value_text(beside.p)}"
    own, other = mix_shares(result)
    return (
        f" Where tokens have another expert, it weighs {percent(other)} of the mix to this one's "
        f"{percent(own)}; when they lose their other expert instead: {significant(beside.instead)} "
        f"({verdict})."
    )


def mix_shares(result: Result) -> tuple[float, float]:
    """Mean share of the mix of the expert and of the other one, where tokens have both."""
    layer, both = result.request.layer, result.other_choice
    own = np.where(both >= 0, result.request.expert, -1)
    first, second = (
        float(np.nanmean(interventions.mix_share(result.own.base, layer, experts)))
        for experts in (own, both)
    )
    return first, second


def answer(result: Result, context: ModeContext, labels: list[str], row: DeltaGenerator) -> Finding:
    """Figures of one intervention, whose token is chosen in a row above; returns the finding."""
    request, own = result.request, result.own
    name = f"{labels[request.layer]}·E{request.expert}"
    among = interventions.among_others(own.kl.mean(), result.kl.mean(axis=1))
    view = routing_views.View(own.changed, context.routers, labels)
    words = (name.replace("·", ""), request.action)
    most = int(own.kl.argmax())
    with row:
        st.markdown("Look after", width="content")
        token = links.choice(
            "token",
            "After which token? (opens where the change is largest)",
            range(view.n_tokens),
            most,
            shown=lambda t: f"{t} · {figures.visible(view.pieces[t])}",
            collapsed=True,
            width=180,
        )
    left, right = st.columns(2, gap="large")
    with left:
        next_tokens(result, view, token, words)
    with right:
        beside_use(result, view, name, words)
    view.figure(
        intervention_figures.change_by_token(
            own.kl, result.kl, view.pieces, name=name, picked=token
        ),
        "change_by_token",
        words=words,
        on_pick=pick_token,
        table=lambda: csv_text.table_csv(
            {
                "token": np.arange(view.n_tokens),
                "piece": view.pieces,
                f"KL, {name} (nats)": own.kl,
                "mean of other experts": result.kl.mean(axis=0),
                "largest of other experts": result.kl.max(axis=0),
            }
        ),
    )
    moved_figures(result, view, name, (token, request.layer), words)
    return finding(result, name, among)


def moved_figures(
    result: Result,
    view: routing_views.View,
    name: str,
    picked: tuple[int, int],
    words: tuple[str, ...],
) -> None:
    """Tokens that have other experts under the intervention, by layer and over all layers."""
    own, labels = result.own, view.labels
    overlap = interventions.overlap(own.base, own.changed)
    view.figure(
        intervention_figures.moved_map(
            overlap, view.pieces, labels, layer=result.request.layer, picked=picked
        ),
        "moved_map",
        words=words,
        on_pick=pick_token,
        table=lambda: router_tables.token_layer_csv(1 - overlap, "exchanged", view.pieces, labels),
    )
    moved = interventions.moved(own.base, own.changed)
    view.figure(
        intervention_figures.moved_by_layer(moved, result.moved, labels, name=name),
        "moved_by_layer",
        words=words,
        table=lambda: csv_text.table_csv(
            {
                "layer": labels,
                f"share of tokens moved, {name}": moved,
                "mean of other experts": result.moved.mean(axis=0),
            }
        ),
    )


def beside_use(result: Result, view: routing_views.View, name: str, words: tuple[str, ...]) -> None:
    """The layer's experts by how much they are used, and the same tokens' other expert."""
    request, base = result.request, result.own.base
    experts = np.array([request.expert, *result.others])
    use = np.array([interventions.use(base, request.layer, e) for e in experts])
    effect = np.array([result.own.kl.mean(), *result.kl.mean(axis=1)])
    beside = None
    if result.instead is not None:
        beside = interventions.beside_same_tokens(result.own.kl, result.instead, seed=SEED)

    def table() -> str:
        order = np.argsort(experts)
        columns = {
            "expert": [f"{view.labels[request.layer]}·E{e}" for e in experts[order]],
            "share of tokens that use it": use[order],
            "mean KL (nats)": effect[order],
        }
        if beside is not None:
            columns["same tokens without their other expert"] = [
                beside.instead if e == request.expert else "" for e in experts[order]
            ]
        return csv_text.table_csv(columns)

    view.figure(
        intervention_figures.effects_in_layer(
            experts.tolist(),
            use,
            effect,
            view.labels[request.layer],
            own=request.expert,
            instead=None if beside is None else beside.instead,
        ),
        "effects_in_layer",
        words=words,
        stretch=True,
        on_pick=lambda mark: links.choose(expert=int(mark["expert"])),
        table=table,
    )
    if beside is None:
        return
    drawn_signs = f"all {beside.draws + 1:,} ways" if beside.exact else f"{beside.draws:,} times"
    st.caption(
        f"Orange less blue: {significant(beside.value - beside.instead, sign=True)} nats a token; "
        f"signs of {beside.blocks.text} flipped {drawn_signs}"
        + ("" if beside.exact else f" (seed {beside.seed})")
        + f": {significant(beside.low, sign=True)} to {significant(beside.high, sign=True)} in "
        f"95\u00a0%, p {p_value_text(beside.p)}, "
        f"at least {significant(beside.smallest_p, 2)}."
    )


def next_tokens(
    result: Result, view: routing_views.View, token: int, words: tuple[str, ...]
) -> None:
    """Next tokens that the model expects after one token, as it is and changed."""
    own = result.own
    before, after = own.base_probs[token], own.changed_probs[token]
    pieces = [str(piece) for piece in own.pieces[token]]
    view.figure(
        intervention_figures.next_tokens_changed(
            pieces, before, after, following=view.pieces[token]
        ),
        "next_tokens_changed",
        words=(*words, f"token{token}"),
        stretch=True,
        table=lambda: csv_text.table_csv(
            {
                "token id": own.tokens[token],
                "piece": pieces,
                "as it is": before,
                "changed": after,
                "change": after - before,
            }
        ),
    )
    st.caption(
        f"KL after this token: {significant(own.kl[token], 4)} nats; others of the layer "
        f"{significant(result.kl[:, token].min())} to {significant(result.kl[:, token].max())}."
    )
