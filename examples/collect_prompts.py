"""Which experts do many prompts use, by label? Collected to disk and queried there.

    python -m examples.collect_prompts [--checkpoint DIR]

Runs short labelled prompts, keeps every routing event as Parquet, and asks DuckDB how the load
of each label differs, beside labels shuffled over the prompts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import duckdb
import numpy as np

import grok
from grok.experiments.collecting import collect

PROMPTS = {
    "prose": [
        "It was a bright morning in May, and the whole village had come down to the harbour.",
        "She closed the letter and looked out of the window for a long time.",
        "The old man said nothing, but he smiled and went back to his garden.",
        "They walked along the river until the lamps were lit in the town.",
    ],
    "python": [
        "def mean(values):\n    return sum(values) / len(values)\n",
        "for name in names:\n    print(name, len(name))\n",
        "class Point:\n    def __init__(self, x, y):\n        self.x = x\n",
        "with open(path) as file:\n    lines = file.readlines()\n",
    ],
}
DRAWS = 999


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="default: the bundled model")
    args = parser.parse_args()

    model = grok.load(args.checkpoint)
    labels = [label for label, texts in PROMPTS.items() for _ in texts]
    prompts: list = [text for texts in PROMPTS.values() for text in texts]
    if model.tokenizer is None:
        rng = np.random.default_rng(0)
        prompts = [rng.integers(3, 250, 12).tolist() for _ in labels]
    with tempfile.TemporaryDirectory() as folder:
        done = collect(model, prompts, Path(folder) / "run", labels=labels)
        rows = duckdb.execute(
            "select prompt, layer, expert, count(*) as n "
            f"from read_parquet('{done.folder}/routing-*.parquet') group by all"
        ).fetchnumpy()
    shape = (len(prompts), model.config.n_layers, model.config.n_experts)
    counts = np.zeros(shape)
    counts[rows["prompt"], rows["layer"], rows["expert"]] = rows["n"]
    share = counts / counts.sum(axis=2, keepdims=True)

    def apart(first: np.ndarray) -> float:
        gap = share[first].mean(axis=0) - share[~first].mean(axis=0)
        return float(np.abs(gap).sum(axis=1).mean() / 2)

    first = np.array([label == labels[0] for label in labels])
    rng = np.random.default_rng(0)
    drawn = np.array([apart(rng.permutation(first)) for _ in range(DRAWS)])
    value = apart(first)
    p = (1 + np.count_nonzero(drawn >= value - 1e-12)) / (1 + DRAWS)
    names = " and ".join(PROMPTS)
    print(f"{done.manifest['n_tokens']} tokens of {len(prompts)} prompts, {model.name}")
    print(
        f"Loads of {names} differ by {value:.3f} of a layer's assignments on average; labels "
        f"shuffled over prompts {drawn.mean():.3f} (95 % below {np.quantile(drawn, 0.95):.3f}), "
        f"p = {p:.3f}."
    )


if __name__ == "__main__":
    main()
