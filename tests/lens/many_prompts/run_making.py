"""Small runs in a store, written as a collection writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow
import pyarrow.parquet

from lens.many_prompts.prompt_lists import PromptList
from lens.many_prompts.run_record import Run
from lens.many_prompts.run_store import RunStore, Writing

OWNER = hashlib.sha256(b"one").hexdigest()
OTHER = hashlib.sha256(b"two").hexdigest()
N_EXPERTS = 8


def some_prompts(labels: Sequence[str] = ("a", "a", "b", "b")) -> PromptList:
    return PromptList(tuple(f"secret text {i}" for i in range(len(labels))), tuple(labels), "lines")


def begin(store: RunStore, labels: Sequence[str] = ("a", "a", "b", "b"), owner=OWNER) -> Writing:
    return store.create(
        owner, some_prompts(labels), model_name="Small", dtype="float32", n_experts=N_EXPERTS
    )


def write_events(
    writing: Writing,
    tokens: Sequence[np.ndarray],
    experts: Sequence[np.ndarray],
    gates: Sequence[np.ndarray] | None = None,
    *,
    parts: int = 2,
) -> None:
    """The files of a collection, for each prompt tokens [T] and experts [L, T, K]."""
    writing.events.mkdir()
    labels, sizes = writing.prompts.labels, [len(one) for one in tokens]
    number = np.arange(len(tokens), dtype=np.int32)
    _write(
        writing.events / "prompts.parquet",
        prompt=number,
        label=list(labels),
        text=list(writing.prompts.texts),
        n_tokens=np.array(sizes, np.int32),
    )
    flat = np.concatenate(tokens).astype(np.int32)
    _write(
        writing.events / "tokens.parquet",
        prompt=np.repeat(number, sizes),
        position=np.concatenate([np.arange(n, dtype=np.int32) for n in sizes]),
        token=flat,
        piece=[f"w{token}" for token in flat],
    )
    for part, own in enumerate(np.array_split(number, parts)):
        columns: dict[str, list[np.ndarray]] = {}
        for i in own:
            n_layers, n, k = experts[i].shape
            position, layer, slot = np.indices((n, n_layers, k)).reshape(3, -1)
            gate = np.full(position.size, 0.5) if gates is None else gates[i][layer, position, slot]
            for name, column in {
                "prompt": np.full(position.size, i, np.int32),
                "position": position.astype(np.int32),
                "token": tokens[i][position].astype(np.int32),
                "layer": layer.astype(np.int16),
                "slot": slot.astype(np.int8),
                "expert": experts[i][layer, position, slot].astype(np.int16),
                "gate": gate.astype(np.float32),
                "margin": np.full(position.size, i, np.float32),
            }.items():
                columns.setdefault(name, []).append(column)
        _write(
            writing.events / f"routing-{part:05d}.parquet",
            **{name: np.concatenate(found) for name, found in columns.items()},
        )


def random_routing(
    rng: np.random.Generator, lengths: Sequence[int], *, n_layers: int = 3, k: int = 2
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens of 20 ids and k different experts for each, all by chance."""
    tokens = [rng.integers(0, 20, n) for n in lengths]
    experts = [
        rng.permuted(np.tile(np.arange(N_EXPERTS), (n_layers, n, 1)), axis=-1)[..., :k]
        for n in lengths
    ]
    return tokens, experts


def finished(store: RunStore, tokens, experts, labels, gates=None, owner=OWNER) -> Run:
    writing = begin(store, labels, owner)
    write_events(writing, tokens, experts, gates)
    return writing.finish(model_sha256="0" * 64, n_tokens=sum(map(len, tokens)))


def _write(path, **columns) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, write_page_checksum=True)
