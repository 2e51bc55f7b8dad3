"""Text boxes, examples and a guarded run, for the modes that run prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import streamlit as st
from streamlit.elements.lib.mutable_expander_container import ExpanderContainer

from grok.errors import GrokError
from grok.serving.queue import Waiting
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.glossary import help_of
from lens.many_prompts.run_store import ID
from pages.access.messages import told
from pages.live.running import preload, stream_progress
from pages.live.running.stream_cost import Work
from pages.live.session import sharing
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait
from pages.shell import links
from pages.shell.session_keys import SessionKey, SessionValue, widget

Result = TypeVar("Result")
ModelRun = Callable[[OnWait, OnLoad], Result]
TEXTS = SessionValue[dict[str, str]](SessionKey.TEXTS)
PRESSED = SessionValue[str](SessionKey.EXAMPLE_PRESSED)
RESULTS = SessionValue[dict[str, tuple[object, tuple[object, ...]]]](SessionKey.RESULTS)
SLUG = r"[a-z0-9_]{1,60}"
LINE = 70  # characters of a text in the line that a form folds to


def text_box(
    name: str,
    label: str,
    *,
    height: int = 110,
    max_chars: int | None = None,
    placeholder: str | None = None,
    help: str | None = None,
) -> str:
    """A text area whose text is the same in all modes, for this session alone.

    With `max_chars` the browser drops what is pasted beyond it, without a word.
    """
    put_back(name)
    text = st.text_area(
        label,
        key=name,
        height=height,
        max_chars=max_chars,
        placeholder=placeholder,
        help=help_of(help, label),
    )
    return typed(name, text)


def text_line(name: str, label: str, *, max_chars: int, placeholder: str, help: str) -> str:
    """A line of text that is kept as `text_box` keeps its own."""
    put_back(name)
    text = st.text_input(
        label, key=name, max_chars=max_chars, placeholder=placeholder, help=help_of(help, label)
    )
    return typed(name, text)


def put_back(name: str) -> None:
    """Give a box the text that was typed last; call it before the box is drawn."""
    kept, box = TEXTS.kept(dict), widget(name)
    if not box.known and name in kept:
        box.set(kept[name])


def typed(name: str, text: str | None) -> str:
    """The text of a box, kept for when it is drawn again."""
    TEXTS.kept(dict)[name] = text or ""
    return text or ""


def put(**texts: str) -> None:
    """Put texts into their boxes; call it in a callback."""
    for name, text in texts.items():
        widget(name).set(text)
        TEXTS.kept(dict)[name] = text


def slug(name: str) -> str:
    """An example's name as the address holds it."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@dataclass(frozen=True)
class Example:
    """Something to click that shows something.

    Attributes:
        texts: what goes into the boxes, by their names.
        choices: what is chosen, by the names of the choices.
        shows: why it is here.
    """

    texts: Mapping[str, str]
    choices: Mapping[str, object] = field(default_factory=dict)
    shows: str = ""


def examples_row(
    key: str,
    examples: Mapping[str, Example],
    label: str = "Examples",
    *,
    more: Sequence[str] = (),
    shared: bool = True,
    linked: bool = True,
) -> bool:
    """Examples to click; each fills boxes and choices, and says what it shows.

    A link opens one by its name, or a text that was shared by its id; the address holds it for
    as long as the boxes do.

    Args:
        key: of the row.
        examples: by what they are called.
        label: before them.
        more: boxes of the mode that no example fills.
        shared: whether the mode's own texts may be put into a link.
        linked: whether the address names the example; not where it names a stored run.

    Returns:
        True where one was just clicked or linked, and is to be run.
    """
    row = _Row(key, examples, more)

    def use() -> None:
        chosen = widget(key).get()
        if chosen is not None and chosen in examples:
            row.open(chosen)

    if linked:
        row.follow_link()
        row.hold_link(may_share=shared)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(label, width="content")
        chosen = st.pills(
            label, list(examples), key=key, on_change=use, label_visibility="collapsed"
        )
    if chosen is not None and chosen in examples and examples[chosen].shows:
        st.caption(examples[chosen].shows)
    pressed = PRESSED.get() == key
    if pressed:
        PRESSED.drop()
    return pressed


@dataclass(frozen=True)
class _Row:
    """A row of examples, and what a link makes of it."""

    key: str
    examples: Mapping[str, Example]
    more: Sequence[str]

    @property
    def linked(self) -> dict[str, str]:
        return sharing.LINKED.kept(dict)

    @property
    def boxes(self) -> list[str]:
        filled = (box for one in self.examples.values() for box in one.texts)
        return list(dict.fromkeys([*filled, *self.more]))

    def open(self, name: str) -> None:
        """Fill boxes and choices by an example, and have it run."""
        put(**{**dict.fromkeys(self.more, ""), **self.examples[name].texts})
        links.choose(**self.examples[name].choices)
        PRESSED.set(self.key)
        self.linked[self.key] = slug(name)

    def follow_link(self) -> None:
        """Open what the address asks for, once."""
        known = self.linked.get(self.key)
        example = links.asked("example", "Example", SLUG)
        text_id = links.asked("text", "Text", ID)
        by_slug = {slug(name): name for name in self.examples}
        if example in by_slug:
            widget(self.key).set(by_slug[example])
            if example != known:
                self.open(by_slug[example])
            else:  # its result was brought back, by a reload
                links.choose(**self.examples[by_slug[example]].choices)
        elif example is not None:
            links.notice(f"There is no example “{as_markdown(example)}” here.")
        elif text_id is not None and text_id != known:
            found = sharing.found(text_id)
            if found is not None and set(found.texts) <= set(self.boxes):
                put(**found.texts)
                PRESSED.set(self.key)
                self.linked[self.key] = text_id

    def hold_link(self, *, may_share: bool) -> None:
        """Have the address hold the example or shared text for as long as the boxes do."""
        texts = {box: _now_in(box) for box in self.boxes}
        known = self.linked.pop(self.key, None)
        empty = dict.fromkeys(self.boxes, "")
        still = [name for name, one in self.examples.items() if {**empty, **one.texts} == texts]
        name = next((name for name in still if slug(name) == known), next(iter(still), None))
        if name is not None:
            known = slug(name)
            links.show("example", known)
            links.set_by_example(self.examples[name].choices)
        elif known is not None:
            text = sharing.found(known)
            known = None if text is None or {**empty, **text.texts} != texts else known
            if known is not None:
                links.show("text", known)
        if known is not None:
            self.linked[self.key] = known
        if may_share:
            sharing.HERE.set(sharing.Here(self.key, texts, known))


def _now_in(box: str) -> str:
    """The text in a box, before it is drawn."""
    state = widget(box)
    return str((state.get() if state.known else TEXTS.kept(dict).get(box)) or "")


def fold(
    text: str | None, label: str = "Your own text", *, written: bool = True
) -> ExpanderContainer:
    """Where a form stands: open before there is a result, then one line that says what it is of.

    Args:
        text: that the result is of; None where there is none.
        label: before it.
        written: somebody wrote the text; else it is a line of Markdown about the result.
    """
    if text is None:
        return st.expander(label, expanded=True, icon=":material/edit:")
    if written:
        line = " ".join(text.split())
        line = line if len(line) <= LINE else f"{line[: LINE - 1]}…"
        text = f"“{as_markdown(line)}”"
    return st.expander(f"{label} (shown: {text})", expanded=False, icon=":material/edit:")


def draw_again() -> None:
    """Draw the page once more, with its form folded; call it when a run has ended.

    A draw within a draw takes the address that the first began with, and what was chosen since
    would fall back to it: so it is emptied first, and written when the page stands.
    """
    st.query_params.clear()
    st.rerun()


def is_of(mode: str, result: object, *texts: object) -> None:
    """Remember the texts and settings that a result is of."""
    RESULTS.kept(dict)[mode] = (result, texts)


def stale_note(mode: str, result: object, *texts: object) -> None:
    """Says that the result below is of other texts than those in the boxes, where it is."""
    known, of = RESULTS.kept(dict).get(mode, (None, texts))
    if known is result and of != texts:
        st.caption(
            ":material/history: What is shown below is the last result; the text or a setting "
            "above has changed since. Run it to see what it gives."
        )


def waiting_words(waiting: Waiting) -> str:
    """Place in the queue and the time that it takes, in words."""
    seconds = math.ceil(waiting.seconds)
    time = f", about {seconds} s" if seconds else ""
    return f"place {waiting.place} in the queue{time}"


def run_guarded(
    run: ModelRun[Result],
    text: str = "Running the model; the first run of a session may load it",
) -> Result | None:
    """The result of `run(on_wait, on_load)`, or None after its error has been shown.

    Args:
        run: is given a function that shows the place in the queue, and one that shows how
            many of the model's tensors have been read, until all are.
        text: beside the spinner.
    """
    slot = st.empty()

    def on_wait(waiting: Waiting) -> None:
        if waiting.place > 0:
            words = f"Waiting for the model: {waiting_words(waiting)}."
            if waiting.place == 1 and preload.under_way():
                words = "The model is being made ready, once after the start of the server."
            slot.info(words, icon=":material/hourglass_top:")
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
        st.error(told(error), icon=":material/error:")
        return None
    finally:
        slot.empty()


def run_or_ask(
    choice: ModelChoice,
    what: str,
    work: Callable[[], Work],
    run: ModelRun[Result],
    then: Callable[[Result], object],
    text: str = "Running the model; the first run of a session may load it",
) -> bool:
    """Run at once where that is quick; of a streamed model show what it costs, to be started.

    Args:
        choice: the model.
        what: what is done, as a button says it.
        work: passes that a streamed model makes for it; what it raises is shown.
        run: see `run_guarded`; it must draw nothing where the model is streamed.
        then: keeps what it gave.
        text: beside the spinner.

    Returns:
        True where it was run and kept here and now.
    """
    if choice.streamed:
        stream_progress.ask(
            choice, what, work, lambda under_way: run(under_way.on_wait, under_way.on_load), then
        )
        return False
    found = run_guarded(run, text)
    if found is None:
        return False
    then(found)
    return True
