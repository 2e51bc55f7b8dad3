"""`python -m pages.expert_views`: runs labelled texts and keeps what each expert takes of them.

The Experts page reads the file where it lies beside the checkpoint. The bundled model's is made
by the command without arguments; the same machine gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from grok.config import BUNDLED_MODEL
from grok.errors import GrokError
from lens.errors import LensError
from lens.many_prompts.expert_cards import FILE, cards_of_run, save_cards
from lens.many_prompts.prompt_lists import PromptList, read_prompts
from lens.many_prompts.run_store import RunStore

TEXTS = "example_texts.jsonl"
STRETCHES = 16
TOKENS = 80
KINDS = {
    "english_prose": "English",
    "english_drama": "English",
    "french_prose": "French",
    "german_prose": "German",
    "spanish_prose": "Spanish",
    "python": "Python",
    "arithmetic": "sums",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 for input that it cannot use."""
    parser = argparse.ArgumentParser(prog="python -m pages.expert_views", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_MODEL, metavar="DIR")
    parser.add_argument(
        "--texts", type=Path, metavar="FILE", help=f"labelled prompts (default: DIR/{TEXTS})"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: DIR/{FILE}")
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="first draw the texts from what the bundled model was not trained on",
    )
    args = parser.parse_args(argv)
    texts, output = args.texts or args.checkpoint / TEXTS, args.output or args.checkpoint / FILE
    try:
        if args.corpus is not None:
            texts.write_text(held_out(args.checkpoint, args.corpus).jsonl() + "\n", "utf-8")
        run_and_keep(args.checkpoint, texts, output)
    except (GrokError, LensError, OSError) as error:
        print(f"pages.expert_views: {error}", file=sys.stderr)
        return 2
    return 0


def run_and_keep(checkpoint: Path, texts: Path, output: Path) -> None:
    """Run the texts of a file and write what each expert takes.

    Raises:
        GrokError, LensError, OSError: the model, the texts or the output cannot be used.
    """
    from grok.experiments.collecting import collect
    from grok.runner.loading import load

    prompts = read_prompts(texts.read_bytes(), where=texts.name)
    model = load(checkpoint, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        writing = RunStore(folder).create(
            hashlib.sha256(b"expert cards").hexdigest(),
            prompts,
            model_name=model.name,
            dtype=model.dtype,
            n_experts=model.config.n_experts,
        )
        done = collect(
            model,
            list(prompts.texts),
            writing.events,
            labels=prompts.labels,
            progress=writing.progress,
        )
        run = writing.finish(model_sha256=model.sha256, n_tokens=done.manifest["n_tokens"])
        cards = cards_of_run(run)
    save_cards(cards, output)
    told = int(cards.takes.any(axis=0).sum())
    print(
        f"{run.n_prompts} texts, {run.n_tokens:,} tokens: {told} of {cards.share[0].size} experts "
        f"take some kind of text more than others. {output}: {output.stat().st_size:,} bytes"
    )


def held_out(checkpoint: Path, corpus: Path) -> PromptList:
    """Stretches of about 80 tokens from all over the held-out end of each domain's text.

    Raises:
        GrokError: the corpus or the tokenizer cannot be read.
    """
    from grok.runner.loading import load
    from grok.training.corpus import load_domains

    model = load(checkpoint, dtype="float32")
    found = []
    for name, domain in load_domains(corpus, seed=0).items():
        text = domain.heldout_text
        length = TOKENS * 900 // len(model.encode(text[:900]))
        for i in range(STRETCHES):
            start = text.find("\n", i * len(text) // STRETCHES) + 1
            stretch = text[start : start + length]
            end = max(stretch.rfind(" "), stretch.rfind("\n"))
            found.append((KINDS[name], stretch[:end].strip("\n")))
    return PromptList(tuple(text for _, text in found), tuple(kind for kind, _ in found), "jsonl")


if __name__ == "__main__":
    sys.exit(main())
