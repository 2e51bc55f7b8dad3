"""Compare: two texts, or one text as it is and under a change, token beside token."""

from __future__ import annotations

import streamlit as st

from lens.errors import LensError
from lens.words import counted
from pages.access.messages import told
from pages.hosting import tabs
from pages.live.compare import (
    examples,
    run,
    significance,
    views,
    words,
)
from pages.live.compare.run import CHANGES, Change, Result
from pages.live.compare.views import Comparison
from pages.live.running import prompt_form, stream_choice, stream_cost, stream_progress
from pages.live.running.controls import model_labels
from pages.live.session import kept_traces, prompts, shared_models
from pages.live.session.mode_context import ModeContext
from pages.shell import layout, links, null_settings, parts
from pages.shell.finding_block import Headline
from pages.shell.session_keys import SessionKey, SessionValue

INVITATION = (
    "Lay two texts side by side, or one with and without a change, and see where the routing "
    "differs."
)
HOW_TO_READ = """
**Alignment.** The fewest substituted, deleted and inserted tokens that turn one text into the
other; of equally few, the most equal tokens and the fewest pieces. Compared are pairs of the
**same token** after the first difference: before it two runs of one model are the same run. Under a
change all tokens are compared.

- **Experts in common** |A ∩ B| / K: 1 the same experts, 0 none. By chance: one run's tokens put
  into another order, turned round and in shuffled blocks, so that loads and the likeness of
  neighbours stay. Above chance the token itself decides; what is missing to 1, its context does.
- **Fading**: Spearman's correlation of the experts a token keeps (mean over layers) with the number
  of same tokens since the last change; the null shuffles blocks of neighbours.
- **Difference** of margin, lead (logits or scores), entropy (nats) or largest gate (probability or
  score): first less second. If it is all the same which run a token is taken from, either sign is
  as likely: the null flips the signs of whole **blocks** of neighbouring tokens, in all layers
  alike. By layer the mean difference, two-sided, Benjamini–Hochberg over the layers (q); over all
  layers Σ (Σ_b s_b D_b)² / Σ_b D_b², where D are sums of blocks and s signs.
- **Blocks**: neighbours share their context, so they are no independent observations. A block holds
  three times as many tokens as count as one: (1 + r) / (1 − r), r the correlation of neighbours in
  what is tested, or 1 + 2 Σ ρ over the correlations of tokens further apart where that is more; at
  least 8, at most a sixth of the tokens. Where fewer than six such stretches are left, there are
  **too few independent tokens**. n blocks allow no p below 2 / 2ⁿ. A difference that drifts all
  along the texts is not told from one that stays.
- **Loads** of the same tokens: share of (token, slot) assignments, first less second; the same
  flips, Benjamini–Hochberg over all layers and experts.
- **Next tokens**: total variation ½ Σ |p − q|, 0 to 1. A run lists its likeliest tokens alone, so
  only bounds of it are known: bars at least, lines at most. Under a change KL(as it is ‖ changed)
  over the whole vocabulary is known too, beside the same change on other experts of the layer (or,
  for a temperature, in other layers).

Two texts differ in the places of their tokens too, and routing depends on these. A p-value speaks
of such tokens in these two texts, not of texts in general. Numbers of experts carry no meaning
across layers.
"""
SIDES = {
    "texts": "Two texts",
    "change": "One text, one change",
    "traces": "Traces of this session",
}
KEPT = SessionValue[dict[str, Result]](SessionKey.COMPARED)


def form(choice: shared_models.ModelChoice, side: str, shown: Result | None) -> None:
    """The texts, or the text and its change, and the button that runs them.

    Args:
        choice: the model.
        side: kind of comparison, a name in `SIDES`.
        shown: the comparison that is shown; the form folds to a line beside one.
    """
    by_ids = not choice.has_tokenizer
    if side == "texts":
        ready = examples.ID_TEXTS if by_ids else examples.TEXT_EXAMPLES
    else:
        ready = examples.ID_CHANGES if by_ids else examples.CHANGE_EXAMPLES
    clicked = prompt_form.examples_row(f"compare_example_{side}", ready)
    kind = "ban"
    if side == "change":
        kind = links.segments(
            "change",
            "Change",
            list(CHANGES),
            "ban",
            shown=CHANGES.__getitem__,
        )
    unit = "token ids (this model has no tokenizer)" if by_ids else "text"
    other, change = "", None
    line = None if shown is None else kept_traces.text_of(shown.first)
    with prompt_form.fold(line, "Your own texts"), st.form("compare", border=False):
        if side == "texts":
            left, right = st.columns(2)
            with left:
                text = prompt_form.text_box("prompt", f"First {unit}", height=150)
            with right:
                other = prompt_form.text_box("second_prompt", f"Second {unit}", height=150)
        else:
            text = prompt_form.text_box("prompt", unit.capitalize(), height=150)
            change = change_controls(choice, kind)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            submitted = st.form_submit_button(
                stream_choice.label(choice, "Run"),
                type="primary",
                icon=":material/play_arrow:",
                help="Ctrl+Enter",
                key="run_compare",
            )
            st.caption(f"Up to {prompts.prompt_limit():,} tokens each. {tabs.FOR_YOU_ALONE}")
    if submitted or clicked:
        compare(choice, side, text, other, change)
    prompt_form.stale_note(f"compare_{side}", shown, text, other, change)


def compare(
    choice: shared_models.ModelChoice, side: str, text: str, other: str, change: Change | None
) -> None:
    """Run both, or show what a streamed model needs for it.

    Args:
        choice: the model.
        side: kind of comparison, a name in `SIDES`.
        text: the first text, or the only one.
        other: the second text.
        change: of the only text; None for two texts.
    """

    def keep(found: Result) -> None:
        KEPT.kept(dict)[side] = found
        prompt_form.is_of(f"compare_{side}", found, text, other, change)
        links.forget("pair")
        links.forget("layer")

    def work() -> stream_cost.Work:
        if change is None:
            return stream_cost.together(choice, [text, other])
        n_layers = len(choice.config.moe_layers)
        others = change.elsewhere(n_layers, choice.config.n_experts)
        return stream_cost.changed(choice, text, 1 + len(others))

    if prompt_form.run_or_ask(
        choice,
        "Compare the texts" if change is None else "Run it as it is and changed",
        work,
        lambda *told: (
            run.two_texts(choice, "bfloat16", text, other, *told)
            if change is None
            else run.one_change(choice, "bfloat16", text, change, *told)
        ),
        keep,
    ):
        prompt_form.draw_again()


def change_controls(choice: shared_models.ModelChoice, kind: str) -> Change:
    """The layer, and the expert or the temperature, of a change."""
    layers = model_labels(choice)
    one, two = st.columns(2)
    with one:
        every = {"all": run.ALL} if kind == "temperature" else {}
        layer = links.choice(
            "change_layer",
            "In layer",
            {**{name.removeprefix("L"): row for row, name in enumerate(layers)}, **every},
            0,
            shown=lambda layer: "all layers" if layer == run.ALL else layers[layer],
        )
    with two:
        if kind == "temperature":
            warmth = links.decimal(
                "warmth",
                "Temperature",
                0.25,
                4.0,
                2.0,
                help="Divides the router's logits: above 1 its gates become more alike.",
            )
            return Change(kind, layer, temperature=warmth)
        expert = layout.expert_choice(choice.config.n_experts)
    return Change(kind, layer, expert)


def session_traces() -> Result | None:
    """Two traces that this session holds already: run in Inspect, or opened from a file."""
    kept = kept_traces.kept()
    if len(kept) < 2:
        st.info(
            f"This session holds {len(kept)} of the two traces that a comparison takes. Run a "
            "prompt in Inspect, with a second one, or open a saved trace from the sidebar."
        )
        return None
    slots = list(kept)
    one, two = st.columns(2)
    with one:
        first = links.choice("one", "First", slots, slots[0], shown=kept_traces.name_of)
    with two:
        rest = [slot for slot in slots if slot != first]
        second = links.choice("other", "Second", rest, rest[0], shown=kept_traces.name_of)
    names = (kept_traces.SLOTS[first].lower(), kept_traces.SLOTS[second].lower())
    try:
        return run.two_traces(kept[first], kept[second], names)
    except LensError as error:
        st.error(told(error), icon=":material/error:")
        return None


def results(result: Result, context: ModeContext) -> Headline:
    """Everything about two runs, the texts first; returns the finding."""
    texts, looked_at, tests = st.container(), st.container(), st.container()
    with tests:
        comparison = Comparison(result, context.routers, *chance())
    with looked_at:
        pair, layer, what = views.selectors(comparison)
        try:
            views.difference_map(comparison, pair, layer, what)
        except LensError as error:  # a model that chooses nothing has no margins
            st.info(told(error))
        with st.container(border=True):
            views.cell(comparison, pair, layer)
    with texts:
        views.strip(comparison, pair)
    if len(comparison.runs.pairs) == 0:
        return nothing_shared(result)
    with tests:
        fold = parts.statistics_fold(
            "Statistics: each difference beside chance", "compare_statistics", "differences"
        )
        if fold.open:
            with fold:
                statistics(comparison, (pair, layer), what)
    return [words.finding(comparison, what)]


def chance() -> tuple[int | None, null_settings.NullSettings]:
    """Block of neighbouring tokens, None for the rule's, and draws of every null of two runs."""
    with null_settings.place():
        null = null_settings.controls()
        block = links.number(
            "block",
            "Block of neighbouring tokens",
            0,
            64,
            0,
            help="Neighbouring tokens that count as one observation in every null here; 0: as many "
            "as their likeness asks for, in each test.",
        )
    return block or None, null


def statistics(comparison: Comparison, picked: tuple[int, int], what: str) -> None:
    """A tab for each question that is asked of two runs.

    Args:
        comparison: the runs.
        picked: the pair and the layer that are looked at.
        what: the map shows.
    """
    for tab, container in links.tabs("differences", significance.PARTS):
        with container:
            try:
                if tab == "agreement":
                    significance.agreement(comparison)
                elif tab == "fading":
                    significance.fading(comparison)
                elif tab == "difference":
                    significance.difference(comparison, what)
                elif tab == "loads":
                    significance.loads(comparison, picked[1])
                else:
                    significance.next_tokens(comparison, picked[0])
            except LensError as error:
                st.info(told(error))


def nothing_shared(result: Result) -> str:
    """The reason why there is nothing to test."""
    start = result.alignment.common_start
    if start == result.alignment.n_pairs:
        return (
            f"The two texts are the same {counted(start, 'token')}, and so is their routing. "
            "Change one of them."
        )
    return (
        "The two texts share no token after their first difference, so there is nothing to "
        "compare. Choose texts with words in common."
    )


def show(context: ModeContext) -> None:
    """The mode: a form, then the two runs beside each other."""
    with context.bar:
        side = links.segments(
            "sides",
            "Side by side",
            list(SIDES),
            "texts",
            shown=SIDES.__getitem__,
            collapsed=True,
        )
    if side == "traces":
        result = session_traces()
    else:
        if context.choice is not None:
            form(context.choice, side, KEPT.kept(dict).get(side))
            stream_progress.board()
        else:
            st.info(
                "No model can run prompts here. Traces saved elsewhere can be compared under "
                f"“{SIDES['traces']}”: open one from the sidebar."
            )
        result = KEPT.kept(dict).get(side)
    if result is None:
        context.heading(INVITATION, HOW_TO_READ)
        return
    try:
        found: Headline = results(result, context)
    except LensError as error:
        st.error(told(error), icon=":material/error:")
        found = INVITATION
    context.heading(found, HOW_TO_READ)
