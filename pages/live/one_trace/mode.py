"""One routed text: token strip, map of all layers, the chosen cell, its statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from grok.trace import RoutingTrace
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.finding import Finding, strongest
from lens.routers.router_set import RouterSet
from lens.traces import RoutedText, layer_numbers
from pages.access.messages import told
from pages.hosting import tabs
from pages.live.circuit import view as circuit_view
from pages.live.one_trace import (
    cell_keys,
    cell_view,
    examples,
    logit_lens,
    routing_shape,
    routing_statistics,
    routing_views,
    text_parts,
    why_expert,
)
from pages.live.one_trace.routing_views import CELL, STATISTICS, View
from pages.live.running import chat, prompt_form, stream_choice, stream_cost, stream_progress
from pages.live.session import generation, kept_traces, mode_context, prompts, shared_models
from pages.live.session.mode_context import ModeContext
from pages.shell import data_source, links, parts

HOW_TO_READ = """
The chosen cell, one token in one layer:

- **Smallest push**: what the router reads is a vector of fixed length √d_model. Another expert
  comes in where it crosses one of the planes x · (w_a − w_b) = 0; the distance to the nearest,
  (z_a − z_b) / ‖w_a − w_b‖, is given as a share of that length, and is the same share of the
  residual stream before the norm. The control are directions that the layer reads but that mean
  no expert: from one mixture of its experts to another. Unrelated directions have to go far more.
- **Logit lens**: the final norm and the unembedding put behind a layer. KL(whole ‖ up to here) in
  nats: 0 where the rest of the model changes nothing. An early layer's stream is one that the
  model never reads this way.
- **Why this expert**: with the norm's scale held a router is linear, so a logit is exactly biases
  plus features plus what the dictionary misses. That is an account, no Shapley value, and no cause
  until the model is run with a change. What is missed stands beside it: where it is most of the
  choice, the features say little of it.
- **Tokens seen alike**: √ of the Jensen–Shannon divergence of two tokens' gates, 0 to √ln 2. The
  nearest of many tokens is near by chance; p is the rank of its distance among those of all
  tokens of the text to their nearest ones.
- **Agreement** with a second text: |A ∩ B| / K of aligned tokens; even choices share K / E. The
  null pairs the same tokens at random.
- **Prompt and generated**: half the sum of the differences of the loads. A **jump** at the border,
  of windows either side of it, stands beside the same at all other borders of the text: a drift
  changes loads everywhere, so only a jump says that generation routes otherwise. The parts as a
  whole stand beside parts of the same lengths elsewhere in the text; there a drift is found too.

"""
HOW_TO_READ += circuit_view.HOW_TO_READ + mode_context.HOW_TO_READ
STATISTICS_FOLD = "text_statistics"  # key of the fold around the statistics
# Tabs of the statistics that show the chosen layer, or what the map shows.
OF_THE_CELL = ("pairs", "margins", "paths", "compare")
INVITATION = "Type a text to see which experts each token goes to, and how close each choice was."


def form(choice: shared_models.ModelChoice, shown: RoutedText | None) -> None:
    """The prompt and the settings of its run, folded to a line where there is a result.

    Args:
        choice: the model.
        shown: the trace that is shown; None where there is none.
    """
    clicked = examples.row(choice.has_tokenizer)
    label = "Prompt" if choice.has_tokenizer else "Token ids (this model has no tokenizer)"
    line = None if shown is None else kept_traces.text_of(shown)
    with prompt_form.fold(line), st.form("run", border=False):
        left, right = st.columns(2)
        with left:
            text = prompt_form.text_box(
                "prompt", label, placeholder="Type a text; Ctrl+Enter sends it."
            )
        with right:
            second = prompt_form.text_box("second_prompt", "Second prompt, to compare (optional)")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            submitted = st.form_submit_button(
                stream_choice.label(choice, "Run"),
                type="primary",
                icon=":material/play_arrow:",
                help="Ctrl+Enter",
            )
            dtype = st.selectbox("Numbers", ["bfloat16", "float32"], key="dtype", width=140)
            as_chat = chat.control(choice)
            st.caption(f"Up to {prompts.prompt_limit():,} tokens. {tabs.FOR_YOU_ALONE}")
    read = chat.texts(choice, text, second, as_chat=as_chat and not clicked)
    if read is None:
        return
    if submitted or (clicked and not examples.is_shown(text, second, shown)):
        run(prompts.Request(choice, str(dtype)), *read)
    prompt_form.stale_note("inspect", shown, *read)


def run(request: prompts.Request, text: str, second: str) -> None:
    """Run one or two prompts and keep what came out for this session."""
    texts = [text, second] if second.strip() else [text]

    def keep(found: list[RoutingTrace]) -> None:
        links.choose(**examples.ran(text, second, found[0]))
        kept_traces.keep("first", found[0])
        kept_traces.keep("second", found[1] if len(found) > 1 else None)
        data_source.TRACE_SHOWN.set("first")
        prompt_form.is_of("inspect", found[0], text, second)
        links.forget("token")
        links.forget("layer")

    if prompt_form.run_or_ask(
        request.model,
        "Trace this prompt" if len(texts) == 1 else "Trace both prompts",
        lambda: stream_cost.together(request.model, texts),
        lambda *told: prompts.run_all(request, texts, *told),
        keep,
    ):
        prompt_form.draw_again()


def findings(view: View) -> list[Finding]:
    """What an example was chosen to show, and the expert that most tokens go to."""
    general = routing_statistics.busiest_expert(view.key, tuple(view.labels), view.trace)
    own = examples.finding(view)
    return [general] if own is None else [own, general]


def choose_trace(kept: dict[str, RoutedText]) -> RoutedText:
    """The trace to show, chosen where there are several."""
    current = data_source.TRACE_SHOWN.get()
    if current is None or current not in kept:
        current = next(iter(kept))
    if len(kept) > 1:
        shown = st.segmented_control(
            "Shown",
            list(kept),
            format_func=lambda slot: as_markdown(kept_traces.name_of(slot)),
            required=True,
            key="trace_choice",
            default=current,
        )
        current = shown or current
    data_source.TRACE_SHOWN.set(current)
    return kept[current]


def save_button(trace: RoutedText) -> None:
    """Download of a trace that was made here."""
    if isinstance(trace, RoutingTrace):  # a trace opened from a file is saved already
        st.download_button(
            "Save trace (.npz)",
            lambda: kept_traces.file_bytes(trace),
            file_name=kept_traces.file_name(trace),
            mime="application/octet-stream",
            key="save_trace",
            on_click="ignore",
            icon=":material/download:",
        )


def view_of(trace: RoutedText, kept: dict[str, RoutedText], routers: RouterSet) -> View:
    """A trace, with another one of the session to compare with."""
    other = next((one for one in kept.values() if one is not trace), None)
    return View(trace, routers, kept_traces.labels(trace, routers), other)


@dataclass
class Inspected:
    """What the parts of this mode that are drawn alone have in common.

    Attributes:
        view: the trace.
        kept: the traces of this session.
        place: layer and expert of what was found, which is looked at first.
        choice: the model that runs prompts here, if any.
        stored: the trace was opened, not made here: its logit lens waits for a press.
        beside: tab of the statistics that is open, with the layer and the map's value that it
            was drawn with.
    """

    view: View
    kept: dict[str, RoutedText]
    place: tuple[int, int] | None
    choice: shared_models.ModelChoice | None
    stored: bool
    beside: tuple[str, int, str] | None = None

    def lens(self, slot: DeltaGenerator, token: int, layer: int) -> None:
        """The logit lens of a cell."""
        logit_lens.fill(slot, self.view, token, layer, self.choice, asked=self.stored)


@parts.part(key=CELL)
def cell_part(shown: Inspected) -> tuple[DeltaGenerator, int, int] | None:
    """The text, the map and the chosen cell: drawn alone when another cell is chosen.

    Returns:
        Where the cell's logit lens goes, with its token and layer; None where it is there.
    """
    view = shown.view
    token, layer, what = routing_views.selectors(view, shown.place)
    if parts.alone() and shown.beside is not None:
        tab, *drawn_with = shown.beside
        if tab in OF_THE_CELL and drawn_with != [layer, what]:
            st.rerun()  # the statistics below are of another layer
    text, card = st.container(), st.container()
    with card:  # first: what a move is made for
        slot = cell_view.show(view, token, layer)
        why, circuit = why_expert.place(), circuit_view.place()
    with text:
        routing_views.strip(view, token, layer, what)
        if what == "agreement":
            routing_views.agreement_note(view)
        routing_views.token_map(view, token, layer, what)
        cell_keys.show("token_layer_map", token, layer, view.n_tokens, view.n_layers)
    why_expert.fill(why, view, token, layer, shown.choice)
    at = (token, layer, int(layer_numbers(view.trace)[layer]))
    circuit_view.fill(circuit, view.trace, shown.choice, view.key, at)
    parts.drawn()
    if parts.alone() or logit_lens.at_once(view, asked=shown.stored):
        shown.lens(slot, token, layer)
        return None
    return slot, token, layer


@parts.part(key=STATISTICS)
def statistics_part(shown: Inspected) -> None:
    """The text as a whole: drawn alone when it is unfolded, or another tab is opened."""
    fold = parts.statistics_fold(
        "Statistics of this text: load, pairs, order, margins, paths", STATISTICS_FOLD, "part"
    )
    if fold.open:
        with fold:
            statistics(shown)
    else:
        shown.beside = None
    parts.drawn()


def statistics(shown: Inspected) -> None:
    """The tabs of the statistics, and what is in the open one."""
    view = shown.view
    layer, what = links.chosen("layer", 0), links.chosen("what", "margin")
    both = {"parts": "Prompt and generated"} if text_parts.has_both(view) else {}
    names = both | {
        "load": "Load",
        "pairs": "Co-selection",
        "compare": "Second text",
        "order": "Order and balance",
        "information": "Information",
        "margins": "Margins",
        "prediction": "Predicted load",
        "paths": "Paths",
    }
    for tab, container in links.tabs("part", names):
        shown.beside = (tab, layer, what)
        with container:
            try:
                draw_tab(tab, view, shown.kept, layer, what)
            except LensError as error:
                st.info(told(error))


def results(shown: Inspected, heading: Callable[[], None]) -> None:
    """Everything about one trace, from the text down to its paths, then the page's heading."""
    trace, routers = shown.view.trace, shown.view.routers
    if trace.model_sha256 != routers.sha256:
        st.caption(
            f"The trace was made by a model with routers `{trace.model_sha256[:12]}`, not by "
            "the routers that the other pages show."
        )
    missing = cell_part(shown)
    statistics_part(shown)
    heading()
    if missing is not None:
        shown.lens(*missing)


def draw_tab(tab: str, view: View, kept: dict[str, RoutedText], layer: int, what: str) -> None:
    """The statistics of the open tab."""
    if tab == "parts":
        text_parts.show(view)
    elif tab == "load":
        routing_views.load(view, layer)
    elif tab == "pairs":
        routing_views.coselection(view, layer)
    elif tab == "compare":
        comparison(view, kept, what)
    elif tab == "order":
        routing_views.order(view)
    elif tab == "information":
        routing_shape.information(view)
    elif tab == "margins":
        routing_shape.margin_distribution(view, layer)
    elif tab == "prediction":
        routing_shape.predicted_load(view.routers, view.trace, view.labels)
    else:
        routing_views.paths(view, layer)


def comparison(view: View, kept: dict[str, RoutedText], what: str) -> None:
    """The trace shown against another one of this session."""
    others = [slot for slot, trace in kept.items() if trace is not view.trace]
    if not others:
        st.info("Give a second prompt under “Your own text”, or open a saved trace.")
        return
    slot = others[0]
    other = View(kept[slot], view.routers, kept_traces.labels(kept[slot], view.routers))
    name = as_markdown(kept_traces.name_of(slot))
    st.markdown(f"The trace shown minus **{name[0].lower()}{name[1:]}**, aligned by position.")
    routing_views.compare(view, other, what)


def show(context: ModeContext) -> None:
    """The mode: a form, then the trace it made or another one of this session."""
    generation.finish()  # of a run in Generate that coming here has ended
    kept = kept_traces.kept() or examples.stored(context.choice)
    if context.choice is not None:
        form(context.choice, kept_traces.shown_of(kept))
    stream_progress.board()
    if not kept:
        context.heading(INVITATION)
        return
    top = st.container(horizontal=True, vertical_alignment="bottom")
    with top:
        trace = choose_trace(kept)
        save_button(trace)
    if trace is kept.get("file"):
        st.caption(f":material/description: {as_markdown(kept_traces.name_of('file'))}")
    view = view_of(trace, kept, context.routers)
    said = findings(view)
    places = [one.place for one in (strongest(said), *said) if one.place is not None]
    stored = any(trace is kept.get(slot) for slot in ("file", "example"))
    shown = Inspected(view, kept, places[0] if places else None, context.choice, stored)
    results(shown, lambda: context.heading(said, HOW_TO_READ))
