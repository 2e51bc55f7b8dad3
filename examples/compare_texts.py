"""Do the same tokens go to the same experts in two texts, and does a difference fade?

    python -m examples.compare_texts [--checkpoint DIR]

Aligns two texts by token and prints how far the tokens that both have keep their experts, beside
unrelated tokens of the two, where their margins differ, and whether the texts come together again.
"""

from __future__ import annotations

import argparse

import grok
from lens.prompt_pairs.alignment import align
from lens.prompt_pairs.fading import fading
from lens.prompt_pairs.next_token_change import next_token_change
from lens.prompt_pairs.paired_routing import paired
from lens.prompt_pairs.paired_tests import agreement_test, difference_test

SUMS = (
    "12 + 30 = 42\n17 + 25 = 42\n9 * 8 = 72\n40 - 15 = 25\n6 * 7 = 42\n81 / 9 = 9\n33 + 44 = 77\n"
)
TEXTS = ("Look at these sums.\n" + SUMS, "Sehen Sie diese Zahlen an.\n" + SUMS)
BODY = [10 + 7 * i % 90 for i in range(64)]
IDS = ([1, *BODY], [2, 3, *BODY])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint)
    prompts = TEXTS if model.tokenizer is not None else IDS
    first, second = (model.trace_routing(prompt, candidates=40) for prompt in prompts)
    alignment = align(first.tokens, second.tokens)
    runs = paired(first, second, alignment)
    print(
        f"{len(first.tokens)} and {len(second.tokens)} tokens, {alignment.distance} changes; "
        f"{len(runs.pairs)} tokens stand in both after the first of them."
    )
    kept = agreement_test(runs)
    print(
        f"They keep {kept.value:.1%} of their experts; unrelated tokens of the two texts share "
        f"{kept.mean:.1%} (p = {kept.p:.3f})."
    )
    margins = difference_test(runs, "margin")
    print(
        f"Margins differ in {margins.test.found()} of {runs.n_layers} layers (q ≤ 0.05; p = "
        f"{margins.p:.3f} over all; {margins.test.method})."
    )
    change = next_token_change(runs, first, second)
    print(
        f"What they expect next changes by a total variation of {change.value:.3f} to "
        f"{change.high.mean():.3f}; at unrelated places by at least {change.mean:.3f}."
    )
    faded = fading(runs)
    print(
        f"Experts kept go with the distance from the last change at {faded.correlation:+.2f}; "
        f"shuffled blocks of tokens {faded.low:+.2f} to {faded.high:+.2f} (p = {faded.p:.3f})."
    )


if __name__ == "__main__":
    main()
