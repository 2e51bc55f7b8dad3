"""Which experts does each token of a prompt go to, and how close were the choices?

    python -m examples.trace_prompt [--checkpoint DIR]

Runs the bundled model on one sentence and prints, for one layer, the chosen
experts of each token with their margin (how many logits separate the last chosen
expert from the first one left out), then what chance says about the whole trace.
A checkpoint without a tokenizer gets token ids instead of the sentence.
"""

from __future__ import annotations

import argparse

import numpy as np

import grok
from lens.traces import routing

PROMPT = "The old lighthouse keeper counted the ships: 3 + 4 = 7."
IDS = [5, 17, 3, 42, 99, 256, 12, 7, 5, 17, 3, 42]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint)
    trace = model.trace_routing(PROMPT if model.tokenizer is not None else IDS)
    n_layers, n_tokens, n_experts = trace.router_logits.shape
    top_k = trace.experts.shape[2]
    margin = routing.margin(trace)
    layer = n_layers // 2
    print(f"{model.name}, layer L{layer}: experts by token, largest gate first")
    for t in range(n_tokens):
        chosen = ", ".join(
            f"E{expert} ({gate:.2f})"
            for expert, gate in zip(trace.experts[layer, t], trace.gates[layer, t], strict=True)
        )
        print(f"  {str(trace.pieces[t])!r:<14} {chosen}  margin {margin[layer, t]:.2f}")
    print(f"An undecided router gives every expert a gate of {1 / n_experts:.3f}.")

    tight = np.unravel_index(np.argmin(margin), margin.shape)
    print(
        f"The closest choice is that of {str(trace.pieces[tight[1]])!r} in L{tight[0]}: "
        f"{margin[tight]:.4f} logits (median {np.median(margin):.2f})."
    )
    load = routing.load(trace)
    low, high = routing.load_interval(n_tokens, top_k, n_experts, comparisons=load.size)
    outside = int(((load < low) | (load > high)).sum())
    print(
        f"{outside} of {load.size} experts have a load outside {low:.3f} to {high:.3f}, where all "
        f"of them lie in 95 % of evenly routed texts of {n_tokens} tokens."
    )
    repeat = routing.repeat_rate(trace)
    print(
        f"Neighbouring tokens share their first expert in {repeat.first.mean():.1%} of cases; "
        f"chance is {repeat.chance_first:.1%}, the same tokens shuffled give "
        f"{repeat.shuffled_first.mean():.1%}."
    )


if __name__ == "__main__":
    main()
