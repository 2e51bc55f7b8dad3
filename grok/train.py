"""`python -m grok.train --corpus DIR --output DIR`: trains, quantizes and exports a small model.

The run keeps its state in `OUTPUT.run` (weights, optimiser, tokenizer, tokens,
metrics) and goes on from there when started again with the same settings; the
export appears in `OUTPUT` whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.config import GrokConfig
from grok.errors import GrokError
from grok.files import set_aside, write_whole
from grok.training.step import Recipe

if TYPE_CHECKING:
    from grok.training.corpus import Domain, EncodedDomain
    from grok.training.step import TrainState

SMALL = GrokConfig(
    vocab_size=4096,
    d_model=128,
    n_layers=12,
    n_heads=4,
    n_kv_heads=2,
    d_head=32,
    widening=3,
    n_experts=8,
    top_k=2,
    context_length=1024,
    embedding_multiplier=128**0.5,
    output_multiplier=0.5773502691896257,
    attention_multiplier=32**-0.5,
)
"""Shape of the bundled model: Grok-1's, at 10.5 M parameters, 3.4 M of them used by a token."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    recipe = Recipe(**{f.name: getattr(args, f.name) for f in fields(Recipe)})
    try:
        train(args.corpus, args.output, recipe, dtype=args.dtype, save_every=args.save_every)
    except GrokError as error:
        print(f"grok.train: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.strerror is None:
            raise
        print(
            f"grok.train: {error.filename or args.output}: {error.strerror}. Free space or make it "
            "writable, and start the same command again: it goes on from the saved state.",
            file=sys.stderr,
        )
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grok.train", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the text files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default=None)
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    for field in fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        kind: Any = float if isinstance(field.default, float) else int
        parser.add_argument(flag, type=kind, default=field.default, help="default %(default)s")
    return parser


def train(
    corpus: Path, output: Path, recipe: Recipe, *, dtype: str | None, save_every: int = 100
) -> None:
    """Trains from wherever the run stands, then exports.

    Args:
        corpus: folder of the text files.
        output: folder of the exported model; must not hold anything yet.
        recipe: settings; a run that was begun with others is refused.
        dtype: of activations; bfloat16 on a GPU and float32 on a CPU when None.
        save_every: steps between two saved states.

    Raises:
        GrokError: unusable corpus or output folder, or a run begun with other settings.
    """
    import jax

    _use_all_cores()
    from grok.training.export import export
    from grok.training.step import initial_state

    if output.exists() and any(output.iterdir()):
        raise GrokError(f"{output}: exists and is not empty. Choose a new folder.")
    work = output.with_name(output.name + ".run")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer_file = work / "tokenizer.model"
    domains, encoded = _encoded(corpus, work, tokenizer_file, recipe.seed)
    compute = dtype or ("bfloat16" if jax.default_backend() == "gpu" else "float32")
    settings = {**asdict(recipe), "dtype": compute}
    state = _restored(work, settings, initial_state(SMALL, recipe))
    state = _run_steps(state, encoded, recipe, settings, work, save_every)
    export(SMALL, state.params, settings, domains, encoded, tokenizer_file, output, work)


def _encoded(
    corpus: Path, work: Path, tokenizer_file: Path, seed: int
) -> tuple[dict[str, Domain], dict[str, EncodedDomain]]:
    """The domains of a corpus and their tokens; trains the tokenizer where there is none yet."""
    import sentencepiece

    from grok.training import corpus as text
    from grok.training import vocabulary

    domains = text.load_domains(corpus, seed)
    if not tokenizer_file.exists():
        train_texts = {name: domain.train_text for name, domain in domains.items()}
        vocabulary.train_tokenizer(train_texts, tokenizer_file, SMALL.vocab_size)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
    return domains, text.encode_domains(domains, tokenizer, work / "tokens.npz")


def _run_steps(
    state: TrainState,
    encoded: Mapping[str, EncodedDomain],
    recipe: Recipe,
    settings: dict[str, Any],
    work: Path,
    save_every: int,
) -> TrainState:
    """The state after all steps of the recipe; the first ten and every tenth are logged."""
    import jax

    from grok.training.corpus import Batches
    from grok.training.step import make_step

    compute = settings["dtype"]
    steps = [make_step(SMALL, recipe, compute, focused=focused) for focused in (False, True)]
    n_steps = recipe.steps + recipe.focus_steps
    long_batch = max(1, recipe.batch * recipe.length // recipe.long_length)
    short = Batches(encoded, recipe.batch, recipe.length, recipe.seed)
    long = Batches(encoded, long_batch, recipe.long_length, recipe.seed)
    print(
        f"{SMALL.n_parameters():,} parameters, {jax.default_backend()} x {len(jax.devices())}, "
        f"{compute}; from step {int(state.step)} of {n_steps}",
        flush=True,
    )
    spent = time.perf_counter()
    for index in range(int(state.step), n_steps):
        is_long = recipe.steps - recipe.long_steps <= index < recipe.steps
        tokens, _ = (long if is_long else short).batch(index)
        state, parts, gradient_norm = steps[index >= recipe.steps](state, tokens)
        if index < 10 or index % 10 == 9:
            load = np.asarray(parts.load)
            now = time.perf_counter()
            rate = tokens[:, 1:].size * (1 if index < 10 else 10) / (now - spent)
            spent = now
            _log(
                work,
                {
                    "step": index + 1,
                    "loss": round(float(parts.cross_entropy), 4),
                    "sequence_entropy": round(float(parts.sequence_entropy), 4),
                    "balance": round(float(parts.balance), 4),
                    "gradient_norm": round(float(gradient_norm), 3),
                    "tokens_per_s": round(rate),
                    "load_min": round(float(load.min()), 4),
                    "load_max": round(float(load.max()), 4),
                    "load": np.round(load, 3).tolist(),  # [L, E], shares of the assignments
                },
            )
        if (index + 1) % save_every == 0 or index + 1 == n_steps:
            _save(work, settings, state)
    return state


def _log(work: Path, line: Mapping[str, Any]) -> None:
    """Adds a line to the metrics of the run and prints it."""
    try:
        with (work / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
    except OSError as error:
        raise GrokError(
            f"{work}: the metrics cannot be written ({error.strerror or error}). Free space and "
            "start the same command again: it goes on from the saved state."
        ) from error
    print(
        f"step {line['step']:5d}  loss {line['loss']:.3f}  "
        f"sequence entropy {line['sequence_entropy']:.3f}  balance {line['balance']:.3f}  "
        f"load {line['load_min']:.3f} to {line['load_max']:.3f}  "
        f"{line['tokens_per_s']:,} tokens/s",
        flush=True,
    )


def _use_all_cores() -> None:
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", min(8, os.cpu_count() or 1))


def _save(work: Path, settings: dict[str, Any], state: TrainState) -> None:
    import jax

    leaves: dict[str, Any] = {
        f"leaf{i:04d}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))
    }
    text = np.array(json.dumps(settings, sort_keys=True))
    file = work / "state.npz"
    try:
        write_whole(file, lambda stream: np.savez(stream, settings=text, **leaves))
    except OSError as error:
        raise GrokError(
            f"{file}: the state cannot be saved ({error.strerror or error}). Free space and start "
            "the same command again: it goes on from the state before."
        ) from error


def _restored(work: Path, settings: dict[str, Any], fresh: TrainState) -> TrainState:
    """The saved state where there is one, else `fresh`; a damaged one is set aside."""
    import jax

    file = work / "state.npz"
    if not file.exists():
        return fresh
    wanted = jax.tree.leaves(fresh)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
            before = dict(json.loads(str(saved["settings"])))
            leaves = [saved[f"leaf{i:04d}"] for i in range(len(wanted))]
        if before == settings and [x.shape for x in leaves] != [x.shape for x in wanted]:
            raise ValueError("other shapes")
    except Exception as error:  # zipfile, zlib, numpy and json raise a dozen kinds
        if isinstance(error, OSError) and error.errno is not None:
            raise GrokError(
                f"{file}: the saved state cannot be read ({error.strerror}). Make it readable and "
                "start again."
            ) from error
        aside = set_aside(file)
        print(
            f"{file} is damaged and has been set aside{f' as {aside.name}' if aside else ''}; "
            "training begins anew.",
            flush=True,
        )
        return fresh
    if before != settings:
        changed = sorted(k for k in settings if before.get(k) != settings[k])
        raise GrokError(
            f"{file}: this run was begun with other settings ({', '.join(changed)}). "
            "Start again with the same, or choose another --output."
        )
    found: TrainState = jax.tree.unflatten(jax.tree.structure(fresh), leaves)
    return found


if __name__ == "__main__":
    sys.exit(main())
