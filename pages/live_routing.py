"""Live routing: which experts each token of a text goes to, and how close each choice is."""

from __future__ import annotations

from typing import Any

import streamlit as st

from grok.errors import GrokError
from lens.errors import LensError
from lens.routers import RouterSet
from pages.parts import (
    data_source,
    layout,
    links,
    many_traces,
    routing_shape,
    routing_views,
    traces,
)

HOW_TO_READ = """
Each layer's router scores every expert for every token; the K best are used. `p = softmax(z)` over
all experts; Grok-1 keeps the gates as they are, without renormalising.

- **Margin** `z_K − z_(K+1)` in logits: how close the choice of experts was. Near 0 another expert
  would have been taken by a small change.
- **Lead** `z_1 − z_2`: decides the mix, not the choice. The **mix** is p_a / (p_a + p_b): the norm
  after the experts cancels the total gate mass.
- **Entropy** of p in nats: 0 certain, ln E when all experts are alike.
- **Load**: share of (token, slot) assignments. The band holds 95 % of the shares that even use
  gives by chance with as many tokens; whiskers are Clopper–Pearson intervals of the share itself,
  which hold together for a layer (Bonferroni).
- **Effective experts** exp(H) of the load: between K and E. Even use of few tokens lies below E;
  the band says how far.
- **Lift** of a pair: tokens that chose both, over what the loads explain: the least committal
  choice of K different experts with these loads, P(S) ∝ Π w_e. 1 is chance. p from the first three
  moments of the count given the loads.
- **Repeats**: chance is 1 / E for the first choice, and 1 − C(E − K, K) / C(E, K) for any. The band
  is of the same tokens in random order.
- **Information** I = Σ p(v, e) ln [p(v, e) / (p(v) p(e))] in nats, over the assignments: v the
  token id, or a bin of positions. Counts of few tokens make it too large, so read what exceeds the
  mean of shuffled tokens; as a share of H(expert) − ln K, what a label that fixes the choices has.
- **Margins, null**: normal logits with the layer's measured mean and E × E covariance; compared is
  the median over the spread √(mean variance).
- **Predicted load** P(selected) / K with normal logits, from that mean and covariance, and from the
  weights alone; the null relabels the experts of each layer.
- **Labels** (many traces): load under a label over the load in all traces. The null permutes the
  labels over whole traces, for tokens of one text are not independent.

p-values of many layers, pairs or experts are adjusted by Benjamini and Hochberg (q). But for
labels, all take the tokens of a text as independent, which neighbours are not: they speak of this
text.

Numbers of experts carry no meaning across layers. The first tokens of a text behave unlike others;
compare texts at the same positions before you read meaning into a difference.
"""

EXAMPLES = {
    "Prose": "It was a bright morning in May, and the whole village had come down to the harbour.",
    "Python": "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "Arithmetic": "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n",
    "German": "Der Zug fährt morgen um acht Uhr ab, und wir haben noch keine Karten.",
    "French": "Le vieux jardinier ferma la porte et s'assit au soleil devant la maison.",
}
ID_EXAMPLES = {"Some ids": "5, 17, 3, 42, 99, 256, 12, 7", "A repeat": "8, 8, 8, 8, 9, 9, 9, 9"}


def use_example() -> None:
    """Put the chosen example into the prompt box."""
    name = st.session_state.get("example")
    text = {**EXAMPLES, **ID_EXAMPLES}.get(name or "")
    if text is not None:
        st.session_state["prompt"] = text


def model_controls() -> traces.ModelChoice | None:
    """The model to run: the configured checkpoint where it fits, else the bundled one."""
    choices = traces.model_choices()
    if not choices:
        return None
    problem = None
    if "checkpoint" in choices:
        with st.spinner("Looking at what this machine can hold …"):
            problem = traces.problem_of(choices["checkpoint"])
    if problem is not None:
        st.warning(
            f"{problem}\n\nThe other pages show this checkpoint's routers all the same. Here, the "
            "bundled model runs your prompts, and a trace saved elsewhere (python -m grok.run "
            "--checkpoint DIR --prompt TEXT --trace OUT.npz) opens from the sidebar.",
            icon=":material/memory:",
            title="The configured checkpoint cannot run on this machine",
        )
        choices.pop("checkpoint")
    key = next(iter(choices), None)
    if len(choices) > 1:
        key = links.choice(
            "model", "Model", list(choices), key, shown=lambda name: choices[str(name)].name
        )
    return choices.get(str(key))


def form(choice: traces.ModelChoice) -> None:
    """The prompt and how to run it."""
    examples = EXAMPLES if choice.has_tokenizer else ID_EXAMPLES
    label = "Prompt" if choice.has_tokenizer else "Token ids (this model has no tokenizer)"
    st.pills("Examples", list(examples), key="example", on_change=use_example)
    with st.form("run", border=True):
        text = st.text_area(
            label,
            key="prompt",
            height=110,
            max_chars=traces.LONGEST_TEXT,
            placeholder="Type a text; Ctrl+Enter runs it.",
        )
        with st.expander("Compare, generate, settings", icon=":material/tune:"):
            second = st.text_area(
                "Second prompt, to compare (optional)",
                key="second_prompt",
                height=80,
                max_chars=traces.LONGEST_TEXT,
            )
            one, two, three, four = st.columns(4)
            with one:
                new_tokens = st.number_input("New tokens", 0, 64, 0, key="new_tokens")
            with two:
                temperature = st.number_input(
                    "Temperature", 0.0, 2.0, 0.0, step=0.1, key="temperature"
                )
            with three:
                seed = st.number_input("Sampling seed", 0, 9999, 0, key="sampling_seed")
            with four:
                dtype = st.selectbox("Numbers", ["bfloat16", "float32"], key="dtype")
        with st.container(horizontal=True, vertical_alignment="center"):
            submitted = st.form_submit_button(
                "Run", type="primary", icon=":material/play_arrow:", help="Ctrl+Enter"
            )
            st.caption(
                f"Up to {traces.prompt_limit():,} tokens. The prompt stays in this browser session."
            )
    if submitted:
        request = traces.Request(choice, str(dtype), int(new_tokens), float(temperature), int(seed))
        run(request, text, second)


def run(request: traces.Request, text: str, second: str) -> None:
    """Run one or two prompts and keep what came out for this session."""
    place = st.empty()

    def on_wait(ahead: int) -> None:
        if ahead > 0:
            place.info(
                f"Waiting for the model, position {ahead} in the queue.",
                icon=":material/hourglass_top:",
            )
        else:
            place.empty()

    def on_load(done: int, total: int) -> None:
        place.progress(done / total, f"Loading the model: {done} of {total} tensors")

    try:
        with st.spinner(
            "Running the model; the first run of a session may load it", show_time=True
        ):
            first = traces.run(request, text, on_wait, on_load)
            other = traces.run(request, second, on_wait, on_load) if second.strip() else None
    except GrokError as error:
        st.error(str(error), icon=":material/error:")
        return
    finally:
        place.empty()
    traces.keep("first", first)
    traces.keep("second", other)
    st.session_state["trace_shown"] = "first"
    links.forget("token")


def choose_trace(kept: dict[str, Any]) -> Any:
    """The trace to look at, where there are several."""
    if st.session_state.get("trace_shown") not in kept:
        st.session_state["trace_shown"] = next(iter(kept))
    if len(kept) > 1:
        shown = st.segmented_control(
            "Shown",
            list(kept),
            format_func=traces.SLOTS.__getitem__,
            required=True,
            key="trace_choice",
            default=st.session_state["trace_shown"],
        )
        st.session_state["trace_shown"] = shown or st.session_state["trace_shown"]
    return kept[st.session_state["trace_shown"]]


def results(trace: Any, kept: dict[str, Any], routers: RouterSet) -> None:
    """Everything about one trace, from the text down to its paths."""
    labels = traces.labels(trace, routers)
    view = routing_views.View(trace, routers, labels)
    if trace.model_sha256 != routers.sha256:
        st.caption(
            f"The trace was made by a model with routers `{trace.model_sha256[:12]}`, not by the "
            "routers that the other pages show."
        )
    token, layer, what = routing_views.selectors(view)
    routing_views.strip(view, token, layer)
    routing_views.token_map(view, token, layer, what)
    with st.container(border=True):
        routing_views.cell(view, token, layer)
    names = {
        "load": "Load",
        "pairs": "Co-selection",
        "compare": "Compare",
        "order": "Order and balance",
        "information": "Information",
        "margins": "Margins",
        "prediction": "Predicted load",
        "paths": "Paths",
    }
    for tab, place in links.tabs("part", names):
        with place:
            try:
                draw_tab(tab, view, kept, layer, what)
            except LensError as error:
                st.info(str(error))


def draw_tab(
    tab: str, view: routing_views.View, kept: dict[str, Any], layer: int, what: str
) -> None:
    """What the open tab shows."""
    if tab == "load":
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


def comparison(view: routing_views.View, kept: dict[str, Any], what: str) -> None:
    """The trace shown against another one of this session."""
    others = [slot for slot, trace in kept.items() if trace is not view.trace]
    if not others:
        st.info("Give a second prompt under “Compare, generate, settings”, or open a saved trace.")
        return
    slot = others[0]
    other = routing_views.View(kept[slot], view.routers, traces.labels(kept[slot], view.routers))
    st.markdown(f"The trace shown minus **{traces.SLOTS[slot].lower()}**, aligned by position.")
    routing_views.compare(view, other, what)


def show() -> None:
    """The page."""
    links.through_app()
    routers = data_source.current()
    head = st.container()
    texts = links.choice(
        "texts",
        "Texts",
        ["one", "many"],
        "one",
        shown={"one": "One text", "many": "Many traces"}.__getitem__,
        widget="segments",
        collapsed=True,
    )
    if texts == "many":
        many_traces.show(head, routers, HOW_TO_READ)
        return
    choice = model_controls()
    if choice is not None:
        form(choice)
    kept = traces.kept()
    if not kept:
        with head:
            layout.heading(
                "Live routing",
                "Type a text to see which experts each token goes to, and how close each choice "
                "was.",
                HOW_TO_READ,
                routers,
            )
        return
    top = st.container(horizontal=True, vertical_alignment="bottom")
    with top:
        trace = choose_trace(kept)
        if hasattr(trace, "save"):  # a trace opened from a file is saved already
            st.download_button(
                "Save trace (.npz)",
                lambda: traces.file_bytes(trace),
                file_name="trace.npz",
                mime="application/octet-stream",
                key="save_trace",
                on_click="ignore",
                icon=":material/download:",
            )
    with head:
        layout.heading(
            "Live routing",
            traces.finding(trace, traces.labels(trace, routers)),
            HOW_TO_READ,
            routers,
        )
    results(trace, kept, routers)
    layout.share(routers)


show()
