"""`python -m grok.dictionaries.exchange to|from FORMAT SOURCE --output DIR`.

`to` writes a dictionary of ours as another tool reads it, `from` reads another tool's as ours. What
a format cannot say is refused by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.dictionaries.exchange.binding import For
    from grok.dictionaries.kinds.dictionary import Dictionary


class Form(NamedTuple):
    """A format: how it is written and read."""

    write: Callable[[Path, Dictionary], list[Path]]
    read: Callable[[argparse.Namespace], Dictionary]


def forms() -> dict[str, Form]:
    """All formats by name."""
    from grok.dictionaries.exchange.circuit_tracer import (
        read_circuit_tracer,
        write_circuit_tracer,
    )
    from grok.dictionaries.exchange.saelens import read_saelens, write_saelens
    from grok.dictionaries.exchange.sparsify import read_sparsify, write_sparsify

    return {
        "saelens": Form(
            write_saelens,
            lambda a: read_saelens(a.source, reads=a.reads, writes=a.writes, scale=a.scale),
        ),
        "circuit-tracer": Form(
            write_circuit_tracer,
            lambda a: read_circuit_tracer(a.source, reads=a.reads, writes=a.writes),
        ),
        "sparsify": Form(
            write_sparsify, lambda a: read_sparsify(a.source, reads=a.reads, writes=a.writes)
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    known = forms()
    args = _parser(list(known)).parse_args(argv)
    try:
        if args.way == "to":
            from grok.dictionaries.kinds.files import load_dictionary

            for path in known[args.form].write(args.output, load_dictionary(args.source)):
                print(path)
        else:
            _imported(args, known[args.form])
    except GrokError as error:
        print(f"grok.dictionaries.exchange: {error}", file=sys.stderr)
        return 2
    return 0


def _parser(known: Sequence[str]) -> argparse.ArgumentParser:
    name = "python -m grok.dictionaries.exchange"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    ways = parser.add_subparsers(dest="way", required=True)
    out, back = ways.add_parser("to"), ways.add_parser("from")
    for way, what in ((out, "a dictionary of ours"), (back, "another tool's folder")):
        way.add_argument("form", choices=known)
        way.add_argument("source", type=Path, help=what)
        way.add_argument("--output", type=Path, required=True, metavar="DIR")
    back.add_argument("--model", type=Path, help="checkpoint that it is for; needed without a hash")
    back.add_argument("--reads", metavar="SITE", help="where the hook does not say it")
    back.add_argument("--writes", metavar="SITE", help="the same of what it writes")
    back.add_argument("--scale", type=float, help="that values were multiplied by, not yet folded")
    return parser


def _imported(args: argparse.Namespace, form: Form) -> None:
    from grok.dictionaries.exchange.binding import bound
    from grok.dictionaries.kinds.files import save_dictionary

    found = form.read(args)
    dictionary, told = bound(found, _named(args.model), args.source, args.form)
    print(save_dictionary(args.output, dictionary))
    print(told)


def _named(path: Path | None) -> For | None:
    """The model that the person names."""
    from grok.dictionaries.exchange.binding import For
    from grok.runner.loading import load

    if path is None:
        return None
    model = load(path, dtype="float32", mesh=(1, 1))
    config = model.config
    return For(model.name, model.sha256, config.d_model, config.n_layers, tuple(config.moe_layers))


if __name__ == "__main__":
    sys.exit(main())
