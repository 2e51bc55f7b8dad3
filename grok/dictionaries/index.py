"""`python -m grok.dictionaries.index DICT --output DIR`: a database of a dictionary's features.

Reads held-out text and some of the rest once, in bounded memory, and writes what every feature
does as Parquet files, which `lens.features` reads. The pass keeps its state in `DIR.run` and goes
on from there with --resume. With --shard I/N it reads a part of the text alone, so several
processes can share it; --merge N then puts their sums together.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grok.dictionaries.training.arguments import add_text_arguments, given_text, opened_model
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.dictionaries.indexing.run import Indexing

QUIET = 2.0  # seconds between two lines on the screen


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        _index(args)
    except GrokError as error:
        print(f"grok.dictionaries.index: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    name = "python -m grok.dictionaries.index"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument("dictionary", type=Path, metavar="DICT")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    add_text_arguments(parser)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE",
                        help="of grok.dictionaries.indexing.plan.Plan")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with a pass")
    parser.add_argument("--shard", metavar="I/N", help="read every N-th part from part I on")
    parser.add_argument("--merge", type=int, metavar="N", help="finish from N shards")
    parser.add_argument("--keep", action="store_true", help="keep DIR.run when finished")
    return parser


def plan_values(given: Sequence[str]) -> dict[str, Any]:
    """Settings of a plan, from texts such as "tokens=500000".

    Raises:
        GrokError: no such setting, or a value of another type.
    """
    from grok.dictionaries.indexing.plan import Plan

    known = {field.name: str(field.type) for field in fields(Plan)}
    found: dict[str, Any] = {}
    for one in given:
        name, _, value = one.partition("=")
        if name not in known:
            raise GrokError(f"--set {one!r:.60}: no such setting; known are {', '.join(known)}.")
        if known[name] == "str":
            found[name] = value
        elif known[name] == "bool" and value in ("true", "false"):
            found[name] = value == "true"
        elif known[name] == "int" and re.fullmatch(r"\d{1,12}", value.replace("_", "")):
            found[name] = int(value.replace("_", ""))
        else:
            raise GrokError(f"--set {one!r:.60}: expected a value of type {known[name]}.")
    return found


def _index(args: argparse.Namespace) -> None:
    from grok.dictionaries.indexing.plan import Plan, text_of
    from grok.dictionaries.indexing.run import Indexing, check_begin
    from grok.dictionaries.kinds.files import load_dictionary, tensors_sha256

    dictionary = load_dictionary(args.dictionary)
    sha256 = tensors_sha256(args.dictionary)
    plan = Plan(**{"context": dictionary.context} | plan_values(args.set))
    model = opened_model(args)
    held_out, others = (given_text(args, model, held_out=held) for held in (True, False))
    text = text_of(held_out, others, plan)
    run = Indexing(model, dictionary, sha256, text, plan, args.output, Screen())
    check_begin(run, args.resume or args.shard is not None or args.merge is not None)
    if args.shard is not None:
        shard, shards = _shard(args.shard)
        run.read_shard(shard, shards)
        print(f"{run.work}: shard {shard} of {shards} is read; --merge {shards} when all are")
        return
    run.finish(run.merged(args.merge) if args.merge is not None else run.read_shard())
    if not args.keep:
        shutil.rmtree(run.work, ignore_errors=True)
    print(_said(run))


def _said(run: Indexing) -> str:
    size = sum(file.stat().st_size for file in run.output.glob("*.parquet"))
    return f"{run.output}: {int(run.text.lengths.sum()):,} tokens, {size / 1e6:.1f} MB"


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise GrokError(f"--shard {text!r:.20}: expected I/N with I from 0 to N - 1.")
    return int(match[1]), int(match[2])


class Screen:
    """Prints how far a pass is, at most every two seconds, with the time that is left."""

    def __init__(self) -> None:
        self._stage, self._began, self._first, self._last = "", 0.0, 0, 0.0

    def __call__(self, stage: str, done: int, of: int) -> None:
        now = time.perf_counter()
        if stage != self._stage:
            self._stage, self._began, self._first, self._last = stage, now, done, 0.0
        elif done < of and now - self._last < QUIET:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = f"  {(of - done) / rate / 60:.1f} min left" if rate > 0 and done < of else ""
        print(f"{stage:10s} {done:,} of {of:,}{left}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
