"""Examples of Inspect, chosen because they show something, and a finding for a run of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lens.errors import LensError
from lens.finding import Finding
from lens.findings import of_texts
from lens.traces import RoutedText
from lens.traces.contrast import equal_tokens, strongest_contrast
from pages.access import persons
from pages.live.one_trace.routing_views import View
from pages.live.running import prompt_form
from pages.live.session.shared_models import ModelChoice
from pages.overview_views import hero
from pages.shell import data_source, links
from pages.shell.session_keys import SessionKey, SessionValue

ROW = "inspect_examples"


def two_meanings(view: View) -> Finding:
    """Equal tokens against others; the word with two meanings."""
    positions = [t for t, piece in enumerate(view.pieces) if piece == "ank"]
    more = ""
    if len(positions) == 2:
        a, b = (np.sort(view.trace.experts[:, t], axis=1) for t in positions)
        same = int((a == b).all(axis=1).sum())
        more = (
            f" The two “bank”, tokens {positions[0]} and {positions[1]}, have the same "
            f"experts in {same} of {view.n_layers} layers."
        )
    return of_texts.equal_tokens_share(equal_tokens(view.trace), more)


def two_languages(view: View) -> Finding:
    """The expert that tells the translation from the text."""
    start = next((t for t, piece in enumerate(view.pieces) if piece == "▁Sie"), 0)
    return _contrast(view, np.arange(view.n_tokens) < start, "English tokens", "German ones")


def digits(view: View) -> Finding:
    """The expert that tells digits from what stands between them."""
    kind = np.array([piece.strip("▁").isdigit() for piece in view.pieces])
    return _contrast(view, kind, "digits", "other tokens")


def layout_tokens(view: View) -> Finding:
    """The expert that tells indentation and line ends from code."""
    kind = np.array([not piece.strip("▁\n ") for piece in view.pieces])
    return _contrast(view, kind, "blanks and line ends", "other tokens")


def one_word(view: View) -> Finding | None:
    """Experts shared after a changed word, near it and far from it."""
    found = view.agreement
    return None if found is None else of_texts.one_word(found)


def _contrast(view: View, kind: np.ndarray, inside: str, outside: str) -> Finding:
    found = strongest_contrast(view.trace, kind)
    unit = f"{view.labels[found.layer]}·E{found.expert}"
    return of_texts.kind_contrast(found, unit, (inside, outside), kind)


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
    read: Callable[[View], Finding | None]
    choices: Mapping[str, object] = field(default_factory=dict)


EXAMPLES = {
    "Two languages": Shown(
        {
            "prompt": "She opened the window and said good morning. Sie öffnete das Fenster und "
            "sagte guten Morgen.",
            "second_prompt": "",
        },
        "A sentence and its translation: does either language have an expert of its own?",
        two_languages,
        {"what": "top1"},
    ),
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
FIRST = next(iter(EXAMPLES))  # its routing is stored beside the bundled model


def row(has_tokenizer: bool) -> bool:
    """The examples to click; returns whether one has just been clicked."""
    examples = (
        {
            name: prompt_form.Example(one.texts, one.choices, one.shows)
            for name, one in EXAMPLES.items()
        }
        if has_tokenizer
        else ID_EXAMPLES
    )
    return prompt_form.examples_row(ROW, examples, more=["second_prompt"])


def stored(choice: ModelChoice | None) -> dict[str, RoutedText]:
    """The first example's routing, shown before anything was run; nothing for other models."""
    file = hero.example_file()
    if choice is None:
        known = persons.role() == "viewer"  # who runs nothing may look at this one
    else:
        known = choice.path == str(data_source.bundled_checkpoint())
    if not known or not file.exists():
        return {}
    trace = hero.example()
    if (RUN.get() or (None, None))[1] is not trace:
        RUN.set((FIRST, trace))
        links.choose(**EXAMPLES[FIRST].choices)
        for box, text in EXAMPLES[FIRST].texts.items():
            prompt_form.TEXTS.kept(dict).setdefault(box, text)
        prompt_form.is_of("inspect", trace, *EXAMPLES[FIRST].texts.values())
    return {"example": trace}


def is_shown(text: str, second: str, shown: RoutedText | None) -> bool:
    """True where the trace that is shown is of the example with these texts."""
    name, trace = RUN.get() or (None, None)
    return shown is not None and trace is shown and name == _named(text, second)


def _named(text: str, second: str) -> str | None:
    """The example with these texts, if there is one."""
    wanted = {"prompt": text, "second_prompt": second}
    return next((name for name, one in EXAMPLES.items() if one.texts == wanted), None)


def ran(text: str, second: str, trace: RoutedText) -> Mapping[str, object]:
    """Remember the example that was run, if this was one.

    Returns:
        The choices that show it best.
    """
    name = _named(text, second)
    RUN.set((name, trace))
    return {} if name is None else EXAMPLES[name].choices


def finding(view: View) -> Finding | None:
    """What the example shows, where the trace is a run of one."""
    name, trace = RUN.get() or (None, None)
    if name is None or name not in EXAMPLES or trace is not view.trace:
        return None
    try:
        return EXAMPLES[name].read(view)
    except LensError:
        return None


def ask(text: str) -> None:
    """Let Inspect run a text when it is drawn next; call it in a callback."""
    prompt_form.put(prompt=text, second_prompt="")
    prompt_form.PRESSED.set(ROW)
    links.choose(mode="inspect")
