"""What looking and changing cost: traces with sites kept, interventions, sweeps, many prompts.

Part of `python -m benchmarks live`. Each intervention is timed in turn with the plain trace of
the same prompt, so that what else the machine does meets both alike; the ratio is that of the
medians. A sweep is compared with its own number of plain traces, one at a time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rows import Row
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.interventions.edits import Edits
    from grok.runner.model import Model

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 30
MOST_OVERHEAD = 1.10
MOST_OF_A_RUN = 1 / 3  # batching wins at least three times
SWEEP_TOKENS = 16
PROMPT_TOKENS = 64
COLLECTED = 100_000
MOST_MEMORY = 150.0  # MB that a collection of that many tokens may add


def in_turn(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, called alternately after one call that is not counted."""
    for function in functions.values():
        function()
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            found[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in found.items()}


def kinds(model: Model) -> dict[str, Edits]:
    """One of every intervention, in one layer, and one in all layers."""
    from grok.interventions.edits import (
        add_vector,
        ban,
        clamp,
        compose,
        edit,
        force,
        noise,
        replace_with,
        scale,
        set_top_k,
        temperature,
        zero_out,
    )

    layer = model.config.n_layers // 2
    vector = np.random.default_rng(0).standard_normal(model.config.d_model).astype(np.float32)
    of_stream: dict[str, Any] = {
        "zero_out": zero_out(),
        "scale": scale(0.5),
        "add_vector": add_vector(vector, 0.1),
        "replace_with": replace_with(vector),
        "clamp": clamp(-1, 1),
        "noise": noise(0.1, 0),
        "compose": compose(scale(0.5), add_vector(vector, 0.1)),
    }
    found = {
        name: edit("moe.output", function, layers=layer, positions=[0, -1])
        for name, function in of_stream.items()
    }
    found["ban"] = edit("router.logits", ban(0), layers=layer)
    found["temperature"] = edit("router.logits", temperature(2.0), layers=layer)
    found["force"] = edit("router.experts", force(range(model.config.top_k)), layers=layer)
    found["set_top_k"] = edit("router.experts", set_top_k(model.config.top_k), layers=layer)
    found["ban, all layers"] = edit("router.logits", ban(0))
    found["add_vector, all layers"] = edit("resid_post", add_vector(vector, 0.1))
    return found


def overhead(model: Model, tokens: np.ndarray) -> list[Row]:
    """Each intervention's time over that of the plain trace."""
    edits = kinds(model)

    def run(one: Edits | None) -> Callable[[], object]:
        if one is None:
            return lambda: model.trace_routing(tokens)
        return lambda: model.trace_routing(tokens, edits=one)

    def saved() -> None:
        with model.trace(tokens) as t:
            t.layers[:].resid_post.save()

    functions: dict[str, Callable[[], object]] = {"plain": run(None)}
    functions |= {name: run(one) for name, one in edits.items()}
    functions["residual stream of every layer saved"] = saved
    times = in_turn(functions, REPEATS)
    plain = times.pop("plain")
    rows = [Row(f"plain trace of {tokens.size} tokens", 1e3 * plain, "ms")]
    return rows + [
        Row(
            name,
            taken / plain,
            "times a plain trace",
            limit=MOST_OVERHEAD if name in edits else None,
            digits=3,
            note=f"{1e3 * taken:.1f} ms",
        )
        for name, taken in times.items()
    ]


def sweeps(model: Model, tokens: np.ndarray) -> list[Row]:
    """One run of a sweep against one plain trace."""
    from grok.experiments.ablation import ablation_sweep
    from grok.experiments.logit_lens import logit_lens
    from grok.experiments.metrics import kl_divergence
    from grok.experiments.patching import patch_sweep

    other = tokens.copy()
    other[0] = tokens[0] + 1 if tokens[0] + 1 < model.config.vocab_size else tokens[0] - 1
    times = in_turn(
        {
            "plain": lambda: model.trace_routing(tokens, candidates=1),
            "ablation": lambda: ablation_sweep(model, tokens),
            "patch": lambda: patch_sweep(model, tokens, other, metric=kl_divergence()),
            "lens": lambda: logit_lens(model, tokens),
        },
        5,
    )
    plain = statistics.median(
        in_turn({"plain": lambda: model.trace_routing(tokens, candidates=1)}, 20).values()
    )
    n_layers, n_experts = model.config.n_layers, model.config.n_experts
    runs = {"ablation": n_layers * n_experts, "patch": n_layers * tokens.size * 2}
    rows = [Row(f"plain trace of {tokens.size} tokens", 1e3 * plain, "ms", digits=2)]
    for name, count in runs.items():
        each = times[name] / count
        rows.append(
            Row(
                f"{name} sweep, one of {count} runs",
                each / plain,
                "of a plain trace",
                limit=MOST_OF_A_RUN,
                digits=3,
                note=f"{1 / each:,.0f} runs/s against {1 / plain:,.0f}: {plain / each:.1f} times",
            )
        )
    rows.append(Row("logit lens of all layers", times["lens"] / plain, "plain traces", digits=2))
    return rows


def many_prompts(model: Model) -> list[Row]:
    """Collecting routing against the plain batched forward on as many tokens."""
    from grok.experiments.collecting import BATCH_TOKENS, collect

    rng = np.random.default_rng(0)
    low, high = min(3, model.config.vocab_size - 1), model.config.vocab_size
    length = min(PROMPT_TOKENS, model.config.context_length)
    prompts = [rng.integers(low, high, length).astype(np.int32) for _ in range(320)]
    batch = np.stack(prompts[: max(1, BATCH_TOKENS // length)])
    n_batches = len(prompts) // len(batch)

    def collected() -> None:
        with tempfile.TemporaryDirectory() as folder:
            collect(model, prompts, Path(folder) / "c")

    def plain() -> None:
        for _ in range(n_batches):
            model.forward(batch)

    times = in_turn({"collect": collected, "plain": plain}, 3)
    n_tokens = len(prompts) * length
    own, forward = n_tokens / times["collect"], n_batches * batch.size / times["plain"]
    return [
        Row(
            f"routing of {len(prompts)} prompts of {length} tokens, on disk",
            own,
            "tokens/s",
            digits=0,
            note=f"{own / forward:.2f} times the plain batched forward ({forward:,.0f} tokens/s)",
        )
    ]


_MEMORY = """
import resource, sys, time
import numpy as np
from grok import load
from grok.experiments import collect
model = load(sys.argv[1] or None)
rng = np.random.default_rng(0)
length = min(64, model.config.context_length)
low = min(3, model.config.vocab_size - 1)
high = model.config.vocab_size
def prompts(count):
    return [rng.integers(low, high, length).astype(np.int32) for _ in range(count)]
sites = ["layers[0].resid_post"]
collect(model, prompts(64), sys.argv[2] + "/first", sites=sites)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
done = collect(model, prompts(int(sys.argv[3]) // length), sys.argv[2] + "/all", sites=sites)
taken = time.perf_counter() - started
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kept = sum(file.stat().st_size for file in done.folder.rglob("*") if file.is_file())
print(done.manifest["n_tokens"], taken, (after - before) / 1024, kept / 1e6)
"""


def memory(checkpoint: Path | None) -> list[Row]:
    """What a long collection adds to the memory of a short one, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _MEMORY, str(checkpoint or ""), folder, str(COLLECTED)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise GrokError(done.stderr.strip().splitlines()[-1] if done.stderr else "no output")
    tokens, taken, added, kept = map(float, done.stdout.split())
    return [
        Row(
            f"memory that collecting {tokens:,.0f} tokens adds to {64 * PROMPT_TOKENS:,}",
            added,
            "MB",
            limit=MOST_MEMORY,
            note=f"{kept:.0f} MB on disk, {tokens / taken:,.0f} tokens/s with one site of "
            "activations",
        )
    ]


def measured(model: Model, prompt: np.ndarray) -> list[Row]:
    """All rows of one loaded model but `memory`."""
    return [*overhead(model, prompt), *sweeps(model, prompt[:SWEEP_TOKENS]), *many_prompts(model)]
