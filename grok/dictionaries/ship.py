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
    parser.add_argument("--model", type=Path, help="checkpoint; the bundled model by default")
    parser.add_argument("--corpus", type=Path, help="folder of the bundled model's own text")
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--card", action="store_true", help="write the card again, and no more")
    return parser


def _ship(args: argparse.Namespace, others: Sequence[str]) -> int:
    from grok.config import BUNDLED_DICTIONARIES
    from grok.dictionaries import evaluate
    from grok.dictionaries.evaluate import EVALUATION
    from grok.dictionaries.kinds.files import load_dictionary, save_dictionary
    from grok.dictionaries.shipping.card import write_card
    from grok.dictionaries.shipping.rounding import rounding
    from grok.dictionaries.training.texts import streams
    from grok.dictionaries.training.windows import cut
    from grok.files import write_whole
    from grok.runner.loading import load

    output = args.output or BUNDLED_DICTIONARIES
    if args.dictionary is not None and not args.card:
        before = load_dictionary(args.dictionary)
        folder = save_dictionary(output / before.design.kind, before, "float16")
        given = ["--model", str(args.model)] if args.model else []
        given += ["--corpus", str(args.corpus)] if args.corpus else []
        given += ["--text", *map(str, args.text)] if args.text else []
        code = evaluate.main([str(folder), *given, *others])
        if code:
            return code
        model = load(args.model, dtype="float32", mesh=(1, 1))
        texts = streams(model, corpus=args.corpus, files=args.text, held_out=True)
        context = int(before.facts.get("settings", {}).get("text", {}).get("context", 128))
        after = load_dictionary(folder)
        cost = rounding(model, before, after, cut(texts, context), ROUNDED_TOKENS)
        found = json.loads((folder / EVALUATION).read_text()) | {"rounding": cost}
        write_whole(folder / EVALUATION, json.dumps(found, indent=1, allow_nan=False).encode())
    elif not args.card:
        raise GrokError("DIR is missing; --card alone writes the card again.")
    print(write_card(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
