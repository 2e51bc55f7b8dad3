"""`python -m grok.dictionaries.evaluate DIR`: measures a dictionary on held-out text.

Beside every figure stands what needs no dictionary, on the same tokens and at the same number of
active features. Prints tables and writes `evaluation.json` into the folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grok.dictionaries.training.arguments import add_text_arguments, given_text, opened_model
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.dictionaries.evaluation.measure import Control

EVALUATION = "evaluation.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        _evaluate(args)
    except GrokError as error:
        print(f"grok.dictionaries.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    name = "python -m grok.dictionaries.evaluate"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument("dictionary", type=Path, metavar="DIR")
    add_text_arguments(parser)
    parser.add_argument("--beside", type=Path, metavar="DIR", help="the same with another seed")
    parser.add_argument(
        "--control", action="append", default=[], metavar="NAME=DIR",
        help="a dictionary of the same design to stand beside, such as one with random directions",
    )  # fmt: skip
    parser.add_argument(
        "--control-model", action="append", default=[], metavar="NAME=CHECKPOINT",
        help="the model that this control was trained on, where it is another one",
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, help="held-out tokens that are reconstructed")
    parser.add_argument("--fitted-tokens", type=int, metavar="N", help="controls are fitted on")
    parser.add_argument("--curve-tokens", type=int, metavar="N", help="at several levels")
    parser.add_argument("--spliced-tokens", type=int, metavar="N", help="through changed models")
    parser.add_argument("--labelled-tokens", type=int, metavar="N", help="of the probes")
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    from grok.dictionaries.evaluation.measure import Plan, measured, stability
    from grok.dictionaries.evaluation.tables import tables
    from grok.dictionaries.kinds.files import load_dictionary
    from grok.dictionaries.training.windows import cut

    dictionary = load_dictionary(args.dictionary)
    # First, since they may be refused.
    beside = stability(dictionary, load_dictionary(args.beside)) if args.beside else None
    controls = _controls(args)
    model = opened_model(args)
    fit, held_out = (
        cut(given_text(args, model, held_out=held), dictionary.context) for held in (False, True)
    )
    given = {
        "held_out": args.tokens,
        "fitted": args.fitted_tokens,
        "curve": args.curve_tokens,
        "spliced": args.spliced_tokens,
        "spliced_curve": args.spliced_tokens and max(1, args.spliced_tokens // 2),
        "labelled": args.labelled_tokens,
    }
    plan = Plan()._replace(**{name: n for name, n in given.items() if n is not None})
    found = measured(model, dictionary, fit, held_out, plan, controls) | {"stability": beside}
    print(tables(found))
    write_evaluation(args.dictionary, found)


def write_evaluation(folder: Path, found: Mapping[str, Any]) -> None:
    """Writes what was measured of a dictionary into its folder, whole and without blanks.

    Raises:
        GrokError: it cannot be written.
    """
    from grok.files import write_whole

    try:
        content = json.dumps(found, separators=(",", ":"), allow_nan=False).encode()
        write_whole(folder / EVALUATION, content)
    except OSError as error:
        raise GrokError(f"{folder}: {EVALUATION}: {error.strerror}.") from error


def _controls(args: argparse.Namespace) -> dict[str, Control]:
    """The control dictionaries that were named, with the models of those that have another one."""
    from grok.dictionaries.evaluation.measure import Control
    from grok.dictionaries.kinds.files import load_dictionary
    from grok.runner.loading import load

    models = _named(args.control_model, "--control-model")
    folders = _named(args.control, "--control")
    for name in models:
        if name not in folders:
            raise GrokError(f"--control-model {name}: there is no --control {name}=DIR.")
    return {
        name: Control(
            load_dictionary(folder),
            load(models[name], dtype="float32", mesh=(1, 1)) if name in models else None,
        )
        for name, folder in folders.items()
    }


def _named(given: Sequence[str], option: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name.isidentifier() and equals and path) or name in found:
            raise GrokError(f"{option} {one!r:.80}: expected NAME=FOLDER, each name once.")
        found[name] = Path(path)
    return found


if __name__ == "__main__":
    sys.exit(main())
