"""A continuation, token by token as the model makes it, with the experts of every token."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from grok.errors import PromptError
from grok.jobs import CancelledError
from lens import figures
from lens.contrast import loop_of
from lens.errors import LensError
from lens.paired_routing import overlap
from pages.parts import (
    cell_view,
    generation,
    inspect_mode,
    layout,
    links,
    prompt_form,
    stream_choice,
    stream_cost,
    stream_progress,
    stream_run,
    traces,
)
from pages.parts import routing_statistics as statistics
from pages.parts.live_place import Place
from pages.parts.routing_views import View

INVITATION = (
    "Type a beginning to see the model go on, and which experts each of its own tokens goes to."
)
EXAMPLES = {
    "A tale": prompt_form.Example(
        {"prompt": "It was a bright morning in May, and the whole village"},
        {"new_tokens": 120, "temperature": 0.8, "sampling_seed": 3},
        "The model stays with what it was given: whether its own prose goes to the experts of "
        "the prompt's is tested under “Prompt and generated”.",
    ),
    "A loop": prompt_form.Example(
        {"prompt": "class Stack:\n    def __init__(self):\n        self.items = []\n\n"},
        {"new_tokens": 160, "temperature": 0.0, "sampling_seed": 0},
        "Temperature 0 always takes the likeliest token, and a small model ends in a loop: where "
        "it begins is said above the text. On the map, do the experts go round too?",
    ),
    "Python": prompt_form.Example(
        {"prompt": "class Stack:\n    def __init__(self):\n        self.items = []\n\n"},
        {"new_tokens": 120, "temperature": 0.6, "sampling_seed": 1},
        "Indentation comes back in every line: choose “First choice” on the map and follow it.",
    ),
    "Arithmetic": prompt_form.Example(
        {"prompt": "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n"},
        {"new_tokens": 80, "temperature": 0.0, "sampling_seed": 0},
        "The model goes on with sums that look right and seldom are. Do its digits go to the "
        "experts of the digits that it was given?",
    ),
}
MOST_CHIPS = 120
BETWEEN = 0.2  # seconds between drawings


def form(choice: traces.ModelChoice) -> tuple[str, str, dict[str, Any]] | None:
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


def ask(choice: traces.ModelChoice, text: str, dtype: str, options: dict[str, Any]) -> None:
    """Show what a continuation by a streamed model costs; started, it goes on by itself."""
    going = generation.Going()

    def work() -> stream_cost.Work:
        (count,) = stream_cost.token_counts(choice, [text])
        return stream_cost.Work((count,), new_tokens=options["max_new_tokens"])

    def stream(under_way: stream_run.Going) -> generation.Going:
        model = traces.shared(choice, dtype, under_way.on_load)
        begin(going, model, traces.encoded(model, choice, text), options)
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


def run(choice: traces.ModelChoice, text: str, dtype: str, options: dict[str, Any]) -> None:
    """Generate and show every token as it comes; whatever ends it, what there is is kept."""
    going = generation.Going(before=traces.kept().get("first"))
    st.session_state[generation.RUNNING] = going
    head = st.empty()
    with head.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", icon=":material/stop_circle:", key="stop_generating")
        counter = st.empty()
    board = st.empty()
    layer = int(links.chosen("layer", 0) or 0)

    def stream(on_wait: Any, on_load: Any) -> None:
        if not text.strip():
            raise PromptError(traces.NO_PROMPT)
        model = traces.shared(choice, dtype, on_load)
        on_wait(0)  # takes away how far the model is read
        begin(going, model, traces.encoded(model, choice, text), options)
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


def live_html(steps: Sequence[Any], layer: int) -> str:
    """The tokens made so far; a token's experts are known once the next one is made."""
    pieces = [str(step.piece) for step in steps]
    layer = min(layer, steps[0].routing.experts.shape[0] - 1)
    experts = [step.routing.experts[layer, 0, 0] for step in steps[1:]]
    return chips_html(pieces, experts, first=0)


def chips_html(pieces: Sequence[str], experts: Sequence[np.ndarray], *, first: int) -> str:
    """Tokens as boxes in the colour of their first expert, all their experts below.

    Args:
        pieces: of the tokens.
        experts: chosen experts of the first of them; the others have none yet.
        first: position of the first piece, for readers who point at a box.
    """
    shades = figures.OKABE_ITO
    start = max(len(pieces) - MOST_CHIPS, 0)
    boxes = []
    for i in range(start, len(pieces)):
        known = [int(e) for e in experts[i] if e >= 0] if i < len(experts) else []
        shade = shades[known[0] % len(shades)] if known else "transparent"
        ink = "#FFFFFF" if shade == "#0072B2" else "#111111" if known else "inherit"
        border = "1px solid transparent" if known else "1px dashed #8C8C8C"
        word = html.escape(figures.visible(pieces[i]))
        under = " ".join(f"E{e}" for e in known) or "&nbsp;"
        boxes.append(
            f'<span title="token {first + i}" style="display:inline-block;text-align:center;'
            'margin:1px 2px;line-height:1.25">'
            f'<span style="display:block;background:{shade};color:{ink};border:{border};'
            f'border-radius:3px;padding:0 4px">{word}</span>'
            f'<span style="font-size:0.68rem;opacity:0.75">{under}</span></span>'
        )
    before = f"<div>… {start:,} tokens before</div>" if start else ""
    return f'<div role="group" aria-label="Generated tokens">{before}{"".join(boxes)}</div>'


def made_text(done: dict[str, Any], view: View, layer: int) -> None:
    """The continuation as text and as tokens."""
    trace = done["trace"]
    prompt = "".join(view.pieces[: trace.prompt_length]).replace("▁", " ")
    why = {
        "stopped": f"Stopped after {done['tokens']:,} of {done['asked']:,} tokens.",
        "end": f"The model ended its text after {done['tokens']:,} tokens.",
        "length": f"{done['tokens']:,} tokens.",
    }[done["why"]]
    st.caption(
        f"{why} First expert of each in {view.labels[layer]} as colour, all below; numbers of "
        "experts carry no meaning across layers. The last token was not read any more, so it has "
        "no experts."
    )
    loop = loop_of(trace.tokens)
    if loop is not None:
        st.markdown(loop_note(trace.experts, *loop))
    pieces = [*view.pieces[trace.prompt_length :], done["last"]]
    experts = list(trace.experts[layer, trace.prompt_length :])
    st.html(chips_html(pieces, experts, first=trace.prompt_length))
    with st.expander("As plain text", icon=":material/notes:"):
        st.code(f"{prompt}{done['text']}", language=None, wrap_lines=True)


def loop_note(experts: np.ndarray, period: int, start: int) -> str:
    """Whether the experts go round with a text that repeats itself.

    Args:
        experts: chosen ones [L, T, K].
        period, start: of the loop, see `lens.contrast.loop_of`.
    """
    inside = experts[:, start:]

    def shared(apart: int) -> float:
        return float(overlap(inside[:, apart:], inside[:, :-apart]).mean())

    others = float(np.mean([shared(apart) for apart in range(1, period)]))
    return (
        f":material/all_inclusive: From token {start} on the text repeats itself every {period} "
        f"tokens. Tokens one round apart share {layout.percent(shared(period))} of their experts, "
        f"tokens less than a round apart {layout.percent(others)}."
    )


def finding(view: View, done: dict[str, Any]) -> str:
    """Whether generated tokens go to other experts than the given ones, in a sentence."""
    trace = view.trace
    settings = trace.settings
    how = (
        "always the likeliest token"
        if settings.get("temperature") == 0
        else f"temperature {settings.get('temperature')}, seed {settings.get('seed')}"
    )
    text = f"{done['tokens']:,} tokens generated after {trace.prompt_length:,} ({how})."
    try:
        found = statistics.part_loads(view.key, int(trace.prompt_length), trace)
    except LensError:
        return f"{text} {traces.finding(trace, view.labels)}"
    test = found.test
    verdict = (
        "more than those of parts elsewhere in the text"
        if found.overall_p <= 0.05
        else "not distinguishable from those of parts elsewhere in the text"
    )
    return (
        f"{text} Their experts' loads differ from the prompt's by "
        f"{layout.percent(test.value.mean())}, {verdict} (there "
        f"{layout.percent(test.mean.mean())} on average; p = {found.overall_p:.2g} over all "
        f"layers; q ≤ 0.05 in {test.found()} of {view.n_layers})."
    )


def show(place: Place) -> None:
    """The mode: a form, the text as it comes, then everything about its routing."""
    generation.finish()  # of a run that a click has ended
    if place.choice is None:
        place.heading(INVITATION)
        st.info(
            "No model can run prompts here. Open a saved trace in Inspect.", icon=":material/info:"
        )
        return
    sent = form(place.choice)
    if sent is not None:
        (ask if place.choice.streamed else run)(place.choice, *sent)
    stream_progress.board()
    done = st.session_state.get(generation.DONE)
    kept = traces.kept()
    if done is None or kept.get("first") is not done["trace"]:
        place.heading(INVITATION)
        return
    board = st.container()
    inspect_mode.save_button(done["trace"])
    view, token, layer, lens = inspect_mode.results(done["trace"], kept, place.routers)
    with board:
        made_text(done, view, layer)
    place.heading(finding(view, done), inspect_mode.HOW_TO_READ)
    cell_view.fill_lens(lens, view, token, layer, place.choice, asked=False)
