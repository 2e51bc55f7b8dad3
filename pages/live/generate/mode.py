"""A continuation, token by token as the model makes it, with the experts of every token."""

from __future__ import annotations

import time

import streamlit as st

from grok.serving.jobs import CancelledError
from grok.serving.queue import Waiting
from lens.words import counted, fixed
from pages.hosting import tabs
from pages.live.generate.examples import EXAMPLES
from pages.live.generate.view import BETWEEN, finding, live_html, made_text
from pages.live.one_trace import mode as one_trace_mode
from pages.live.running import (
    chat,
    prompt_form,
    stream_choice,
    stream_cost,
    stream_progress,
    stream_run,
)
from pages.live.session import generation, kept_traces, prompts, shared_models
from pages.live.session.generation import Generated, SamplingOptions
from pages.live.session.mode_context import ModeContext
from pages.live.session.shared_models import OnLoad, OnWait
from pages.shell import links

INVITATION = (
    "Type a beginning to see the model go on, and which experts each of its own tokens goes to."
)


def form(
    choice: shared_models.ModelChoice, done: Generated | None
) -> tuple[str, str, SamplingOptions] | None:
    """Beginning and settings; None until they are sent.

    Args:
        choice: the model.
        done: the continuation that is shown.
    """
    clicked = False
    if choice.has_tokenizer:
        clicked = prompt_form.examples_row("generate_example", EXAMPLES)
    label = "Beginning" if choice.has_tokenizer else "Token ids (this model has no tokenizer)"
    most = max(choice.config.context_length - 1, 1)
    line = None if done is None else kept_traces.text_of(done.trace)
    with prompt_form.fold(line, "Your own beginning"), st.form("generate", border=False):
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
                stream_choice.label(choice, "Run"),
                type="primary",
                icon=":material/play_arrow:",
            )
            as_chat = chat.control(choice)
            st.caption(f"The same seed and settings give the same text. {tabs.FOR_YOU_ALONE}")
    options: SamplingOptions = {
        "max_new_tokens": new,
        "temperature": float(temperature),
        "top_p": float(top_p),
        "seed": seed,
    }
    read = chat.texts(choice, text, as_chat=as_chat and not clicked)
    if read is None:
        return None
    if not (sent or clicked):
        prompt_form.stale_note("generate", done, read[0], options)
        return None
    return read[0], dtype, options


# --- the run ----------------------------------------------------------------------------


def ask(choice: shared_models.ModelChoice, text: str, dtype: str, options: SamplingOptions) -> None:
    """Show what a continuation by a streamed model costs; started, it goes on by itself."""
    generated = generation.GenerationRun()

    def work() -> stream_cost.Work:
        (count,) = stream_cost.token_counts(choice, [text])
        return stream_cost.Work((count,), new_tokens=options["max_new_tokens"])

    def stream(
        under_way: stream_run.StreamedRun[generation.GenerationRun],
    ) -> generation.GenerationRun:
        model = shared_models.shared(choice, dtype, under_way.on_load)
        generated.begin(model, prompts.encoded(model, choice, text), options)
        generated.source = (choice.path, prompts.prompt_of(choice, text), dtype)
        try:
            for step in generated.stream(under_way.on_wait):
                generated.take(step)
        except CancelledError:
            if not generated.steps:
                raise  # there is nothing to keep
        return generated

    def draw() -> None:
        if generated.steps:
            st.html(live_html(generated.steps, int(links.chosen("layer", 0) or 0)))

    stream_progress.ask(
        choice,
        f"Generate {counted(options['max_new_tokens'], 'token')}",
        work,
        stream,
        generation.keep,
        draw,
    )


def run(choice: shared_models.ModelChoice, text: str, dtype: str, options: SamplingOptions) -> None:
    """Generate and show every token as it comes; whatever ends it, what there is is kept."""
    generated = generation.GenerationRun(before=kept_traces.kept().get("first"))
    generation.RUNNING.set(generated)
    head = st.empty()
    with head.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", icon=":material/stop_circle:", key="stop_generating")
        counter = st.empty()
    board = st.empty()
    layer = int(links.chosen("layer", 0) or 0)

    def stream(on_wait: OnWait, on_load: OnLoad) -> None:
        prompts.check_text(text)
        model = shared_models.shared(choice, dtype, on_load)
        on_wait(Waiting(0, 0.0))  # takes away how far the model is read
        generated.begin(model, prompts.encoded(model, choice, text), options)
        generated.source = (choice.path, prompts.prompt_of(choice, text), dtype)
        steps = generated.stream(on_wait)
        most = generated.options["max_new_tokens"]
        begun = shown = time.monotonic()
        try:
            for step in steps:
                if generated.cancelled.is_set():
                    break
                generated.take(step)
                now, n = time.monotonic(), len(generated.steps)
                if n == 1:
                    begun = now
                if now - shown >= BETWEEN or n == 1:
                    shown = now
                    rate = f", {fixed((n - 1) / (now - begun), 0)} a second" if n > 1 else ""
                    counter.caption(f"{n:,} of {most:,} tokens{rate}")
                    board.html(live_html(generated.steps, layer))
        finally:
            steps.close()  # gives up the place in the queue, also when the run is cut short
            generated.ended.set()

    prompt_form.run_guarded(stream, "Generating; the first run of a session may load the model")
    if not generated.cancelled.is_set():
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
    done, kept = generation.DONE.get(), kept_traces.kept()
    if done is not None and kept.get("first") is not done.trace:
        done = None
    sent = form(context.choice, done)
    if sent is not None:
        (ask if context.choice.streamed else run)(context.choice, *sent)
        made = generation.DONE.get()
        if made is not None and made is not done and kept_traces.kept().get("first") is made.trace:
            prompt_form.is_of("generate", made, sent[0], sent[2])
            prompt_form.draw_again()
        prompt_form.stale_note("generate", done, sent[0], sent[2])
    stream_progress.board()
    if done is None:
        context.heading(INVITATION)
        return
    board = st.container()
    one_trace_mode.save_button(done.trace)
    view = one_trace_mode.view_of(done.trace, kept, context.routers)
    with board:
        made_text(done, view)
    said = [finding(view, done)]
    one_trace_mode.results(
        one_trace_mode.Inspected(view, kept, None, context.choice, stored=False),
        lambda: context.heading(said, one_trace_mode.HOW_TO_READ),
    )
