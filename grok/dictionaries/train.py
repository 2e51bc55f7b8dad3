"""`python -m grok.dictionaries.train CONFIG.toml --output DIR`: trains a dictionary.

The run keeps its state in `DIR.run` and goes on from there with --resume; killed and resumed it
gives the same dictionary, bit for bit on a CPU. The dictionary appears in `DIR` at the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from grok.dictionaries.training.settings import Settings, load_settings
from grok.errors import GrokError


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        settings = load_settings(args.config)
        if args.plan:
            print(_plan(settings, args.model))
            return 0
        _train(settings, args)
    except GrokError as error:
        print(f"grok.dictionaries.train: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grok.dictionaries.train", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--output", type=Path, help="folder of the dictionary")
    parser.add_argument("--model", type=Path, help="checkpoint; the bundled model by default")
    parser.add_argument("--corpus", type=Path, help="folder of the bundled model's own text")
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--collection", type=Path, help="a stored collection instead of text")
    parser.add_argument("--memory-budget", type=float, metavar="GB", help="of a streamed model")
    parser.add_argument("--seed", type=int, help="instead of that of the config")
    parser.add_argument("--resume", action="store_true", help="go on with a run")
    parser.add_argument("--plan", action="store_true", help="memory and time; trains nothing")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR")
    parser.add_argument("--wandb", metavar="PROJECT")
    return parser


def _plan(settings: Settings, model: Path | None) -> str:
    from grok.dictionaries.training.plan import plan_text

    return plan_text(settings, model)


def _train(settings: Settings, args: argparse.Namespace) -> None:
    from dataclasses import replace

    import numpy as np

    from grok.dictionaries.training import progress
    from grok.dictionaries.training.run import Run, train
    from grok.dictionaries.training.source import Stored
    from grok.dictionaries.training.texts import streams
    from grok.dictionaries.training.windows import cut
    from grok.runner.loading import load

    if args.output is None:
        raise GrokError("--output DIR is missing.")
    if args.seed is not None:
        settings = replace(settings, training=replace(settings.training, seed=args.seed))
    budget = None if args.memory_budget is None else int(args.memory_budget * 1e9)
    model = load(args.model, dtype="float32", mesh=(1, 1), memory_budget=budget)
    stored = None
    if args.collection is not None:
        from grok.dictionaries.training.source import windows_of
        from grok.experiments.collection import load_collection

        collection = load_collection(args.collection)
        windows = windows_of(collection, model.sha256)
        stored = Stored(collection, np.concatenate([[0], np.cumsum(windows.lengths)]))
    else:
        windows = cut(streams(model, corpus=args.corpus, files=args.text), settings.text.context)
    run = Run(settings, model, windows, args.output, stored)
    reporters: list[progress.Reporter] = []
    if args.tensorboard is not None:
        reporters.append(progress.TensorBoard(args.tensorboard))
    if args.wandb is not None:
        reporters.append(progress.WeightsAndBiases(args.wandb, settings.values(), run.work))
    dictionary = train(run, resume=args.resume, reporters=reporters)
    print(f"{args.output}: {dictionary.design.kind}, {dictionary.design.n_parameters:,} parameters")


if __name__ == "__main__":
    sys.exit(main())
