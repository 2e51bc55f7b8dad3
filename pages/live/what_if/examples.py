"""Examples of What if on the bundled model, and forms for texts and token ids."""

from __future__ import annotations

from collections.abc import Mapping

from pages.live.running import prompt_form
from pages.live.running.prompt_form import Example
from pages.live.session import shared_models

ONE, EVERY = "one_expert_example", "every_expert_example"  # the rows of examples
STRONGEST = "Set to the expert that “Every expert” finds to matter most for this text when banned."


GERMAN = (
    "Der Zug fährt morgen um acht Uhr ab, und wir haben noch keine Karten gekauft. Wenn wir früh "
    "genug aufstehen, können wir sie am Bahnhof kaufen."
)


EXAMPLES: Mapping[str, Example] = {
    "Python": Example(
        {
            "prompt": "def mean(values):\n    total = 0\n    for value in values:\n"
            "        total += value\n    return total / len(values)\n"
        },
        {"layer": 2, "expert": 4, "action": "ban"},
        STRONGEST,
    ),
    "German": Example(
        {"prompt": GERMAN},
        {"layer": 11, "expert": 7, "action": "ban"},
        STRONGEST,
    ),
    "Sums": Example(
        {"prompt": "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n14 + 15 = 29\n6 * 7 = 42\n"},
        {"layer": 9, "expert": 1, "action": "ban"},
        STRONGEST,
    ),
    "Python for German": Example(
        {"prompt": GERMAN},
        {"layer": 2, "expert": 4, "action": "include"},
        "Gives every German token the expert of layer 2 that the Python example leans on.",
    ),
}


ID_EXAMPLES: Mapping[str, Example] = {
    "Some ids": Example({"prompt": "5, 17, 3, 42, 99, 256, 12, 7"}),
    "A repeat": Example({"prompt": "8, 8, 8, 8, 9, 9, 9, 9"}),
}


def text_form(
    choice: shared_models.ModelChoice, examples_key: str, shown: str | None
) -> tuple[str, bool]:
    """The text of the form, and whether an example above it has just been clicked.

    Args:
        choice: the model.
        examples_key: of the row of examples.
        shown: the text of the result that is shown, beside which the box folds to a line.
    """
    ready = EXAMPLES if choice.has_tokenizer else ID_EXAMPLES
    label = "Prompt" if choice.has_tokenizer else "Token ids (this model has no tokenizer)"
    with prompt_form.fold(shown, "Text and examples"):
        clicked = prompt_form.examples_row(examples_key, ready)
        text = prompt_form.text_box("prompt", label, placeholder="Type a text.", height=80)
    return text, clicked
