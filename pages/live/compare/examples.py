"""Examples of Compare: texts and changes that show something on the bundled model."""

from __future__ import annotations

from collections.abc import Mapping

from pages.live.running.prompt_form import Example

CODE = (
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\ndef spread(values):\n    centre = mean(values)\n"
    "    squares = [(value - centre) ** 2 for value in values]\n    return mean(squares) ** 0.5\n"
)
SUMS = (
    "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n40 - 15 = 25\n6 * 7 = 42\n81 / 9 = 9\n"
    "33 + 44 = 77\n50 - 8 = 42\n"
)
STORY = (
    "the old gardener closed the gate and sat down in the sun before the house, and nobody who "
    "passed along the road that evening could have said how long he had been there or what he was "
    "thinking of. At last the lamp was lit, and he went in."
)
TEXT_EXAMPLES: Mapping[str, Example] = {
    "Sums under two headings": Example(
        {
            "prompt": "Look at these sums.\n" + SUMS,
            "second_prompt": "Sehen Sie diese Zahlen an.\n" + SUMS,
        },
        {"differs": "kept"},
        "The same sums under an English and a German line: how far do they keep their experts? "
        "Digits tell a router little, so the line above them may.",
    ),
    "Code after prose": Example(
        {
            "prompt": "import math\n\n" + CODE,
            "second_prompt": "Er ging nach Hause, und es war schon dunkel.\n\n" + CODE,
        },
        {"differs": "entropy"},
        "The same Python after an import and after a German sentence: are its routers as sure of "
        "themselves, and in which layers not?",
    ),
    "A phrase put in": Example(
        {
            "prompt": "In spring " + STORY,
            "second_prompt": "In spring "
            + STORY.replace("the gate", "the heavy iron gate of the churchyard"),
        },
        {"differs": "kept"},
        "Eight words are put into a story: which tokens after them, if any, go elsewhere?",
    ),
    "Names changed": Example(
        {
            "prompt": CODE,
            "second_prompt": CODE.replace("values", "words").replace("value", "word"),
        },
        {"differs": "margin"},
        "Two names of a program are exchanged for others: do the tokens around them, which are the "
        "same, care?",
    ),
}
CHANGE_EXAMPLES: Mapping[str, Example] = {
    "Python without its busiest expert": Example(
        {"prompt": CODE},
        {"change": "ban", "change_layer": 5, "expert": 1, "differs": "kept"},
        "Bans the expert that takes the largest share of this text: how far does that reach down, "
        "beside a ban of the others of its layer?",
    ),
    "German without one expert": Example(
        {
            "prompt": "Der Zug fährt morgen um acht Uhr ab, und wir haben noch keine Karten "
            "gekauft. Wenn wir früh genug aufstehen, können wir sie am Bahnhof kaufen."
        },
        {"change": "ban", "change_layer": 11, "expert": 7, "differs": "kept"},
        "Bans one expert of the last layer: do the model's guesses need it more than the others "
        "of its layer?",
    ),
}
ID_TEXTS: Mapping[str, Example] = {
    "A few ids": Example(
        {"prompt": "5, 17, 3, 42, 99, 256, 12, 7", "second_prompt": "5, 17, 4, 42, 99, 12, 7"},
        shows="One id substituted, one left out.",
    ),
}
ID_CHANGES: Mapping[str, Example] = {
    "A few ids": Example(
        {"prompt": "5, 17, 3, 42, 99, 256, 12, 7"},
        {"change": "ban", "change_layer": 0, "expert": 0},
        "Bans the first expert of the first layer.",
    ),
}
