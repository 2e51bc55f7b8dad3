"""The processes that the benchmark of the families measures: this project's, or transformers'.

    PYTHON benchmarks/families_worker.py {resident,streamed,peer} FOLDER DTYPE BUDGET PROMPTS NEW

Prints one JSON object: seconds of each prompt and of a generated token, the peak of resident
memory, and where layers are streamed what was read, past the page cache, how long each layer took
and how long processors were busy. A prompt is run once to compile and once to be timed. Nothing of
this project is imported for the peer, whose Python need not have its libraries.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SEED = 7
TOP = 8  # logits of the last token that are told, by size


def tokens_of(length: int, vocab_size: int) -> list[int]:
    """Ids that both sides are given."""
    state, found = SEED, []
    for _ in range(length):
        state = (state * 1103515245 + 12345) % 2**31
        found.append(3 + state % (vocab_size - 3))
    return found


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the second of two runs, those of processors in it, and what it gives."""
    run()
    began, busy = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - began, time.process_time() - busy, found


def peak_bytes() -> int:
    """The most memory that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(
    mode: str, folder: str, dtype: str, budget: int, prompts: list[int], new: int
) -> dict[str, Any]:
    """This project's model, held or streamed."""
    import jax
    import numpy as np

    import grok
    from grok.architectures.families import open_checkpoint
    from grok.planning.machine import read_rate

    began = time.perf_counter()
    streamed = mode == "streamed"
    model = grok.load(folder, mode=mode, dtype=dtype, memory_budget=budget if streamed else None)
    told: dict[str, Any] = {"device": jax.devices()[0].device_kind, "logits": {}}
    told |= {"prompts": {}, "processor": {}}
    told["loaded"] = time.perf_counter() - began
    if streamed:
        model.engine.layers.direct = True  # type: ignore[attr-defined]
        told["disk"] = read_rate(open_checkpoint(Path(folder)), 4.0)[0]
        told["layers"] = {}
    vocab_size = model.config.vocab_size
    for length in prompts:
        tokens = np.array(tokens_of(length, vocab_size), np.int32)
        seconds, busy, found = timed(partial(cold, model, tokens, streamed))
        told["prompts"][length], told["processor"][length] = seconds, busy
        told["logits"][length] = top(np.asarray(found.logits[0, length - 1], np.float32))
        if model.last_pass:
            told["layers"][length] = [(one.bytes_read, one.seconds) for one in model.last_pass]
    tokens = np.array(tokens_of(prompts[0], vocab_size), np.int32)
    list(model.stream(tokens, max_new_tokens=3))
    times = [time.perf_counter()]
    for _ in model.stream(tokens, max_new_tokens=new + 1):
        times.append(time.perf_counter())
    told["token"] = (times[-1] - times[1]) / (len(times) - 2)
    if model.last_pass:
        last = model.last_pass
        told["token_read"] = sum(one.bytes_read for one in last)
        told["hits"] = [sum(one.hits for one in last), sum(one.misses for one in last)]
    if streamed:
        told["disk"] = max(told["disk"], read_rate(open_checkpoint(Path(folder)), 4.0)[0])
    return told


def cold(model: Any, tokens: Any, streamed: bool) -> Any:
    """A prompt's pass; a streamed one finds no weights in memory."""
    if streamed:
        fresh(model)
    return model.run_one(tokens)


def fresh(model: Any) -> None:
    """Lets go of the weights that a streamed model keeps; its next pass makes room again."""
    for cache in (model.engine.layers.fixed, model.engine.layers.cache):
        cache.resize(0)


def peer(folder: str, dtype: str, prompts: list[int], new: int) -> dict[str, Any]:
    """transformers' model, on its processor or GPU."""
    import torch
    import transformers

    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model = model.eval().to(device)
    told: dict[str, Any] = {"device": device, "prompts": {}, "logits": {}}
    told["version"] = f"transformers {transformers.__version__}, torch {torch.__version__}"
    told["loaded"] = time.perf_counter() - began
    vocab_size = model.config.vocab_size

    def generate(ids: Any, n: int) -> float:
        started = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=n,
            max_new_tokens=n,
            pad_token_id=0,
        )
        return time.perf_counter() - started

    with torch.inference_mode():
        for length in prompts:
            ids = torch.tensor([tokens_of(length, vocab_size)], device=device)
            told["prompts"][length], _, found = timed(lambda: model(ids).logits.cpu())  # noqa: B023
            told["logits"][length] = top(found[0, -1].float().numpy())
        ids = torch.tensor([tokens_of(prompts[0], vocab_size)], device=device)
        generate(ids, 2)
        told["token"] = (generate(ids, new + 1) - generate(ids, 1)) / new
    return told


def top(logits: Any) -> list[tuple[int, float]]:
    """The largest logits, by token."""
    order = logits.argsort()[::-1][:TOP]
    return [(int(i), float(logits[i])) for i in order]


def main() -> None:
    """The command."""
    mode, folder, dtype, budget, prompts, new = sys.argv[1:]
    lengths = [int(n) for n in prompts.split(",")]
    if mode == "peer":
        told = peer(folder, dtype, lengths, int(new))
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        told = ours(mode, folder, dtype, int(budget), lengths, int(new))
    print(json.dumps({**told, "peak": peak_bytes()}))


if __name__ == "__main__":
    main()
