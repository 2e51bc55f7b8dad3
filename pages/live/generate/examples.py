"""Examples of Generate on the bundled model."""

from __future__ import annotations

from pages.live.running import prompt_form

EXAMPLES = {
    "A tale": prompt_form.Example(
        {"prompt": "It was a bright morning in May, and the whole village"},
        {"new_tokens": 120, "temperature": 0.0, "sampling_seed": 0},
        "Always the likeliest word: does the model's own prose go to the experts of the beginning "
        "that it was given?",
    ),
    "A loop": prompt_form.Example(
        {"prompt": "class Stack:\n    def __init__(self):\n        self.items = []\n\n"},
        {"new_tokens": 160, "temperature": 0.0, "sampling_seed": 0},
        "Temperature 0 always takes the likeliest token, and a small model ends in a loop: where "
        "it begins is said above the text. On the map, do the experts go round too?",
    ),
    "German": prompt_form.Example(
        {
            "prompt": "Der Zug fährt morgen um acht Uhr ab, und wir haben noch keine Karten "
            "gekauft. Wenn wir früh genug aufstehen, können wir sie am Bahnhof kaufen."
        },
        {"new_tokens": 120, "temperature": 0.0, "sampling_seed": 0},
        "It goes on in German: with the experts of the German that it read?",
    ),
    "Arithmetic": prompt_form.Example(
        {"prompt": "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n"},
        {"new_tokens": 80, "temperature": 0.0, "sampling_seed": 0},
        "The model goes on with sums that look right and seldom are. Do its digits go to the "
        "experts of the digits that it was given?",
    ),
}
