"""`python -m grok.dictionaries.ship DIR --corpus TEXTS` puts a dictionary beside the bundled model.

It is stored in float16, measured as stored, and told on the card of all that stand there, which is
written from their evaluations alone. What follows goes to `grok.dictionaries.evaluate`, such as
`--beside` and `--control`. `--card` alone writes the card again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grok.dictionaries.training.arguments import (
    add_text_arguments,
    given_text,
    opened_model,
    text_arguments,
)
from grok.errors import GrokError

ROUNDED_TOKENS = 8192


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args, others = _parser().parse_known_args(argv)
    try:
        return _ship(args, others)
    except GrokError as error:
        print(f"grok.dictionaries.ship: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grok.dictionaries.ship", description=__doc__)
    parser.add_argument("dictionary", type=Path, nargs="?", metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="beside the bundled model")
    add_text_arguments(parser)
    parser.add_argument("--card", action="store_true", help="write the card again, and no more")
    return parser


def _ship(args: argparse.Namespace, others: Sequence[str]) -> int:
    from grok.config import BUNDLED_DICTIONARIES
    from grok.dictionaries import evaluate
    from grok.dictionaries.evaluate import EVALUATION, write_evaluation
    from grok.dictionaries.kinds.files import load_dictionary, save_dictionary
    from grok.dictionaries.shipping.card import write_card
    from grok.dictionaries.shipping.rounding import rounding
    from grok.dictionaries.training.windows import cut

    output = args.output or BUNDLED_DICTIONARIES
    if args.dictionary is not None and not args.card:
        before = load_dictionary(args.dictionary)
        folder = save_dictionary(output / before.design.kind, before, "float16")
        code = evaluate.main([str(folder), *text_arguments(args), *others])
        if code:
            return code
        model, after = opened_model(args), load_dictionary(folder)
        texts = cut(given_text(args, model, held_out=True), before.context)
        cost = rounding(model, before, after, texts, ROUNDED_TOKENS)
        found = json.loads((folder / EVALUATION).read_text()) | {"rounding": cost}
        write_evaluation(folder, found)
    elif not args.card:
        raise GrokError("DIR is missing; --card alone writes the card again.")
    print(write_card(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
