"""Which words does each expert take more often than chance?

    python -m examples.expert_words [--checkpoint DIR]

Runs short labelled prompts as the Many prompts page does: kept in a store of runs, asked with
DuckDB. A word may be an expert's because its kind of text is; words shuffled within each prompt
show what is left of that.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile

import numpy as np

import grok
from grok.experiments.collecting import collect
from lens.figures import visible
from lens.many_prompts.prompt_lists import PromptList
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.run_words import strongest, word_lift

TEXTS = {
    "prose": [
        "The rain had stopped before noon, and the boats went out with the tide and the wind.",
        "The doctor and the captain sat by the fire, and the children were in the garden.",
        "There was dust on the road and a light in the window of the house by the river.",
        "The old lady and the boy walked to the mill, and the dog ran on before them.",
    ],
    "python": [
        "def area(width, height):\n    if width < 0:\n        return None\n    return width\n",
        "for name in names:\n    if name in known:\n        return name\n    known.add(name)\n",
        "def count(words):\n    found = {}\n    for word in words:\n        found[word] = 1\n",
        "if value is None:\n    return default\nif value in seen:\n    return seen[value]\n",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint)
    labels = tuple(label for label, texts in TEXTS.items() for _ in texts)
    texts = tuple(text for own in TEXTS.values() for text in own)
    tokens = [model.encode(text) for text in texts] if model.tokenizer else random_ids(len(texts))
    owner = hashlib.sha256(b"this example").hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        writing = RunStore(folder).create(
            owner,
            PromptList(texts, labels, "jsonl"),
            model_name=model.name,
            dtype=model.dtype,
            n_experts=model.config.n_experts,
        )
        done = collect(model, tokens, writing.events, labels=labels, progress=writing.progress)
        run = writing.finish(model_sha256=model.sha256, n_tokens=done.manifest["n_tokens"])
        words, inside = word_lift(run), word_lift(run, within="prompt")
        layer, expert, word = np.unravel_index(np.nanargmin(words.q), words.q.shape)
        best = strongest(run, int(layer), int(expert), most=3, token=int(words.tokens[word]))
    print(
        f"{int(words.found.sum())} of {words.q.size:,} pairs of expert and word are beyond chance "
        f"at q ≤ 0.05; shuffled within prompts {int(inside.found.sum())}."
    )
    print(
        f"The surest: L{layer}·E{expert} takes {words.count[layer, expert, word]} of "
        f"{words.occurrences[word]} “{visible(words.pieces[word])}”; by chance "
        f"{words.expected[layer, expert, word]:.1f}, q = {words.q[layer, expert, word]:.1g}:"
    )
    for one in best:
        before, after = ("".join(part[-6:]) for part in (one.before, one.after))
        print(f"  gate {one.gate:.2f}  {visible(before)} [{visible(one.piece)}] {visible(after)}")


def random_ids(n: int) -> list[np.ndarray]:
    """Prompts for a model without a tokenizer, of few ids, so that they come again."""
    return list(np.random.default_rng(0).integers(3, 12, (n, 16)))


if __name__ == "__main__":
    main()
