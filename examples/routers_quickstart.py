"""Which layers route alike? From a checkpoint to a sentence with what it has to beat.

    python -m examples.routers_quickstart [--checkpoint DIR]

Reads the routers of the bundled model, or of any Grok-1-format checkpoint, and
says which two layers are most alike and whether that is more than what all layers share. No JAX,
no GPU: of a checkpoint only the routers and their norms are read.
"""

from __future__ import annotations

import argparse

import numpy as np

from grok.config import BUNDLED_MODEL
from lens.extract.grok1 import extract_routers
from lens.layers.shared_directions import shared_null, without_shared
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
    best = int(np.argmax(similarity[first, second]))
    pair = int(first[best]), int(second[best])
    names = [routers.label(layer) for layer in pair]

    # All layers read a few common directions, which alone make any two of them alike.
    # Layers mixed from all layers keep those; q is adjusted for there being many pairs.
    shared = without_shared(gram)
    null = shared_null(shared)
    verdict = "more than" if null.q[pair] <= 0.05 else "not more than"
    print(
        f"{routers.source}: {routers.n_layers} layers of {routers.n_experts} experts, "
        f"width {routers.d_model}."
    )
    left = ""
    if shared.directions:
        left = (
            f"without the {shared.directions} largest of them, {shared.share:.0%} of the second "
            f"moment, {null.similarity[pair]:.3f}; "
        )
    print(
        f"Of {len(first)} pairs, {' and '.join(names)} are most alike: CKA {similarity[pair]:.3f}, "
        f"{verdict} the directions that all layers share explain ({left}layers mixed from all "
        f"layers {null.mean[pair]:.3f} ± {null.sd[pair]:.3f}; q = {null.q[pair]:.2g})."
    )
    print("\nThe four questions:")
    for answer in four_questions(routers, gram):
        print(f"- {answer.question} {answer.sentence}")


if __name__ == "__main__":
    main()
