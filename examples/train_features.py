"""A small dictionary of what one layer's router reads: trained, kept, and measured beside controls.

    python -m examples.train_features [--checkpoint DIR] [--layer N] [--output DIR]

Learns features from a few thousand tokens, many times over, and measures on other texts what they
leave of the stream's variance, beside as many principal axes and the mean for each token. So little
text makes a poor dictionary; `python -m grok.dictionaries.train` is for real ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import grok
from grok.dictionaries.evaluation.measure import Plan, measured
from grok.dictionaries.training.run import Run, train
from grok.dictionaries.training.settings import settings_of
from grok.dictionaries.training.windows import cut

TEXTS = grok.BUNDLED_MODEL / "example_texts.jsonl"
CONTEXT = 64


def texts(model: grok.Model) -> list[np.ndarray]:
    """Token ids of some texts; random ones of a model without a tokenizer."""
    if model.tokenizer is None:
        rng = np.random.default_rng(0)
        return [rng.integers(3, 250, CONTEXT) for _ in range(80)]
    prompts = [json.loads(line)["prompt"] for line in TEXTS.read_text("utf-8").splitlines()]
    return [np.asarray(model.tokenizer.encode(text), np.int32) for text in prompts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    parser.add_argument("--layer", type=int, default=5)
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: it is not kept")
    args = parser.parse_args()

    model = grok.load(args.checkpoint, dtype="float32", mesh=(1, 1))
    found = texts(model)
    kept_back = [found.pop(i) for i in reversed(range(0, len(found), 4))]
    learned = cut({"texts": np.concatenate(found)}, CONTEXT)
    other = cut({"texts": np.concatenate(kept_back)}, CONTEXT)
    settings = settings_of(
        {
            "dictionary": {
                "kind": "sae", "reads": ["resid_mid"], "writes": ["resid_mid"],
                "layers": [args.layer], "features": 256,
            },
            "activation": {"function": "batch_topk", "k": 16},
            "text": {"context": CONTEXT},
            "training": {"tokens": 40_000, "batch": 512, "learning_rate": 4e-3, "log_every": 100},
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = Run(settings, model, learned, args.output or Path(folder) / "dictionary")
        dictionary = train(run)
    plan = Plan(curve=0, spliced=0, labelled=0)
    measures = measured(model, dictionary, learned, other, plan)
    own, controls = measures["dictionary"], measures["controls"]
    print(
        f"{dictionary.design.n_parameters:,} parameters; of what layer {args.layer}'s router reads "
        f"in {measures['held_out_tokens']:,} other tokens {own['l0'][-1]:.1f} active features of "
        f"{dictionary.design.features} leave "
        f"{own['fvu'][-1]:.0%} of the variance; as many principal axes "
        f"{controls['pca_best'][-1]:.0%}, the mean for each token {controls['token_mean'][-1]:.0%}."
    )
    if args.output is not None:
        print(f"python -m examples.explain_a_route --layer {args.layer} --dictionary {args.output}")


if __name__ == "__main__":
    main()
