"""`python -m grok.dictionaries.train CONFIG.toml --output DIR`: trains a dictionary.

The run keeps its state in `DIR.run` and goes on from there with --resume; killed and resumed it
gives the same dictionary, bit for bit on a CPU. The dictionary appears in `DIR` at the end.

--mesh DATA,MODEL shares the work out among devices: tokens of a batch along the first axis,
features along the second. With JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID set,
several processes join, each with the same command and the same folders; the first one writes.

--plan says what a run would take and trains nothing; with --model grok-1 for Grok-1's widths, of
which nothing has to be there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grok.dictionaries.training.arguments import add_text_arguments, given_text, opened_model
from grok.dictionaries.training.settings import Settings, load_settings
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.dictionaries.training.progress import Reporter


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        settings = load_settings(args.config)
        if args.plan:
            print(_plan(settings, args))
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
    add_text_arguments(parser)
    parser.add_argument("--collection", type=Path, help="a stored collection instead of text")
    parser.add_argument("--seed", type=int, help="instead of that of the config")
    parser.add_argument("--mesh", type=_mesh, metavar="DATA,MODEL", help="devices to share it")
    parser.add_argument("--resume", action="store_true", help="go on with a run")
    parser.add_argument("--plan", action="store_true", help="memory and time; trains nothing")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR")
    parser.add_argument("--wandb", metavar="PROJECT")
    return parser


def _mesh(text: str) -> tuple[int, int]:
    try:
        data, model = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.40}; expected sizes such as 2,4") from None
    return data, model


def _plan(settings: Settings, args: argparse.Namespace) -> str:
    from grok.dictionaries.training.plan import plan_text

    return plan_text(settings, args.model, args.mesh or (1, 1))


def _reporters(settings: Settings, args: argparse.Namespace) -> list[Reporter]:
    """What else is told of steps; its packages are imported only where it is asked for."""
    from grok.dictionaries.training.progress import TensorBoard, WeightsAndBiases

    found: list[Reporter] = []
    if args.tensorboard is not None:
        found.append(TensorBoard(args.tensorboard))
    if args.wandb is not None:
        folder = args.output.with_name(args.output.name + ".run")
        found.append(WeightsAndBiases(args.wandb, settings.values(), folder))
    return found


def _train(settings: Settings, args: argparse.Namespace) -> None:
    from dataclasses import replace

    import numpy as np

    from grok.dictionaries.training.devices import first_process, open_mesh
    from grok.dictionaries.training.run import Run, train
    from grok.dictionaries.training.source import Stored
    from grok.dictionaries.training.windows import cut
    from grok.engine.sharding import initialize_distributed

    if args.output is None:
        raise GrokError("--output DIR is missing.")
    if args.seed is not None:
        settings = replace(settings, training=replace(settings.training, seed=args.seed))
    together = initialize_distributed()
    mesh = open_mesh(args.mesh, settings.dictionary.features, settings.training.batch)
    reporters = _reporters(settings, args) if first_process() else []
    # Several processes hold the model together, as its experts allow.
    model = opened_model(args, None if together else (1, 1))
    context, longest = settings.text.context, model.config.context_length
    if context > longest:
        raise GrokError(f"text: context is {context:,}; {model.name} reads {longest:,} at most.")
    stored = None
    if args.collection is not None:
        from grok.dictionaries.training.source import windows_of
        from grok.experiments.collection import load_collection

        collection = load_collection(args.collection)
        windows = windows_of(collection, model.sha256)
        stored = Stored(collection, np.concatenate([[0], np.cumsum(windows.lengths)]))
    else:
        windows = cut(given_text(args, model), context)
    run = Run(settings, model, windows, args.output, stored, mesh)
    dictionary = train(run, resume=args.resume, reporters=reporters)
    if first_process():
        own = dictionary.design
        print(f"{args.output}: {own.kind}, {own.n_parameters:,} parameters")


if __name__ == "__main__":
    sys.exit(main())
