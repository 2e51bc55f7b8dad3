"""Bytes and operations that a pass needs, and the seconds that they take at given rates.

Arithmetic alone, on these assumptions:

- a layer takes the longer of its reading and its computing, which overlap;
- computing takes the time of passing over the weights once plus that of the operations:
  they overlap in part (products measured between the longer of the two and their sum);
- what calls cost besides is not counted, which in small models is most of the time;
- experts are chosen uniformly, so n tokens touch E * (1 - (1 - K/E)^n) of E experts
  (K a token): 2, 3.5 and 4.6 of Grok-1's 8 for 1, 2 and 3 tokens, 7.2 for 8.

Units: bytes, seconds, and operations that count a multiplication and an addition as two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grok.config import ModelConfig
from grok.streaming.by_expert.memory import NEARLY_ALL

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture

ON_DEMAND_TOKENS = 3
"""With up to this many tokens only the chosen experts are read; see `streaming.host_layers`. Where
experts are read one by one, as long as they are not nearly all; see `streaming.by_expert`."""

DISK, ARITHMETIC, BANDWIDTH = "disk", "arithmetic", "memory bandwidth"
UNKNOWN = "not measured"


def distinct_experts(config: ModelConfig, n_tokens: int) -> float:
    """Expected number of experts of a layer that `n_tokens` touch, were routing uniform."""
    unused = 1 - config.top_k / config.n_experts
    return config.n_experts * (1 - unused**n_tokens)


def expert_bytes(architecture: Architecture) -> int:
    """Bytes of one expert's matrices, as released; scales are not counted."""
    specs = architecture.layer_specs(architecture.config.moe_layers[0])
    return sum(spec.n_bytes for spec in specs if spec.per_expert) // architecture.config.n_experts


def layer_bytes(architecture: Architecture) -> int:
    """Bytes of one decoder layer with experts, all of them."""
    return sum(spec.n_bytes for spec in architecture.layer_specs(architecture.config.moe_layers[0]))


def model_bytes(architecture: Architecture) -> int:
    """Bytes of all weights."""
    layers = (architecture.layer_specs(i) for i in range(architecture.config.n_layers))
    inner = sum(spec.n_bytes for specs in layers for spec in specs)
    return inner + outer_bytes(architecture)


def outer_bytes(architecture: Architecture) -> int:
    """Bytes of what stands outside the layers: embedding, final norm, head."""
    return sum(spec.n_bytes for spec in architecture.outer_specs())


def touched_layer_bytes(architecture: Architecture, n_tokens: int) -> int:
    """Bytes of a layer's weights that `n_tokens` pass through, experts as expected."""
    others = layer_bytes(architecture) - architecture.config.n_experts * expert_bytes(architecture)
    return others + round(
        distinct_experts(architecture.config, n_tokens) * expert_bytes(architecture)
    )


def read_layer_bytes(architecture: Architecture, n_tokens: int) -> int:
    """Bytes that a streamed pass of `n_tokens` reads of each layer."""
    config = architecture.config
    few = n_tokens <= ON_DEMAND_TOKENS
    if architecture.by_expert:
        few = distinct_experts(config, n_tokens) < NEARLY_ALL * config.n_experts
    if few:
        return touched_layer_bytes(architecture, n_tokens)
    return layer_bytes(architecture)


def layer_operations(architecture: Architecture, n_tokens: int, n_keys: int | None = None) -> float:
    """Operations of one layer for `n_tokens` that look at `n_keys` (by default themselves)."""
    n_keys = n_tokens if n_keys is None else n_keys
    weights = 0.0
    for spec in architecture.layer_specs(architecture.config.moe_layers[0]):
        used = architecture.config.top_k / architecture.config.n_experts if spec.per_expert else 1
        weights += used * spec.size
    scores = architecture.score_operations(n_keys)
    return float(n_tokens) * (2 * weights + scores)


def head_operations(architecture: Architecture, n_tokens: int) -> float:
    """Operations of the logits of `n_tokens`."""
    config = architecture.config
    return 2.0 * n_tokens * config.d_model * config.vocab_size


# --- times --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What one step of a pass does: bytes read from disk, bytes of weights passed over,
    operations; and how many such steps there are."""

    count: int
    n_read: float
    n_touched: float
    n_operations: float


@dataclass(frozen=True)
class Speeds:
    """Bytes read from disk, bytes of weights and operations a second; None: not measured."""

    read: float | None
    weights: float | None
    operations: float | None


def pass_work(
    architecture: Architecture,
    n_tokens: int,
    *,
    read_layers: int,
    layer_reads: int,
    outer_read: bool,
) -> list[Work]:
    """The steps of one pass of `n_tokens`.

    Args:
        read_layers: layers that are read from disk; the others are in memory.
        layer_reads: bytes that each of them reads.
        outer_read: whether the embedding is read too.
    """
    touched = touched_layer_bytes(architecture, n_tokens)
    operations = layer_operations(architecture, n_tokens)
    outer = outer_bytes(architecture)
    return [
        Work(read_layers, layer_reads, touched, operations),
        Work(architecture.config.n_layers - read_layers, 0, touched, operations),
        Work(1, outer if outer_read else 0, outer, head_operations(architecture, n_tokens)),
    ]


def expert_pass_work(
    architecture: Architecture, n_tokens: int, held: float = 0.0, held_fixed: float = 0.0
) -> list[Work]:
    """The steps of a pass of `n_tokens` whose experts are read one by one.

    Args:
        held, held_fixed: shares of the bytes of experts, and of what layers have beside them, that
            are in memory from before.
    """
    config = architecture.config
    every = config.n_experts * expert_bytes(architecture)
    reads = read_layer_bytes(architecture, n_tokens)
    fixed = layer_bytes(architecture) - every
    reads -= round(held * (reads - fixed) + held_fixed * fixed)
    moe = set(config.moe_layers)
    scores = architecture.score_operations(n_tokens)
    steps = [
        Work(
            len(moe),
            reads,
            touched_layer_bytes(architecture, n_tokens),
            layer_operations(architecture, n_tokens),
        )
    ]
    for layer in sorted(set(range(config.n_layers)) - moe):
        specs = architecture.layer_specs(layer)
        own = sum(spec.n_bytes for spec in specs)
        operations = n_tokens * (2.0 * sum(spec.size for spec in specs) + scores)
        steps.append(Work(1, own - round(held_fixed * own), own, operations))
    embedding, *outer = architecture.outer_specs()
    table = next((s for s in outer if s.leaf == architecture.head_leaf), embedding).n_bytes
    rows = n_tokens * embedding.n_bytes // config.vocab_size
    return [*steps, Work(1, table + rows, table, head_operations(architecture, n_tokens))]


def bytes_read(work: Sequence[Work]) -> int:
    """From disk, in a whole pass."""
    return round(sum(step.count * step.n_read for step in work))


def bytes_touched(work: Sequence[Work]) -> int:
    """Of weights, passed over in a whole pass."""
    return round(sum(step.count * step.n_touched for step in work))


def pass_seconds(work: Sequence[Work], speeds: Speeds) -> tuple[float | None, str]:
    """Seconds of a pass and what takes most of them; None where a rate it needs is unknown."""
    total, by_limit = 0.0, {DISK: 0.0, ARITHMETIC: 0.0, BANDWIDTH: 0.0}
    for step in work:
        spent = {}
        for name, amount, rate in (
            (DISK, step.n_read, speeds.read),
            (ARITHMETIC, step.n_operations, speeds.operations),
            (BANDWIDTH, step.n_touched, speeds.weights),
        ):
            if amount and rate is None:
                return None, UNKNOWN
            spent[name] = step.count * amount / rate if rate else 0.0
        computing = spent[ARITHMETIC] + spent[BANDWIDTH]
        if spent[DISK] >= computing:
            by_limit[DISK] += spent[DISK]
        else:
            by_limit[ARITHMETIC] += spent[ARITHMETIC]
            by_limit[BANDWIDTH] += spent[BANDWIDTH]
        total += max(spent[DISK], computing)
    return total, max(by_limit, key=lambda name: by_limit[name])
