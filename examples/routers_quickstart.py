"""Which layers route alike? From a checkpoint to a sentence with its chance level.

    python -m examples.routers_quickstart [--checkpoint DIR]

Reads the routers of the bundled model, or of any Grok-1-format checkpoint, and
says which two layers are most alike and whether that is more than chance. No JAX,
no GPU: of a checkpoint only the routers and their norms are read.
"""

from __future__ import annotations

import argparse

import numpy as np

from grok.config import BUNDLED_MODEL
from lens.extract.grok1 import extract_routers
from lens.layers.chance_level import chance_samples
from lens.layers.similarity import layer_similarity
from lens.questions import four_questions
from lens.routers.gram import router_gram


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=BUNDLED_MODEL, metavar="DIR")
    args = parser.parse_args()

    routers = extract_routers(args.checkpoint)
    gram = router_gram(routers)  # the canonical view: norm folded in, shared column removed
    similarity = layer_similarity(gram, "cka")
    first, second = np.triu_indices(routers.n_layers, k=1)
    values = similarity[first, second]
    best = int(np.argmax(values))

    # The largest of many pairs is high by chance alone, so it is set beside the
    # largest that as many pairs of unrelated layers give.
    chance = chance_samples("cka", routers.d_model, routers.n_experts, draws=2000)
    rng = np.random.default_rng(0)
    largest = rng.choice(chance, (1000, values.size)).max(axis=1)
    verdict = "more than" if values[best] > np.quantile(largest, 0.95) else "not more than"
    print(
        f"{routers.source}: {routers.n_layers} layers of {routers.n_experts} experts, "
        f"width {routers.d_model}."
    )
    print(
        f"Of {values.size} pairs, {routers.label(int(first[best]))} and "
        f"{routers.label(int(second[best]))} are most alike: CKA {values[best]:.3f}, {verdict} "
        f"chance (one unrelated pair {chance.mean():.3f}; the largest of {values.size}: "
        f"{np.median(largest):.3f}, in 95 % below {np.quantile(largest, 0.95):.3f})."
    )
    print("\nThe four questions:")
    for answer in four_questions(routers, gram):
        print(f"- {answer.question} {answer.sentence}")


if __name__ == "__main__":
    main()
