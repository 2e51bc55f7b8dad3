"""Examples of Inspect, chosen because they show something, and a finding for a run of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import streamlit as st

from lens.errors import LensError
from lens.traces import RoutedText
from lens.traces.contrast import equal_tokens, strongest_contrast
from lens.words import p_value_text, percent
from pages.live.one_trace.routing_views import View
from pages.live.running import prompt_form
from pages.shell.session_keys import SessionKey, SessionValue


def two_meanings(view: View) -> str:
    """Equal tokens against others; the word with two meanings."""
    found = equal_tokens(view.trace)
    text = (
        f"two equal tokens share {percent(found.same.mean())} of their experts, two others "
        f"{percent(found.other.mean())}, two as close to each other {percent(found.near)} "
        f"({found.pairs} pairs; p {p_value_text(found.p, found.draws)}, ids of each stretch turned "
        f"round {found.draws:,} times, seed {found.seed})"
    )
    positions = [t for t, piece in enumerate(view.pieces) if piece == "ank"]
    if len(positions) != 2:
        return f"{text}."
    a, b = (np.sort(view.trace.experts[:, t], axis=1) for t in positions)
    same = int((a == b).all(axis=1).sum())
    return (
        f"{text}. The two “bank”, tokens {positions[0]} and {positions[1]}, have the same "
        f"experts in {same} of {view.n_layers} layers: routing follows the token much more than "
        "its meaning."
    )


def two_languages(view: View) -> str:
    """The expert that tells the translation from the text."""
    start = next((t for t, piece in enumerate(view.pieces) if piece == "▁Sie"), 0)
    return _contrast(view, np.arange(view.n_tokens) >= start, "German tokens", "English ones")


def digits(view: View) -> str:
    """The expert that tells digits from what stands between them."""
    kind = np.array([piece.strip("▁").isdigit() for piece in view.pieces])
    return _contrast(view, kind, "digits", "other tokens")


def layout_tokens(view: View) -> str:
    """The expert that tells indentation and line ends from code."""
    kind = np.array([not piece.strip("▁\n ") for piece in view.pieces])
    return _contrast(view, kind, "blanks and line ends", "other tokens")


def one_word(view: View) -> str:
    """Experts shared after a changed word, near it and far from it."""
    found = view.agreement
    if found is None:
        return "give the second prompt too, to compare the two."
    after = np.flatnonzero((found.partner >= 0) & (np.arange(view.n_tokens) >= found.common_start))
    near, far = after[:4], after[4:]
    if len(far) == 0 or found.test is None:
        return "the texts differ up to their ends."
    near_share, far_share = (percent(found.shared[:, part].mean()) for part in (near, far))
    return (
        f"the first four tokens from the changed word on share {near_share} of their experts with "
        f"those of the other text, the {len(far)} after them {far_share}; the same tokens paired "
        f"at random {percent(found.test.mean.mean())} ({found.test.draws:,} times, seed "
        f"{found.test.seed}), even choices {percent(found.even)}."
    )


def _contrast(view: View, kind: np.ndarray, inside: str, outside: str) -> str:
    found = strongest_contrast(view.trace, kind)
    unit = f"{view.labels[found.layer]}·E{found.expert}"
    verdict = "more than" if found.p <= 0.05 else "not distinguishable from"
    return (
        f"**{unit}** is chosen by {percent(found.inside)} of {found.n_inside} {inside} and "
        f"{percent(found.outside)} of {found.n_outside} {outside}, the largest difference "
        f"of any expert: {verdict} what the same pattern gives elsewhere in the text (there "
        f"{percent(found.usual)} on average; p {p_value_text(found.p)}, all {found.turns} turns)."
        + (
            " They stand in one part of the text, so place and topic count too."
            if np.count_nonzero(np.diff(kind.astype(int))) <= 2
            else ""
        )
    )


@dataclass(frozen=True)
class Shown:
    """An example.

    Attributes:
        texts: by the names of the boxes.
        shows: what to look for, before it is run.
        read: what a run of it shows, with its null.
        choices: made when it has been run.
    """

    texts: Mapping[str, str]
    shows: str
    read: Callable[[View], str]
    choices: Mapping[str, object] = field(default_factory=dict)


EXAMPLES = {
    "Two meanings": Shown(
        {
            "prompt": "She sat down on the bank of the river. He left his money at the bank in "
            "the city.",
            "second_prompt": "",
        },
        "The same word in two meanings: does it go to the same experts?",
        two_meanings,
        {"what": "top1"},
    ),
    "Two languages": Shown(
        {
            "prompt": "She opened the letter, and read it twice. Then she went to the window and "
            "looked out. Sie öffnete den Brief und las ihn zweimal. Dann trat sie ans Fenster "
            "und sah hinaus.",
            "second_prompt": "",
        },
        "A text and its translation: is there an expert for the second language?",
        two_languages,
        {"what": "top1"},
    ),
    "Python": Shown(
        {
            "prompt": "def mean(values):\n    total = 0\n    for value in values:\n        total "
            "+= value\n    return total / len(values)\n",
            "second_prompt": "",
        },
        "Code: line ends and indentation come back all the time. Do they have experts?",
        layout_tokens,
        {"what": "top1"},
    ),
    "Sums": Shown(
        {
            "prompt": "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n46 - 4 = 42\n",
            "second_prompt": "",
        },
        "Digits and signs: choose a “=” and see after which layer the model knows what follows.",
        digits,
    ),
    "One word changed": Shown(
        {
            "prompt": "It was a bright morning in May, and the whole village had come down to the "
            "harbour.",
            "second_prompt": "It was a dark morning in May, and the whole village had come down "
            "to the harbour.",
        },
        "Two texts that differ in one word: how far does the change reach?",
        one_word,
        {"what": "agreement"},
    ),
}
ID_EXAMPLES = {
    "Some ids": prompt_form.Example({"prompt": "5, 17, 3, 42, 99, 256, 12, 7"}),
    "A repeat": prompt_form.Example({"prompt": "8, 8, 8, 8, 9, 9, 9, 9"}),
}
RUN = SessionValue[tuple[str | None, RoutedText]](SessionKey.EXAMPLE_RUN)


def row(has_tokenizer: bool) -> None:
    """The examples to click."""
    examples = (
        {name: prompt_form.Example(one.texts, shows=one.shows) for name, one in EXAMPLES.items()}
        if has_tokenizer
        else ID_EXAMPLES
    )
    prompt_form.examples_row("example", examples)


def ran(text: str, second: str, trace: RoutedText) -> Mapping[str, object]:
    """Remember the example that was run, if this was one.

    Returns:
        The choices that show it best.
    """
    name = next(
        (
            name
            for name, one in EXAMPLES.items()
            if (one.texts["prompt"], one.texts["second_prompt"]) == (text, second)
        ),
        None,
    )
    RUN.set((name, trace))
    return EXAMPLES[name].choices if name else {}


def note(view: View) -> None:
    """The finding of an example that was run."""
    name, trace = RUN.get() or (None, None)
    if name is None or name not in EXAMPLES or trace is not view.trace:
        return
    try:
        words = EXAMPLES[name].read(view)
    except LensError:
        return
    st.markdown(f":material/lightbulb: {name}: {words}")
