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


def row(choice: shared_models.ModelChoice, key: str) -> bool:
    """The examples that this model can run; True where one is to be run now."""
    return prompt_form.examples_row(key, EXAMPLES if choice.has_tokenizer else ID_EXAMPLES)


def text_box(choice: shared_models.ModelChoice) -> str:
    """The text that is asked about."""
    label = "Prompt" if choice.has_tokenizer else "Token ids (this model has no tokenizer)"
    return prompt_form.text_box("prompt", label, placeholder="Type a text.", height=80)
