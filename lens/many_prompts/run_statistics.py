"""Statistics of a run of many prompts: its routing by prompt, and differences between labels.

Axes: prompt (N), layer (L), expert (E), token (T, of all prompts one after the other),
choice (K).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lens.errors import LensError
from lens.many_prompts.label_tests import DRAWS, LabelTest, check_labels, label_test
from lens.many_prompts.run_events import ask, layer_numbers
from lens.many_prompts.run_record import Run
from lens.many_prompts.trace_folder import MAX_CHOICES, TraceFolder
from lens.stats.permutation_tests import SEED


def run_traces(run: Run, *, skip: int = 0) -> TraceFolder:
    """The run as a folder of traces, for `lens.many_prompts.label_tests`; each prompt is a trace.

    Router logits are not kept by a run: `moments` is empty and `entropies` are not a number.

    Args:
        skip: leave out so many first tokens of each prompt, which behave unlike the others.
            Prompts that have no more tokens are left out too.

    Raises:
        LensError: the files are not whole, too large to compare, or nothing is left.
    """
    prompts = ask(run, "SELECT prompt, label, n_tokens FROM read_parquet($prompts) ORDER BY prompt")
    lengths = prompts["n_tokens"].astype(int)
    layer_ids = layer_numbers(run)
    slots = ask(run, "SELECT max(slot) + 1 AS k FROM read_parquet($routing)")
    n_layers, k = len(layer_ids), int(slots["k"][0])
    if n_layers * k * lengths.sum() > MAX_CHOICES:
        raise LensError(
            f"The run holds more than {MAX_CHOICES:,} (layer, token, choice) numbers, too many to "
            "compare at once. Run fewer prompts."
        )
    first = np.concatenate([[0], np.cumsum(lengths)])
    experts = np.full((n_layers, first[-1], k), -1, np.int32)
    tokens = np.full(first[-1], -1, np.int32)
    margins = np.full((n_layers, first[-1]), np.nan, np.float32)
    for file in run.routing_files:
        _scatter(run, file, first, layer_ids, tokens, experts, margins)
    if (experts < 0).any() or (experts >= run.n_experts).any():
        raise LensError(
            "The routing of this run is not whole. If it goes on, wait; else delete it and start "
            "it again."
        )
    trace_of = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(first[-1]) - first[trace_of]
    left = position >= skip
    kept = np.flatnonzero(lengths > skip)
    if not kept.size:
        raise LensError(
            f"No prompt has more than {skip} tokens, so none is left without the first {skip}. "
            "Leave out fewer."
        )
    trace_of = np.searchsorted(kept, trace_of[left])
    experts, margins = experts[:, left].astype(np.uint16), margins[:, left]
    labels = [str(label) for label in prompts["label"][kept]]
    names = tuple(sorted(set(labels)))
    label_of = np.array([names.index(label) for label in labels])
    counts = np.zeros((len(kept), n_layers, run.n_experts), np.int64)
    for layer in range(n_layers):
        cells = trace_of[:, None] * run.n_experts + experts[layer].astype(np.int64)
        received = np.bincount(cells.ravel(), minlength=len(kept) * run.n_experts)
        counts[:, layer] = received.reshape(len(kept), run.n_experts)
    sizes = np.bincount(trace_of, minlength=len(kept))
    return TraceFolder(
        names=tuple(f"prompt {prompts['prompt'][i]}" for i in kept),
        labels=names,
        label_of=label_of,
        tokens=tokens[left],
        trace_of=trace_of,
        experts=experts,
        n_experts=run.n_experts,
        counts=counts,
        margins=np.stack(
            [np.bincount(trace_of, row, minlength=len(kept)) / sizes for row in margins], axis=1
        ),
        entropies=np.full((len(kept), n_layers), np.nan),
        model_sha256=run.model_sha256,
        layer_ids=layer_ids,
    )


def _scatter(
    run: Run,
    file: Path,
    first: np.ndarray,
    layer_ids: np.ndarray,
    tokens: np.ndarray,
    experts: np.ndarray,
    margins: np.ndarray,
) -> None:
    """Put one file's events in their places."""
    found = ask(
        run,
        "SELECT prompt, position, token, layer, slot, expert, margin FROM read_parquet($routing)",
        routing=[str(file)],
    )
    try:
        row = first[found["prompt"]] + found["position"]
        tokens[row] = found["token"]
        layer = np.searchsorted(layer_ids, found["layer"])
        experts[layer, row, found["slot"]] = found["expert"]
        margins[layer, row] = found["margin"]
    except (IndexError, ValueError) as error:
        raise LensError(
            f"The routing in {file.name} is of other prompts than this run's. Delete the run and "
            "start it again."
        ) from error


def run_label_test(folder: TraceFolder, *, draws: int = DRAWS, seed: int = SEED) -> LabelTest:
    """`lens.many_prompts.label_tests.label_test` of a run: labels permuted over its prompts.

    Raises:
        LensError: fewer than two labels, or a label with fewer than two prompts.
    """
    check_labels(folder, "prompts", "Label the prompts, or add some.")
    tested = label_test(folder, draws=draws, seed=seed)
    method = tested.test.method.replace("traces", "prompts")
    return replace(
        tested,
        test=replace(tested.test, method=method),
        note=tested.note.replace("traces", "prompts"),
    )
