"""`python -m grok.run`: traces a prompt's routing and, when asked, continues it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from grok.errors import GrokError, PromptError
from grok.runner.sampling import check_sampling
from grok.units import budget_bytes

if TYPE_CHECKING:
    from grok.engine.interfaces import LayerFigures
    from grok.engine.progress import PassProgress
    from grok.planning.modes import Decision
    from grok.trace import RoutingTrace


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 for input that it cannot use, 130 when stopped."""
    args = _parser().parse_args(argv)
    try:
        prompt = args.prompt if args.tokens is None else _ids(args.tokens)
        check_sampling(args.temperature, args.top_p, args.seed)
        if args.max_new_tokens < 0:
            raise PromptError(f"--max-new-tokens is {args.max_new_tokens}; expected 0 or more.")
        budget = budget_bytes(args.memory_budget)
        if args.trace is not None and not args.trace.parent.is_dir():
            raise GrokError(f"--trace {args.trace}: that folder does not exist.")
        if args.trace is not None and args.trace.is_dir():
            raise GrokError(f"--trace {args.trace}: is a folder; expected a file to write.")
        _run(args, prompt, budget)
    except GrokError as error:
        print(f"grok.run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; the same command goes on from the last finished layer" if args.resume else ""
        print(f"\ngrok.run: stopped{again}.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grok.run", description=__doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="folder that holds ckpt-0, or ckpt-0 itself (default: the bundled model)",
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--prompt", metavar="TEXT")
    given.add_argument("--tokens", metavar="5,17,3", help="token ids instead of text")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="a SentencePiece model")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument(
        "--mode",
        choices=["auto", "resident", "streamed"],
        default="auto",
        help="all weights on the devices, or read layer by layer (default: what fits)",
    )
    parser.add_argument(
        "--memory-budget",
        type=float,
        metavar="GB",
        help="memory that streaming may take (default: 8)",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="keep what each layer gave here, and go on from it after a crash",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=0, metavar="N", help="0 only traces (default)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", type=Path, metavar="OUT.npz", help="save the routing here")
    return parser


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise PromptError(f"--tokens is {text!r:.80}; expected numbers such as 5,17,3.") from None


def _run(args: argparse.Namespace, prompt: str | list[int], budget: int | None) -> None:
    from grok.engine.progress import watching
    from grok.runner.loading import load

    def told(decision: Decision) -> None:
        if decision.mode == "streamed":
            print(f"streamed: {decision.why}", file=sys.stderr)

    model = load(
        args.checkpoint,
        mode=args.mode,
        memory_budget=budget,
        resume=args.resume,
        dtype=args.dtype,
        tokenizer=args.tokenizer,
        progress=_progress(),
        told=told,
    )
    with watching(_layers) if model.mode == "streamed" else nullcontext():
        if args.max_new_tokens == 0:
            trace = model.trace_routing(prompt)
            text = None
        else:
            generation = model.generate(
                prompt,
                max_new_tokens=args.max_new_tokens,
                temperature=args.temperature,
                top_p=args.top_p,
                seed=args.seed,
            )
            trace, text = generation.trace, generation.text
    _kept_experts(model.last_pass)
    config = model.config
    print(
        f"{model.name}: {config.n_layers} layers, {config.n_experts} experts, "
        f"top {config.top_k}, {model.dtype}, routers {model.sha256[:12]}"
    )
    if model.tokenizer is None:
        print("no tokenizer beside ckpt-0 and no --tokenizer: tokens are shown as ids")
    print(_table(trace))
    if text is not None:
        print(f"\ncontinuation: {text!r}")
    if args.trace is not None:
        trace.save(args.trace)
        print(f"saved {args.trace}")


def _progress() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\rreading tensors {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def _layers(progress: PassProgress) -> None:
    """A line that a terminal overwrites; elsewhere one line at the end."""
    end = "\n" if progress.fraction == 1 else ""
    left = progress.seconds_left
    text = (
        f"layer {progress.layer}/{progress.n_layers}, {progress.bytes_read / 1e9:,.1f} GB read, "
        f"{progress.seconds:,.0f} s" + ("" if left is None else f", about {left:,.0f} s left")
    )
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end=end, file=sys.stderr, flush=True)
    elif progress.fraction == 1:
        print(text, file=sys.stderr)


def _kept_experts(figures: Sequence[LayerFigures] | None) -> None:
    """A line on the experts of the last pass, where they are read one by one."""
    hits = sum(one.hits for one in figures or ())
    misses = sum(one.misses for one in figures or ())
    if hits + misses:
        print(
            f"experts of the last pass: {hits:,} were in memory, {misses:,} were read",
            file=sys.stderr,
        )


def _table(trace: RoutingTrace) -> str:
    """Tokens down, layers across, the chosen experts in each cell (largest gate first)."""
    n_layers, n_tokens, _ = trace.experts.shape
    cells = [
        ["-".join(str(e) for e in trace.experts[layer, t]) for layer in range(n_layers)]
        for t in range(n_tokens)
    ]
    names = [repr(str(piece))[1:-1] for piece in trace.pieces]
    width = max(len("token"), *(len(name) for name in names))
    heads = [f"L{layer}" for layer in trace.layers]
    columns = [max(len(heads[i]), *(len(row[i]) for row in cells)) for i in range(n_layers)]
    lines = ["token".ljust(width) + "  " + " ".join(map(str.rjust, heads, columns))]
    for t, (name, row) in enumerate(zip(names, cells, strict=True)):
        mark = " " if t < trace.prompt_length else "+"
        lines.append(name.ljust(width) + mark + " " + " ".join(map(str.rjust, row, columns)))
    last = ", ".join(
        f"{str(piece)!r} {prob:.3f}"
        for piece, prob in zip(
            trace.candidate_pieces[-1, :5], trace.candidate_probs[-1, :5], strict=True
        )
    )
    return "\n".join(
        [
            "experts chosen by each token in each layer, largest gate first (+ generated):",
            *lines,
            f"most probable next tokens: {last}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
