"""Models of other families with their true widths: this project beside Hugging Face transformers.

    python -m benchmarks families [--peer PYTHON] [--small] [--only NAME] [--dtype DTYPE]
                                  [--folder DIR]

Makes a checkpoint of random bfloat16 weights with OLMoE's widths and 4 layers (3.8 GB) and one of
Qwen3-30B-A3B's with 2 (3.7 GB) in a temporary folder, in pieces. Runs each in processes of their
own, one after the other: transformers, here with all weights in memory, here streamed with a
budget of 8 GB. A prompt of 64 tokens and one of 512, then generation; the seconds are those of a
second run, peaks of resident memory are the kernel's, of the whole process.

`--peer`, or the variable GROK_LENS_PEER, names a Python that has torch and transformers; without
it their rows are left out, which a row says. Aims: faster than transformers in the same dtype, at
most half its memory where weights are held and activations are float32 (its weights are then
float32, here they stay bfloat16; with bfloat16 activations both hold the same), and for streamed
prompts at most 1.2 times what the disk takes, by its rate in the same process; how long processors
were busy stands beside it, for on a machine with other work they are what is waited for. What is
said of whole models is arithmetic on the numbers beside it: layers alike, what stands outside them
once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.rows import Row, exit_code, table
from grok.architectures.architecture import all_specs
from grok.architectures.families import architecture_of, open_checkpoint

WORKER = Path(__file__).with_name("families_worker.py")
PEER = "GROK_LENS_PEER"
PROMPTS, NEW_TOKENS = (64, 512), 16
BUDGET = 8_000_000_000
FASTER, HALF, DISK = 1.0, 0.5, 1.2
PIECE = 2**22  # values that are written at once
ALIKE = 1e-3  # of the largest logit, in float32
SECONDS = 3600  # of one process

COMMON = {
    "hidden_act": "silu",
    "hidden_size": 2048,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "eos_token_id": None,
    "torch_dtype": "bfloat16",
    "rope_scaling": None,
}
OLMOE = COMMON | {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "intermediate_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "vocab_size": 50304,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "clip_qkv": None,
    "pad_token_id": 1,
}
QWEN3 = COMMON | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "use_sliding_window": False,
}
MODELS: Mapping[str, tuple[Mapping[str, Any], int, int]] = {
    "olmoe": (OLMOE, 4, 16),
    "qwen3": (QWEN3, 2, 48),
}
"""Config, layers that are made, layers of the release."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns 1 when numbers of the two sides differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks families")
    parser.add_argument("--peer", default=os.environ.get(PEER, ""), metavar="PYTHON")
    parser.add_argument("--small", action="store_true", help="one layer, short prompts")
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--folder", type=Path, help="for the checkpoints (default: temporary)")
    args = parser.parse_args(argv)
    worst = 0
    for name in [args.only] if args.only else MODELS:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="families-") as place:
            folder = Path(place) / name
            config, layers, whole = MODELS[name]
            layers = 1 if args.small else layers
            n_bytes = make(folder, {**config, "num_hidden_layers": layers})
            print(f"\n{name}: {layers} of {whole} layers, {n_bytes / 1e9:.2f} GB", flush=True)
            for dtype in [args.dtype] if args.dtype else ("float32", "bfloat16"):
                rows = compared(folder, dtype, args.peer, layers, whole, small=args.small)
                print(f"\n{name}, activations {dtype}\n{table(rows)}", flush=True)
                worst = max(worst, exit_code(rows))
            shutil.rmtree(folder)
    print(f"\n{gpu_line()}")
    return worst


# --- the checkpoint ---------------------------------------------------------------------------


def make(folder: Path, config: Mapping[str, Any]) -> int:
    """Writes a checkpoint of random values in pieces; returns the bytes of its tensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    architecture = architecture_of(open_checkpoint(folder))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    sizes, at = [], 0
    for spec in all_specs(architecture):
        for name in spec.names:
            size = int(np.prod(spec.stored_shape))
            stop = at + 2 * size
            header[name] = {
                "dtype": "BF16",
                "shape": list(spec.stored_shape),
                "data_offsets": [at, stop],
            }
            sizes.append((size, len(spec.shape) == 1))
            at = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in _values(sizes):
            file.write(piece)
    return at


def _values(sizes: Sequence[tuple[int, bool]]) -> Iterator[bytes]:
    """bfloat16 values of each tensor: ones of norms, else random ones, some of them many times."""
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal(PIECE, np.float32) * np.float32(0.02)).astype(ml_dtypes.bfloat16)
    twice = np.concatenate([pool, pool]).view(np.uint16)
    ones = np.ones(1, ml_dtypes.bfloat16).view(np.uint16)
    for size, is_norm in sizes:
        for first in range(0, size, PIECE):
            n = min(PIECE, size - first)
            start = int(rng.integers(PIECE))
            yield (np.repeat(ones, n) if is_norm else twice[start : start + n]).tobytes()


# --- the processes ----------------------------------------------------------------------------


def run(python: str, mode: str, folder: Path, dtype: str, *, small: bool) -> dict[str, Any] | str:
    """What a process told, or why it told nothing."""
    prompts = ",".join(str(n) for n in ((16, 64) if small else PROMPTS))
    new = 2 if small else NEW_TOKENS
    command = [python, str(WORKER), mode, str(folder), dtype, str(BUDGET), prompts, str(new)]
    print(f"  {mode}, {dtype} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    on_cpu = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=os.environ | on_cpu
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compared(
    folder: Path, dtype: str, python: str, layers: int, whole: int, *, small: bool
) -> list[Row]:
    """The rows of one model in one dtype."""
    theirs = run(python, "peer", folder, dtype, small=small) if python else "no Python is named"
    rows: list[Row] = []
    if isinstance(theirs, str):
        note = f"skipped: {theirs}"[:200]
        rows.append(Row(f"transformers (--peer, {PEER})", 0, "", digits=0, note=note))
    else:
        rows += _alone(theirs["version"], theirs)
    for mode in ("resident", "streamed"):
        ours = run(sys.executable, mode, folder, dtype, small=small)
        if isinstance(ours, str):
            rows.append(Row(mode, float("nan"), "", 0.0, note=f"failed: {ours}"[:200]))
            continue
        rows += _alone(mode, ours)
        if not isinstance(theirs, str):
            rows += _beside(mode, ours, theirs, exact=dtype == "float32")
        if mode == "streamed":
            rows += _streamed(ours, layers, whole)
        else:
            rows += _extrapolated(ours, layers, whole)
    return rows


def _alone(name: str, told: Mapping[str, Any]) -> list[Row]:
    times = [
        Row(f"{name}: {n} tokens", seconds, "s", digits=3) for n, seconds in told["prompts"].items()
    ]
    return [
        *times,
        Row(f"{name}: a generated token", told["token"], "s", digits=3),
        Row(f"{name}: peak memory", told["peak"] / 1e9, "GB", digits=2),
    ]


def _beside(
    mode: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], *, exact: bool
) -> list[Row]:
    held = mode == "resident"
    aim = FASTER if held else None
    times = {n: seconds / theirs["prompts"][n] for n, seconds in ours["prompts"].items()}
    rows = [
        Row(f"{mode}: {n} tokens, over transformers", ratio, "", aim=aim, digits=2)
        for n, ratio in times.items()
    ]
    token = ours["token"] / theirs["token"]
    peak = ours["peak"] / theirs["peak"]
    half = HALF if held and exact else None
    rows += [
        Row(f"{mode}: a token, over transformers", token, "", aim=aim, digits=2),
        Row(f"{mode}: memory, over transformers", peak, "", aim=half, digits=2),
    ]
    for n, own in ours["logits"].items():
        wanted = dict(theirs["logits"][n])
        apart = max((abs(v - wanted[i]) for i, v in own if i in wanted), default=float("nan"))
        apart /= max(abs(v) for v in wanted.values())
        same = sum(i in wanted for i, _ in own)
        rows.append(
            Row(
                f"{mode}: {n} tokens, largest logits apart",
                apart,
                "of the largest",
                ALIKE if exact else None,
                digits=6,
                note=f"{same} of {len(own)} the same tokens",
            )
        )
    return rows


def _streamed(told: Mapping[str, Any], layers: int, whole: int) -> list[Row]:
    """A streamed pass beside the disk, and what a whole model would take."""
    rows = [Row("streamed: the disk", told["disk"] / 1e9, "GB/s", digits=2)]
    for n, figures in told["layers"].items():
        n_bytes, seconds = (sum(values) for values in zip(*figures, strict=True))
        by_disk = n_bytes / told["disk"]
        rows.append(
            Row(
                f"streamed: {n} tokens, layers over the disk's time",
                seconds / by_disk,
                "",
                aim=DISK,
                digits=2,
                note=f"{n_bytes / 1e9:.2f} GB in {seconds:.2f} s",
            )
        )
        rows.append(
            Row(
                f"streamed: {n} tokens, processors busy over the disk's time",
                told["processor"][n] / by_disk,
                "",
                digits=2,
                note=f"{told['processor'][n]:.2f} s of all processors, logits included",
            )
        )
        outside = told["prompts"][n] - seconds
        of_all = seconds / layers * whole + outside
        rows.append(
            Row(
                f"streamed: {n} tokens through all {whole} layers, by arithmetic",
                of_all,
                "s",
                note=f"{whole} × {seconds / layers:.2f} s + {outside:.2f} s outside the layers",
            )
        )
    hits, misses = told["hits"]
    note = f"{hits} experts were in memory, {misses} were read"
    return [*rows, Row("streamed: last token read", told["token_read"] / 1e6, "MB", note=note)]


def _extrapolated(told: Mapping[str, Any], layers: int, whole: int) -> list[Row]:
    """The most that a whole model can take, were all of a pass its layers."""
    return [
        Row(
            f"resident: {n} tokens through all {whole} layers, by arithmetic, at most",
            seconds / layers * whole,
            "s",
            digits=2,
            note=f"{whole} / {layers} × {seconds:.3f} s",
        )
        for n, seconds in told["prompts"].items()
    ]


def gpu_line() -> str:
    """What is said of GPUs."""
    import jax

    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        return "GPU: skipped, there is none here."
    return f"GPU: {kind} is not used here, for both sides alike; see python -m benchmarks gpu."


if __name__ == "__main__":
    sys.exit(main())
