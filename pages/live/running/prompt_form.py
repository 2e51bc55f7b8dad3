"""What the modes that run prompts have in common: text boxes, examples, and a guarded run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import streamlit as st

from grok.errors import GrokError
from lens.errors import LensError
from pages.live.running import stream_progress
from pages.live.running.stream_cost import Work
from pages.live.session import prompts, shared_models
from pages.shell import links

Result = TypeVar("Result")
TEXTS = "texts_kept"  # name -> text typed last, on whichever mode


def text_box(name: str, label: str, **options: Any) -> str:
    """A text area whose text is the same in all modes, for this session alone."""
    kept = st.session_state.setdefault(TEXTS, {})
    if name not in st.session_state and name in kept:
        st.session_state[name] = kept[name]
    options = {"height": 110, "max_chars": prompts.LONGEST_TEXT, **options}
    text = st.text_area(label, key=name, **options) or ""
    kept[name] = text
    return text


def put(**texts: str) -> None:
    """Put texts into their boxes; call it in a callback."""
    for name, text in texts.items():
        st.session_state[name] = text
        st.session_state.setdefault(TEXTS, {})[name] = text


@dataclass(frozen=True)
class Example:
    """Something to click that shows something.

    Attributes:
        texts: what goes into the boxes, by their names.
        choices: what is chosen, by the names of the choices.
        shows: why it is here.
    """

    texts: Mapping[str, str]
    choices: Mapping[str, Any] = field(default_factory=dict)
    shows: str = ""


def examples_row(key: str, examples: Mapping[str, Example], label: str = "Examples") -> None:
    """Examples to click; each fills boxes and choices, and says what it shows."""

    def use() -> None:
        chosen = st.session_state.get(key)
        if chosen is not None and chosen in examples:
            put(**examples[chosen].texts)
            links.choose(**examples[chosen].choices)

    chosen = st.pills(label, list(examples), key=key, on_change=use)
    if chosen is not None and chosen in examples and examples[chosen].shows:
        st.caption(examples[chosen].shows)


def run_guarded(
    run: Callable[[Callable[[int], object], Callable[[int, int], None]], Result],
    text: str = "Running the model; the first run of a session may load it",
) -> Result | None:
    """What `run(on_wait, on_load)` returns, or None after its error has been shown.

    Args:
        run: is given a function that shows the place in the queue, and one that shows how
            many of the model's tensors have been read, until all are.
        text: beside the spinner.
    """
    slot = st.empty()

    def on_wait(n_waiting: int) -> None:
        if n_waiting > 0:
            slot.info(
                f"Waiting for the model, position {n_waiting} in the queue.",
                icon=":material/hourglass_top:",
            )
        else:
            slot.empty()

    def on_load(done: int, total: int) -> None:
        if done < total:
            slot.progress(done / total, f"Loading the model: {done} of {total} tensors")
        else:
            slot.empty()

    try:
        with st.spinner(text, show_time=True):
            return run(on_wait, on_load)
    except (GrokError, LensError) as error:
        st.error(str(error), icon=":material/error:")
        return None
    finally:
        slot.empty()


def run_or_ask(
    choice: shared_models.ModelChoice,
    what: str,
    work: Callable[[], Work],
    run: Callable[[Callable[[int], object], Callable[[int, int], None]], Result],
    then: Callable[[Result], object],
    text: str = "Running the model; the first run of a session may load it",
) -> None:
    """Run at once where that is quick; of a streamed model show what it costs, to be started.

    Args:
        choice: the model.
        what: what is done, as a button says it.
        work: passes that a streamed model makes for it; what it raises is shown.
        run: see `run_guarded`; it must draw nothing where the model is streamed.
        then: keeps what it gave.
        text: beside the spinner.
    """
    if choice.streamed:
        stream_progress.ask(
            choice, what, work, lambda going: run(going.on_wait, going.on_load), then
        )
        return
    found = run_guarded(run, text)
    if found is not None:
        then(found)
