"""Is the text a model writes routed like the text it was given?

    python -m examples.generate_with_routing [--checkpoint DIR]

The bundled model continues a prompt; every new token is printed as it comes, with
the experts that read it in one layer. Then the loads of prompt and continuation
are compared with what splitting the same tokens at random gives. The last new
token is in no comparison: the model never read it.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import grok
from lens.traces import routing

PROMPT = "In the morning the fishermen went down to the harbour and"
IDS = [5, 17, 3, 42, 99, 256, 12, 7]
NEW_TOKENS = 24
SPLITS = 200


def distance(experts: np.ndarray, n_first: int, n_experts: int) -> float:
    """Half the summed difference of the loads of two parts, mean over layers; 0 is equal."""
    share = [
        np.stack([(part == expert).mean(axis=(1, 2)) for expert in range(n_experts)])
        for part in (experts[:, :n_first], experts[:, n_first:])
    ]
    return float(np.abs(share[0] - share[1]).sum(axis=0).mean() / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint)
    settings: dict[str, Any] = {
        "max_new_tokens": NEW_TOKENS,
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": 1,
    }
    layer = model.config.n_layers // 2
    prompt = PROMPT if model.tokenizer is not None else IDS
    print(f"{model.name}: tokens as they are read, with their experts in L{layer}")
    steps = []
    for step in model.stream(prompt, **settings):
        steps.append(step)
        for piece, chosen in zip(
            model.pieces(step.read), step.routing.experts[layer, 0], strict=False
        ):
            print(f"  {piece!r:<14} {', '.join(f'E{expert}' for expert in chosen)}")
    generation = model.collect(steps, settings)
    print(f"Continuation: {generation.text!r}")

    trace = generation.trace
    n_prompt, n_experts = trace.prompt_length, model.config.n_experts
    if trace.tokens.size == n_prompt:
        print("The model ended at once, so there is nothing to compare.")
        return
    found = distance(trace.experts, n_prompt, n_experts)
    rng = np.random.default_rng(0)
    splits = [
        distance(trace.experts[:, rng.permutation(trace.tokens.size)], n_prompt, n_experts)
        for _ in range(SPLITS)
    ]
    p = (1 + sum(split >= found for split in splits)) / (1 + SPLITS)
    verdict = "routed differently" if p <= 0.05 else "not distinguishable from chance"
    print(
        f"Loads of {n_prompt} prompt and {trace.tokens.size - n_prompt} new tokens differ by "
        f"{found:.3f}; random splits give {np.mean(splits):.3f} (95 % below "
        f"{np.quantile(splits, 0.95):.3f}), p = {p:.3f}: {verdict}."
    )
    margin = routing.margin(trace)
    print(
        f"Median margin: prompt {np.median(margin[:, :n_prompt]):.2f}, "
        f"new tokens {np.median(margin[:, n_prompt:]):.2f} logits."
    )


if __name__ == "__main__":
    main()
