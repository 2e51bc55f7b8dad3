"""Live routing: traces, interventions, sweeps, generation, many prompts, and what dispatch saves.

    python -m benchmarks live [--checkpoint DIR]

For each dtype a fresh process imports, loads, compiles and traces; then the same
process traces warm. The comparison with computing all experts runs there too, on
the same weights and rows, each dispatch compiled into the same layer:

- "every slot" computes all E experts for each of a token's K slots and picks one
  of E, as the released code does;
- "every token" computes all E experts once for each token and picks K of them.

The last lines set the time of a trace beside what the machine can do: operations
over its measured rate of matrix products, bytes of weights over its rate of copying.
A share above 100 % says that other work on the machine disturbed the rates, which
take longer to measure than a trace; only a quiet machine gives these lines meaning.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks import interventions
from benchmarks.rows import Row, exit_code, table
from grok.checkpoints.grok1 import open_checkpoint
from grok.config import BUNDLED_MODEL, GrokConfig
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.architectures.architecture import Dispatch
    from grok.checkpoints.tensor_spec import TensorSpec
    from grok.runner.loading import Model
    from grok.trace import RoutingTrace

ROOT = Path(__file__).resolve().parent.parent
TOKENS = 64
OTHER_LENGTHS = (16, 128, 512)
NEW_TOKENS = 32
REPEATS = 20
LIMIT_FIRST = 10.0  # s
LIMIT_WARM = 100.0  # ms
GEMM = 2048
SAME = 0.02  # relative difference of residuals; bfloat16 keeps 8 bits
TEXT = (
    "The ferry left at half past six, and those who had missed it sat down by the water to wait "
    "for the next. Nobody spoke. A boy threw stones; an old man counted them under his breath. "
    "def area(width, height): return width * height. Am Morgen lag Nebel über dem Fluss. "
)


# --- in the fresh process -----------------------------------------------------


def prompt_of(model: Model, n_tokens: int) -> np.ndarray:
    """So many token ids: of text where there is a tokenizer, else random ones."""
    if model.tokenizer is None:
        low = min(3, model.config.vocab_size - 1)
        return np.random.default_rng(0).integers(low, model.config.vocab_size, n_tokens, np.int32)
    tokens = model.tokenizer.encode(TEXT)
    return np.resize(tokens, n_tokens).astype(np.int32)


class Seconds(NamedTuple):
    """Times of repeated calls; the fastest is the least disturbed by what else runs."""

    median: float
    fastest: float


def seconds(function: Callable[[], object], repeats: int = REPEATS) -> Seconds:
    """Median and fastest time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return Seconds(statistics.median(times), min(times))


def trace_row(n_tokens: int, taken: Seconds, limit: float | None = None) -> Row:
    """The time of a warm trace."""
    fastest = f"fastest {1e3 * taken.fastest:.1f}"
    name = f"trace of {n_tokens} tokens, warm"
    return Row(name, 1e3 * taken.median, "ms", limit=limit, note=fastest)


def every_slot(x: Any, experts: Any, gates: Any, weights: Any) -> Any:
    """All experts for each of a token's slots, then one of them. [N, D] -> [N, D]."""
    import jax.numpy as jnp

    n, k = experts.shape
    out = _all_experts(jnp.repeat(x, k, axis=0), weights)  # [E, N * K, D]
    picked = jnp.take_along_axis(out, experts.reshape(1, n * k, 1), axis=0)
    return _mixed(picked.reshape(n, k, -1), gates, x.dtype)


def every_token(x: Any, experts: Any, gates: Any, weights: Any) -> Any:
    """All experts once for each token, then K of them. [N, D] -> [N, D]."""
    import jax.numpy as jnp

    out = _all_experts(x, weights).transpose(1, 0, 2)  # [N, E, D]
    return _mixed(jnp.take_along_axis(out, experts[..., None], axis=1), gates, x.dtype)


def _all_experts(x: Any, weights: Any) -> Any:
    import jax

    from grok.architectures.moe import expert_output

    return jax.vmap(expert_output, in_axes=(None, 0))(x, weights)


def _mixed(picked: Any, gates: Any, dtype: Any) -> Any:
    import jax.numpy as jnp

    return jnp.sum(picked * gates.astype(dtype).astype(jnp.float32)[..., None], axis=1)


def layers_seconds(checkpoint: Path | None, dtype: str, tokens: np.ndarray) -> dict[str, float]:
    """Seconds for all layers by dispatch, and the share of tokens that come out the same."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh

    from grok.architectures.grok1 import Grok1
    from grok.architectures.moe import run_selected
    from grok.checkpoints.tensor_spec import read_parameter
    from grok.engine.sharding import put_on_devices

    source = open_checkpoint(checkpoint if checkpoint is not None else BUNDLED_MODEL)
    config = source.config
    model = Grok1(config)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))

    def placed(spec: TensorSpec) -> Any:
        return put_on_devices(spec, read_parameter(source, spec), mesh)

    layers = [
        {spec.leaf: placed(spec) for spec in model.layer_specs(i)} for i in range(config.n_layers)
    ]
    wanted = jnp.dtype(dtype)
    ids = jnp.asarray(tokens[None])
    outer = {spec.leaf: placed(spec) for spec in model.outer_specs()}
    embedded = model.embed(outer, ids, wanted)

    def run(compiled: Callable[..., Any]) -> jax.Array:
        h = embedded
        cache = model.empty_cache(1, ids.shape[1], wanted)
        for one in layers:
            h = compiled(one, h, np.int32(0), ids > 0, cache)
        return jax.block_until_ready(h)

    dispatches: dict[str, Dispatch] = {
        "selected": run_selected,
        "every slot": every_slot,
        "every token": every_token,
    }
    compiled = {
        name: jax.jit(
            partial(_residual, config, dispatch=dispatch),
            compiler_options={"xla_allow_excess_precision": False},
        )
        for name, dispatch in dispatches.items()
    }
    results = {name: np.asarray(run(one), np.float64) for name, one in compiled.items()}
    found: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(REPEATS):  # alternating, so that what else runs meets all alike
        for name, one in compiled.items():
            started = time.perf_counter()
            run(one)
            found[name].append(time.perf_counter() - started)
    own = results["selected"][0]
    apart = np.max([np.linalg.norm(one[0] - own, axis=-1) for one in results.values()], axis=0)
    share = float(np.mean(apart / np.linalg.norm(own, axis=-1) <= SAME))
    return {name: statistics.median(times) for name, times in found.items()} | {"same": share}


def _residual(config: GrokConfig, params: Any, *args: Any, dispatch: Dispatch) -> Any:
    from grok.architectures.grok1 import Grok1

    return Grok1(config).decoder_layer(params, *args, dispatch=dispatch)[0]


def product_rate(dtype: str) -> float:
    """Operations per second of a square matrix product."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((GEMM, GEMM), dtype)
    product = jax.jit(jnp.dot)
    return 2 * GEMM**3 / seconds(lambda: jax.block_until_ready(product(a, a)), 5).fastest


def copy_rate() -> float:
    """Bytes per second read while a large array is copied."""
    source = np.ones(2**25)
    target = np.empty_like(source)
    return source.nbytes / seconds(lambda: np.copyto(target, source), 5).fastest


def operations(config: GrokConfig, n_tokens: int) -> float:
    """Multiplications and additions of a trace: weights that a token passes, and attention."""
    weights = config.n_parameters(active=True) * n_tokens
    scores = 2 * config.n_layers * config.n_heads * config.d_head * n_tokens**2
    return 2.0 * (weights + scores)


def weight_bytes(checkpoint: Path | None, trace: RoutingTrace) -> int:
    """Bytes of the weights that a trace touches, as stored; of the experts only those chosen."""
    source = open_checkpoint(checkpoint if checkpoint is not None else BUNDLED_MODEL)
    total = 0
    for path in source.paths:
        tensor = source.read(path)
        parts = [tensor] if isinstance(tensor, np.ndarray) else [tensor.weight, tensor.scales]
        n_bytes = sum(part.nbytes for part in parts)
        if "/moe/" in path:
            layer = int(path.split("decoder_layer_")[1].split("/")[0])
            n_bytes = n_bytes * np.unique(trace.experts[layer]).size // source.config.n_experts
        total += n_bytes
    return total


def measured(checkpoint: Path | None, dtype: str, started: float) -> list[Row]:
    """All rows for one dtype; the process began at `started` (seconds since the epoch)."""
    import grok

    begun = time.time()
    model = grok.load(checkpoint, dtype=dtype)
    loaded = time.time()
    prompt = prompt_of(model, TOKENS)
    trace = model.trace_routing(prompt)
    first, processor = time.time(), time.process_time()
    rows = [
        Row(
            f"process start to first trace of {TOKENS} tokens",
            first - started,
            "s",
            limit=LIMIT_FIRST,
            digits=2,
            note=f"{processor:.2f} s of processor time",
        ),
        Row("of that, grok.load with import of JAX", loaded - begun, "s", digits=2),
        Row("of that, first trace with compilation", first - loaded, "s", digits=2),
    ]
    warm = seconds(lambda: model.trace_routing(prompt))
    rows.append(trace_row(TOKENS, warm, LIMIT_WARM))
    for length in OTHER_LENGTHS:
        if length > model.config.context_length:
            continue
        ids = prompt_of(model, length)
        taken = seconds(lambda ids=ids: model.trace_routing(ids))  # type: ignore[misc]
        rows.append(trace_row(length, taken))
    given = prompt_of(model, 16)
    new = min(NEW_TOKENS, model.config.context_length - given.size)
    n_new = len(model.generate(given, max_new_tokens=new).new_tokens)
    taken = seconds(lambda: model.generate(given, max_new_tokens=new), 5)
    rows.append(
        Row(
            f"generation of {n_new} tokens after 16",
            n_new / taken.median,
            "tokens/s",
            digits=0,
            note=f"fastest {n_new / taken.fastest:.0f}",
        )
    )
    rows += interventions.measured(model, prompt)
    rows += comparison(checkpoint, dtype, prompt)
    config = open_checkpoint(checkpoint or BUNDLED_MODEL).config
    return rows + ceiling(checkpoint, dtype, config, trace, warm.fastest)


def comparison(checkpoint: Path | None, dtype: str, prompt: np.ndarray) -> list[Row]:
    """The layers alone, with the selected experts and with all."""
    found = layers_seconds(checkpoint, dtype, prompt)
    own = found["selected"]
    return [
        Row(f"all layers, {TOKENS} tokens, selected experts only", 1e3 * own, "ms"),
        *(
            Row(
                f"all layers, all experts for {name}",
                1e3 * found[name],
                "ms",
                note=f"{found[name] / own:.2f} times as long",
            )
            for name in ("every slot", "every token")
        ),
        Row(
            "of that, tokens with the same result",
            100 * found["same"],
            "%",
            note=f"within {100 * SAME:g} %; rounding decides near ties between experts",
        ),
    ]


def ceiling(
    checkpoint: Path | None, dtype: str, config: GrokConfig, trace: RoutingTrace, warm: float
) -> list[Row]:
    """What one trace has to do, and the shortest time in which this machine could."""
    work, moved = operations(config, TOKENS), weight_bytes(checkpoint, trace)
    rates = {name: product_rate(name) for name in dict.fromkeys(["float32", dtype])}
    copy = copy_rate()
    rows = [
        Row("operations of a trace", work / 1e9, "GFLOP", digits=3),
        Row("bytes of weights touched", moved / 1e6, "MB", digits=2),
    ]
    for name, rate in rates.items():
        rows.append(
            Row(
                f"product {GEMM}^3 in {name}",
                rate / 1e9,
                "GFLOP/s",
                digits=0,
                note=f"at that rate a trace is {1e3 * work / rate:.2f} ms, "
                f"{100 * work / rate / warm:.1f} % of the fastest",
            )
        )
    rows.append(
        Row(
            "reading while copying",
            copy / 1e9,
            "GB/s",
            note=f"at that rate the weights are {1e3 * moved / copy:.2f} ms, "
            f"{100 * moved / copy / warm:.1f} % of the fastest",
        )
    )
    return rows


# --- in the command's process --------------------------------------------------


def fresh_process(checkpoint: Path | None, dtype: str) -> list[Row]:
    """`measured` in a process of its own, without compilations kept from earlier."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "rows.json"
        command = [sys.executable, "-m", "benchmarks.live", "--dtype", dtype]
        command += ["--rows", str(output), "--started", repr(time.time())]
        if checkpoint is not None:
            command += ["--checkpoint", str(checkpoint.resolve())]
        done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise GrokError(done.stderr.strip().splitlines()[-1] if done.stderr else "no output")
        return [Row(**values) for values in json.loads(output.read_text())]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints a table for each dtype; returns 1 when a limit is not held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks live", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR")
    for internal in ("--dtype", "--rows", "--started"):  # how `fresh_process` calls
        parser.add_argument(internal, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        if args.rows is not None:
            rows = measured(args.checkpoint, args.dtype, float(args.started))
            Path(args.rows).write_text(json.dumps([asdict(row) for row in rows]))
            return 0
        folder = args.checkpoint if args.checkpoint is not None else BUNDLED_MODEL
        config = open_checkpoint(folder).config
        print(
            f"Live routing on {folder.resolve().name}: {config.n_layers} layers, d_model "
            f"{config.d_model}, {config.n_experts} experts, top {config.top_k}, "
            f"{config.n_parameters() / 1e6:.1f} M parameters; warm: median of {REPEATS}"
        )
        worst = 0
        for dtype in ("bfloat16", "float32"):
            rows = fresh_process(args.checkpoint, dtype)
            print(f"\n{dtype}\n{table(rows)}", flush=True)
            worst = max(worst, exit_code(rows))
        rows = interventions.memory(args.checkpoint)
        print(f"\nmany prompts\n{table(rows)}", flush=True)
        return max(worst, exit_code(rows))
    except GrokError as error:
        print(f"benchmarks live: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
