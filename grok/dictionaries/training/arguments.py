"""Arguments that the commands of dictionaries share: a model, its text, and memory to stream it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from grok.units import budget_bytes

if TYPE_CHECKING:
    import numpy as np

    from grok.runner.model import Model


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model, --corpus, --text and --memory-budget."""
    parser.add_argument("--model", type=Path, help="checkpoint; the bundled model by default")
    parser.add_argument("--corpus", type=Path, help="folder of the bundled model's own text")
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--memory-budget", type=float, metavar="GB", help="of a streamed model")


def text_arguments(args: argparse.Namespace) -> list[str]:
    """The same as a command line, for another command."""
    given = ["--model", str(args.model)] if args.model else []
    given += ["--corpus", str(args.corpus)] if args.corpus else []
    given += ["--text", *map(str, args.text)] if args.text else []
    budget = args.memory_budget
    return given + (["--memory-budget", str(budget)] if budget is not None else [])


def opened_model(args: argparse.Namespace, mesh: tuple[int, int] | None = (1, 1)) -> Model:
    """The model that is named, or the bundled one, in float32.

    Args:
        args: with those of `add_text_arguments`.
        mesh: devices to hold it, as `load` takes it.

    Raises:
        GrokError: it cannot be opened, or the budget is no number of gigabytes.
    """
    from grok.runner.loading import load

    budget = budget_bytes(args.memory_budget)
    return load(args.model, dtype="float32", mesh=mesh, memory_budget=budget)


def given_text(
    args: argparse.Namespace, model: Model, *, held_out: bool = False
) -> dict[str, np.ndarray]:
    """Token ids of each text that is named; see `streams`.

    Raises:
        GrokError: no text, or one that cannot be read.
    """
    from grok.dictionaries.training.texts import streams

    return streams(model, corpus=args.corpus, files=args.text, held_out=held_out)
