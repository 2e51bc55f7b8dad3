"""Can a direction between two kinds of text steer what the model writes?

    python -m examples.steer_generation [--checkpoint DIR]

Takes the mean difference of a layer's residual stream between two texts, adds it while the model
writes, and compares with a random direction of the same length.
"""

from __future__ import annotations

import argparse

import numpy as np

import grok
from grok.interventions.edits import steer
from lens.prompt_pairs.interventions import moved

ONE = "def area(width, height):\n    return width * height\n"
OTHER = "It was a bright morning, and the whole village had come down to the harbour."
PROMPT = "The old man said"
ONE_IDS, OTHER_IDS, PROMPT_IDS = [5, 17, 3, 42, 99], [7, 8, 9, 10, 11], [5, 7, 9]
STRENGTH = 1.0
NEW_TOKENS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint, dtype="float32")
    text = model.tokenizer is not None
    layer = model.config.n_layers // 2

    def stream(prompt: object) -> np.ndarray:
        with model.trace(prompt) as t:  # type: ignore[arg-type]
            saved = t.layers[layer].resid_post.save()
        return saved.value.mean(axis=0)

    direction = stream(ONE if text else ONE_IDS) - stream(OTHER if text else OTHER_IDS)
    random = np.random.default_rng(0).standard_normal(direction.size).astype(np.float32)
    random *= np.linalg.norm(direction) / np.linalg.norm(random)
    prompt = PROMPT if text else PROMPT_IDS

    plain = model.generate(prompt, max_new_tokens=NEW_TOKENS)
    print(f"as it is:       {plain.text!r}")
    for name, vector in (("steered", direction), ("random", random)):
        edits = steer("resid_post", vector, STRENGTH, layers=layer)
        steered = model.generate(prompt, max_new_tokens=NEW_TOKENS, edits=edits)
        read = model.trace_routing(plain.trace.tokens, edits=edits)
        share = moved(plain.trace, read)[layer + 1 :].mean()
        print(f"{name + ':':<15} {steered.text!r}")
        print(f"{'':<15} later layers send {share:.0%} of the plain text's tokens elsewhere")


if __name__ == "__main__":
    main()
