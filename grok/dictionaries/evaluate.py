"""`python -m grok.dictionaries.evaluate DIR`: measures a dictionary on held-out text.

Beside every figure stands what needs no dictionary, on the same tokens. Prints a table and writes
`evaluation.json` into the folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grok.errors import GrokError


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
    parser.add_argument("--model", type=Path, help="checkpoint; the bundled model by default")
    parser.add_argument("--corpus", type=Path, help="folder of the bundled model's own text")
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--beside", type=Path, metavar="DIR", help="the same with another seed")
    parser.add_argument("--tokens", type=int, default=200_000, help="held-out tokens, at most")
    parser.add_argument("--spliced-tokens", type=int, default=16_384, metavar="N")
    parser.add_argument("--memory-budget", type=float, metavar="GB", help="of a streamed model")
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    from grok.dictionaries.evaluation.measure import Plan, measured, stability
    from grok.dictionaries.kinds.files import load_dictionary
    from grok.dictionaries.training.texts import streams
    from grok.dictionaries.training.windows import cut
    from grok.files import write_whole
    from grok.runner.loading import load

    dictionary = load_dictionary(args.dictionary)
    budget = None if args.memory_budget is None else int(args.memory_budget * 1e9)
    model = load(args.model, dtype="float32", mesh=(1, 1), memory_budget=budget)
    context = int(dictionary.facts.get("settings", {}).get("text", {}).get("context", 128))
    fit, held_out = (
        cut(streams(model, corpus=args.corpus, files=args.text, held_out=held), context)
        for held in (False, True)
    )
    plan = Plan(held_out=args.tokens, spliced=args.spliced_tokens)
    # First, since it may be refused.
    beside = stability(dictionary, load_dictionary(args.beside)) if args.beside else None
    found = measured(model, dictionary, fit, held_out, plan) | {"stability": beside}
    print(table(found))
    try:
        write_whole(args.dictionary / "evaluation.json", json.dumps(found, indent=1).encode())
    except OSError as error:
        raise GrokError(f"{args.dictionary}: evaluation.json: {error.strerror}.") from error


COLUMNS = ("l0", "fvu", "ev", "cosine", "dead", "dense")


def table(found: Mapping[str, Any]) -> str:
    """The measures as lines: a site each, the controls' FVU beside the dictionary's."""
    own, controls = found["dictionary"], found["controls"]
    names = [*found["sites"], "all"]
    lines = [
        f"{found['held_out_tokens']:,} held-out tokens; controls' FVU at the same L0, fitted on "
        f"{found['fitted_tokens']:,} others",
        f"{'':24s}" + "".join(f"{name:>10s}" for name in (*COLUMNS, *controls)),
    ]
    for i, name in enumerate(names):
        # A crosscoder has one group for all sites.
        numbers = [own[c][min(i, len(own[c]) - 1)] for c in COLUMNS]
        numbers += [values[i] for values in controls.values()]
        lines.append(f"{name:24s}" + "".join(f"{number:10.4f}" for number in numbers))
    spliced = found["spliced"]
    for name in ("replaced", "zero", "mean"):
        if name in spliced:
            one = spliced[name]
            lines.append(
                f"{name:10s} loss {one['ce']:.4f} -> {one['ce_changed']:.4f} nats, KL "
                f"{one['kl']:.4f}, same next token {one['same_next']:.1%}"
                + (f", CE recovered {one['ce_recovered']:.1%}" if "ce_recovered" in one else "")
            )
    routes = spliced.get("routers") or spliced.get("replaced")
    if routes:
        shares = " ".join(f"{share:.1%}" for share in routes["same_set"])
        lines.append(f"same experts by layer: {shares}")
    if found.get("stability"):
        shares = " ".join(f"{share:.1%}" for share in found["stability"]["share"])
        lines.append(f"features that the other has too: {shares}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
