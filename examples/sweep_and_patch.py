"""Which experts matter for a prompt, and where is the difference between two prompts carried?

    python -m examples.sweep_and_patch [--checkpoint DIR]

Bans every expert of every layer in turn, then puts values of one prompt's run into another's,
layer by layer and token by token, beside a control: the value of another token.
"""

from __future__ import annotations

import argparse

import numpy as np

import grok
from grok.experiments.ablation import ablation_sweep
from grok.experiments.logit_lens import logit_lens
from grok.experiments.metrics import logit_difference
from grok.experiments.patching import patch_sweep
from lens.prompt_pairs.interventions import carried, effect_and_use, strongest

CLEAN, CORRUPT = "She was so glad that", "He was so glad that"
CLEAN_IDS, CORRUPT_IDS = [5, 17, 3, 42, 99, 256], [7, 17, 3, 42, 99, 256]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint, dtype="float32")
    text = model.tokenizer is not None
    clean, corrupt = (CLEAN, CORRUPT) if text else (CLEAN_IDS, CORRUPT_IDS)

    sweep = ablation_sweep(model, clean)
    layer, expert = strongest(sweep.effect, 1)[0]
    print(
        f"Banning L{layer}·E{expert} changes the next-token distributions most: "
        f"{sweep.effect[layer, expert]:.4f} nats a token; its layer's other experts "
        f"{sweep.control[layer, expert]:.4f} on average."
    )
    test = effect_and_use(sweep.effect, sweep.load)
    print(
        f"Use and effect go together at {test.correlation:+.2f}; relabelled experts "
        f"{test.low:+.2f} to {test.high:+.2f} (p = {test.p:.4f})."
    )

    answers = [
        int(model.trace_routing(prompt, candidates=1).candidates[-1, 0])
        for prompt in (clean, corrupt)
    ]
    if answers[0] == answers[1]:
        answers[1] = int(model.trace_routing(clean, candidates=2).candidates[-1, 1])
    patches = patch_sweep(model, clean, corrupt, metric=logit_difference(answers[0], answers[1]))
    found = carried(patches.recovered[0], patches.control[0])
    names = " ".join(repr(piece) for piece in model.pieces(answers))
    print(f"Logit difference of {names}: clean {patches.clean:.2f}, corrupt {patches.corrupt:.2f}.")
    for row in range(len(found.largest)):
        piece = patches.pieces_clean[int(found.position[row])]
        print(
            f"  before L{row}: token {piece!r} brings back {found.largest[row]:.0%}, another "
            f"token's value there {found.control[row]:.0%}"
        )

    lens = logit_lens(model, clean)
    depth = int(np.argmax(lens.kl.mean(axis=1) < 0.5 * lens.kl[0].mean()))
    print(f"By L{depth} half of what the first layer did not know of the answer is known.")


if __name__ == "__main__":
    main()
