"""A continuation, token by token as the model makes it, with the experts of every token."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import streamlit as st

from grok.errors import PromptError
from grok.serving.jobs import CancelledError
from pages.live.generate.examples import EXAMPLES
from pages.live.generate.view import BETWEEN, finding, live_html, made_text
from pages.live.one_trace import cell_view
from pages.live.one_trace import mode as one_trace_mode
from pages.live.running import (
    prompt_form,
    stream_choice,
    stream_cost,
    stream_progress,
    stream_run,
)
from pages.live.session import generation, kept_traces, prompts, shared_models
from pages.live.session.mode_context import ModeContext
from pages.shell import links

INVITATION = (
    "Type a beginning to see the model go on, and which experts each of its own tokens goes to."
)


def form(choice: shared_models.ModelChoice) -> tuple[str, str, dict[str, Any]] | None:
    """Beginning and settings; None until they are sent."""
    if choice.has_tokenizer:
        prompt_form.examples_row("generate_example", EXAMPLES)
    label = "Beginning" if choice.has_tokenizer else "Token ids (this model has no tokenizer)"
    most = max(choice.config.context_length - 1, 1)
    with st.form("generate", border=True):
        text = prompt_form.text_box("prompt", label, placeholder="Type a beginning; Ctrl+Enter.")
        one, two, three, four, five = st.columns(5)
        with one:
            new = links.number(
                "new_tokens",
                "New tokens",
                1,
                most,
                min(8 if choice.streamed else 64, most),
                help=f"Context: {most + 1:,}",
            )
        with two:
            temperature = links.decimal(
                "temperature", "Temperature", 0.0, 2.0, 0.8, help="0: the likeliest token"
            )
        with three:
            top_p = links.decimal(
                "top_p",
                "Nucleus (top p)",
                0.05,
                1.0,
                1.0,
                help="The likeliest tokens that together have this probability; 1: all",
            )
        with four:
            seed = links.number("sampling_seed", "Seed", 0, 9999, 0)
        with five:
            dtype = links.choice("dtype", "Numbers", ["bfloat16", "float32"], "bfloat16")
        with st.container(horizontal=True, vertical_alignment="center"):
            sent = st.form_submit_button(
                stream_choice.label(choice, "Generate"),
                type="primary",
                icon=":material/play_arrow:",
            )
            st.caption("The same seed and settings give the same text. It stays in this session.")
    if not sent:
        return None
    options = {
        "max_new_tokens": new,
        "temperature": float(temperature),
        "top_p": float(top_p),
        "seed": seed,
    }
    return text, dtype, options


# --- the run ----------------------------------------------------------------------------


def ask(choice: shared_models.ModelChoice, text: str, dtype: str, options: dict[str, Any]) -> None:
    """Show what a continuation by a streamed model costs; started, it goes on by itself."""
    going = generation.Going()

    def work() -> stream_cost.Work:
        (count,) = stream_cost.token_counts(choice, [text])
        return stream_cost.Work((count,), new_tokens=options["max_new_tokens"])

    def stream(under_way: stream_run.Going) -> generation.Going:
        model = shared_models.shared(choice, dtype, under_way.on_load)
        begin(going, model, prompts.encoded(model, choice, text), options)
        try:
            for step in going.coming(under_way.on_wait):
                take(going, step)
        except CancelledError:
            if not going.steps:
                raise  # there is nothing to keep
        return going

    def draw() -> None:
        if going.steps:
            st.html(live_html(going.steps, int(links.chosen("layer", 0) or 0)))

    stream_progress.ask(
        choice,
        f"Generate {options['max_new_tokens']:,} tokens",
        work,
        stream,
        generation.keep,
        draw,
    )


def begin(going: generation.Going, model: Any, prompt: np.ndarray, options: dict[str, Any]) -> None:
    """Tell a run what it runs on, and fit the new tokens into the context."""
    room = model.model.config.context_length - len(prompt)
    fitted = {**options, "max_new_tokens": max(min(options["max_new_tokens"], room), 1)}
    going.model, going.prompt, going.options = model, prompt, fitted


def take(going: generation.Going, step: Any) -> None:
    """Keep a token that was made."""
    # The logits of all tokens would be most of what is held, and are not used.
    none = step.routing.logits[:, :, :0]
    going.steps.append(step._replace(routing=step.routing._replace(logits=none)))


def run(choice: shared_models.ModelChoice, text: str, dtype: str, options: dict[str, Any]) -> None:
    """Generate and show every token as it comes; whatever ends it, what there is is kept."""
    going = generation.Going(before=kept_traces.kept().get("first"))
    st.session_state[generation.RUNNING] = going
    head = st.empty()
    with head.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", icon=":material/stop_circle:", key="stop_generating")
        counter = st.empty()
    board = st.empty()
    layer = int(links.chosen("layer", 0) or 0)

    def stream(on_wait: Any, on_load: Any) -> None:
        if not text.strip():
            raise PromptError(prompts.NO_PROMPT)
        model = shared_models.shared(choice, dtype, on_load)
        on_wait(0)  # takes away how far the model is read
        begin(going, model, prompts.encoded(model, choice, text), options)
        coming = going.coming(on_wait)
        most = going.options["max_new_tokens"]
        begun = shown = time.monotonic()
        try:
            for step in coming:
                if going.cancelled.is_set():
                    break
                take(going, step)
                now, n = time.monotonic(), len(going.steps)
                if n == 1:
                    begun = now
                if now - shown >= BETWEEN or n == 1:
                    shown = now
                    rate = f", {(n - 1) / (now - begun):.0f} a second" if n > 1 else ""
                    counter.caption(f"{n:,} of {most:,} tokens{rate}")
                    board.html(live_html(going.steps, layer))
        finally:
            coming.close()  # gives up the place in the queue, also when the run is cut short
            going.ended.set()

    prompt_form.run_guarded(stream, "Generating; the first run of a session may load the model")
    if not going.cancelled.is_set():
        generation.finish()
    head.empty()
    board.empty()


# --- what is shown ----------------------------------------------------------------------


def show(context: ModeContext) -> None:
    """The mode: a form, the text as it comes, then everything about its routing."""
    generation.finish()  # of a run that a click has ended
    if context.choice is None:
        context.heading(INVITATION)
        st.info(
            "No model can run prompts here. Open a saved trace in Inspect.", icon=":material/info:"
        )
        return
    sent = form(context.choice)
    if sent is not None:
        (ask if context.choice.streamed else run)(context.choice, *sent)
    stream_progress.board()
    done = st.session_state.get(generation.DONE)
    kept = kept_traces.kept()
    if done is None or kept.get("first") is not done["trace"]:
        context.heading(INVITATION)
        return
    board = st.container()
    one_trace_mode.save_button(done["trace"])
    view, token, layer, lens = one_trace_mode.results(done["trace"], kept, context.routers)
    with board:
        made_text(done, view, layer)
    context.heading(finding(view, done), one_trace_mode.HOW_TO_READ)
    cell_view.fill_lens(lens, view, token, layer, context.choice, asked=False)
