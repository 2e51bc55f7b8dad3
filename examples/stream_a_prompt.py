"""What does a prompt's routing cost when the weights stay on disk, and is it the same routing?

    python -m examples.stream_a_prompt [--checkpoint DIR] [--memory-budget GB]

Traces a prompt with the layers streamed, says what was read and how long the disk and the processor
took, and, where all weights fit into memory, sets it beside the resident model.
"""

from __future__ import annotations

import argparse

import numpy as np

import grok
from grok.engine.progress import PassProgress, watching
from grok.errors import DeviceError

PROMPT = "The old captain looked out over the water and said that the storm would come by night."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    parser.add_argument("--memory-budget", type=float, default=8, metavar="GB")
    args = parser.parse_args()

    budget = int(args.memory_budget * 1e9)
    model = grok.load(args.checkpoint, mode="streamed", memory_budget=budget)
    prompt: str | list[int] = PROMPT if model.tokenizer is not None else list(range(5, 25))
    told: list[PassProgress] = []
    with watching(told.append):  # raise in the watcher to stop the pass
        trace = model.trace_routing(prompt)
    layers = model.last_pass or []
    computing, waiting = (
        sum(getattr(layer, name) for layer in layers)
        for name in ("compute_seconds", "wait_seconds")
    )
    print(
        f"{model.name}: {trace.tokens.size} tokens through {len(layers)} layers, "
        f"{told[-1].bytes_read / 1e6:,.1f} MB of layers read in {told[-1].seconds:.1f} s "
        f"(computing {computing:.1f} s, waiting for the disk {waiting:.1f} s; the first compiles)"
    )
    one = model.trace_routing(np.asarray(trace.tokens[:1]))
    read = sum(layer.bytes_read for layer in model.last_pass or [])
    print(
        f"One token reads its {one.experts.shape[-1]} experts a layer alone: {read / 1e6:,.1f} MB."
    )
    try:
        resident = grok.load(args.checkpoint, mode="resident").trace_routing(prompt)
    except DeviceError as error:
        print(f"Not compared with the resident model: {error}")
        return
    same = np.mean(np.sort(resident.experts, -1) == np.sort(trace.experts, -1))
    apart = np.abs(resident.router_logits - trace.router_logits).max()
    print(
        f"Choices equal to the resident model's: {same:.1%}; "
        f"router logits apart by at most {apart:.1e}."
    )


if __name__ == "__main__":
    main()
