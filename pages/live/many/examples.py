"""A ready list of labelled prompts, written for this project."""

from __future__ import annotations

from collections.abc import Mapping

from lens.many_prompts.prompt_lists import PromptList

SHOWS = (
    "Five kinds of text, ten each. The bundled model was trained on such kinds without being told "
    "which is which; its experts tell them apart all the same."
)
TEXTS: Mapping[str, tuple[str, ...]] = {
    "english": (
        "The rain had stopped before noon, and the boats went out again with the tide.",
        "She read the letter twice, folded it, and put it back into the drawer without a word.",
        "My brother keeps three goats behind the house, and none of them likes strangers.",
        "There was nothing on the road that evening but dust and the long shadow of the mill.",
        "He asked the captain whether the wind would hold until they had passed the cape.",
        "When the guests had gone, the old lady sat down by the fire and laughed to herself.",
        "I never knew a man who could be so quiet for so long and mean so much by it.",
        "The children ran down to the river to see whether the ice would bear them.",
        "It was said in the village that the doctor had once been a sailor, though he denied it.",
        "They walked on through the wood until the last light was gone from the hills.",
    ),
    "german": (
        "Der Regen hatte vor Mittag aufgehört, und die Boote fuhren mit der Flut wieder hinaus.",
        "Sie las den Brief zweimal, faltete ihn und legte ihn ohne ein Wort in die Schublade.",
        "Mein Bruder hält drei Ziegen hinter dem Haus, und keine von ihnen mag Fremde.",
        "Auf der Straße war an diesem Abend nichts als Staub und der lange Schatten der Mühle.",
        "Er fragte den Kapitän, ob der Wind halten werde, bis sie das Kap hinter sich hätten.",
        "Als die Gäste gegangen waren, setzte sich die alte Dame ans Feuer und lachte.",
        "Ich habe nie einen Menschen gekannt, der so lange schweigen konnte.",
        "Die Kinder liefen zum Fluss hinunter, um zu sehen, ob das Eis sie tragen würde.",
        "Im Dorf hieß es, der Arzt sei früher Seemann gewesen, doch er wollte es nicht wahrhaben.",
        "Sie gingen weiter durch den Wald, bis das letzte Licht von den Hügeln verschwunden war.",
    ),
    "french": (
        "La pluie avait cessé avant midi, et les bateaux sortirent de nouveau avec la marée.",
        "Elle lut deux fois la lettre, la plia et la remit dans le tiroir sans dire un mot.",
        "Mon frère garde trois chèvres derrière la maison, et aucune n'aime les étrangers.",
        "Il n'y avait ce soir-là sur la route que la poussière et l'ombre longue du moulin.",
        "Il demanda au capitaine si le vent tiendrait jusqu'à ce qu'ils eussent passé le cap.",
        "Quand les invités furent partis, la vieille dame s'assit près du feu et se mit à rire.",
        "Je n'ai jamais connu un homme qui sût se taire si longtemps et si bien.",
        "Les enfants coururent à la rivière pour voir si la glace pouvait les porter.",
        "On disait au village que le médecin avait été marin, mais il ne voulait pas en parler.",
        "Ils marchèrent dans le bois jusqu'à ce que la dernière lueur eût quitté les collines.",
    ),
    "python": (
        "def area(width, height):\n    if width < 0 or height < 0:\n        return None\n"
        "    return width * height\n",
        "for name in sorted(names):\n    if name.startswith('_'):\n        continue\n"
        "    print(name)\n",
        "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n",
        "import os\n\ndef read(path):\n    with open(path) as file:\n        return file.read()\n",
        "try:\n    value = int(text)\nexcept ValueError:\n    value = default\n",
        "def count(words):\n    found = {}\n    for word in words:\n"
        "        found[word] = found.get(word, 0) + 1\n    return found\n",
        "result = [item for item in items if item is not None]\nreturn len(result)\n",
        "while self.queue:\n    task = self.queue.pop()\n    task.run()\n"
        "    self.done.append(task)\n",
        "def largest(values):\n    best = values[0]\n    for value in values[1:]:\n"
        "        if value > best:\n            best = value\n    return best\n",
        "if not isinstance(key, str):\n    raise TypeError('key must be a string')\n"
        "self._items[key] = value\n",
    ),
    "sums": (
        "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n",
        "61 - 18 = 43\n7 * 7 = 49\n33 + 8 = 41\n",
        "5 + 5 = 10\n90 - 45 = 45\n6 * 12 = 72\n",
        "28 + 14 = 42\n3 * 15 = 45\n70 - 9 = 61\n",
        "8 * 4 = 32\n19 + 19 = 38\n56 - 27 = 29\n",
        "11 * 6 = 66\n82 - 40 = 42\n13 + 9 = 22\n",
        "47 + 35 = 82\n9 * 9 = 81\n64 - 32 = 32\n",
        "2 * 36 = 72\n50 + 27 = 77\n31 - 12 = 19\n",
        "75 - 50 = 25\n16 + 44 = 60\n4 * 21 = 84\n",
        "10 * 7 = 70\n39 + 22 = 61\n98 - 89 = 9\n",
    ),
}


def ready_list() -> PromptList:
    """All of them, the kinds in turn."""
    rows = [(kind, texts[i]) for i in range(10) for kind, texts in TEXTS.items()]
    return PromptList(tuple(text for _, text in rows), tuple(kind for kind, _ in rows), "jsonl")


def ready_ids() -> PromptList:
    """For a model without a tokenizer: token ids that count up, and that repeat one."""
    up = [" ".join(str(3 + 5 * i + j) for j in range(10)) for i in range(6)]
    same = [" ".join([str(7 + 11 * i)] * 10) for i in range(6)]
    return PromptList(
        tuple(text for pair in zip(up, same, strict=True) for text in pair),
        ("counting", "repeating") * 6,
        "jsonl",
    )
