"""What does the model do with a prompt inside, and what if one expert were not there?

    python -m examples.inspect_and_change [--checkpoint DIR]

Keeps the residual stream of one layer, bans the expert that the last token uses most there, and
prints what changes downstream, beside the same ban of the layer's other experts.
"""

from __future__ import annotations

import argparse

import numpy as np

import grok
from grok.interventions.edits import ban
from lens.prompt_pairs.interventions import among_others, moved

PROMPT = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
IDS = [5, 17, 3, 42, 99, 256, 12, 7, 5, 17, 3, 42]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint, dtype="float32")
    prompt = PROMPT if model.tokenizer is not None else IDS
    layer = model.config.n_layers // 3

    with model.trace(prompt) as t:
        stream = t.layers[layer].resid_post.save()
        logits = t.logits.save(positions=-1)
    base = t.routing
    print(f"Residual stream after L{layer}: {stream.value.shape}, {stream.value.dtype}")

    def without(expert: int) -> tuple[float, np.ndarray]:
        with model.trace(prompt) as t:
            t.layers[layer].router.logits.edit(ban(expert))
            changed = t.logits.save(positions=-1)
        gap = float(np.abs(changed.value - logits.value).max())
        return gap, moved(base, t.routing)

    expert = int(base.experts[layer, -1, 0])
    gap, share = without(expert)
    others = [without(e)[0] for e in range(model.config.n_experts) if e != expert]
    among = among_others(gap, np.array(others))
    print(
        f"Without L{layer}·E{expert} the next token's logits change by up to {gap:.3f}; without "
        f"another expert of the layer by {min(others):.3f} to {max(others):.3f} (rank "
        f"{among.rank} of {model.config.n_experts}, p = {among.p:.3f})."
    )
    print("Tokens that go to other experts, by layer: " + " ".join(f"{s:.0%}" for s in share))


if __name__ == "__main__":
    main()
