"""Memory and time that each way of running a model takes on a machine, from its measured rates.

Arithmetic alone: nothing is read, allocated or timed here. Times are estimates;
they rest on the rates of `grok.machine` and on these assumptions:

- a layer takes the longer of its reading and its computing, which overlap;
- computing takes the longer of passing over the weights once and of the operations;
  what calls cost besides is not counted, which in small models is most of the time;
- experts are chosen uniformly, so n tokens touch E * (1 - (1 - K/E)^n) of E experts
  (K a token): 2, 3.5 and 4.6 of Grok-1's 8 for 1, 2 and 3 tokens, 7.2 for 8.

Units: bytes, seconds, and operations that count a multiplication and an addition as two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from grok.checkpoint import EMBEDDING, expected_shape, is_matrix, layer_path, tensor_paths
from grok.config import GrokConfig
from grok.errors import DeviceError, GrokError
from grok.machine import Rates
from grok.sharding import memory_needed
from grok.streaming.memory import (
    BLOCK,
    DEFAULT_BUDGET,
    PROCESS,
    sizes,
    smallest_budget,
    usual_tokens,
)

ON_DEMAND_TOKENS = 3
"""With up to this many tokens only the chosen experts are read; see `grok.streaming.layers`."""

DISK, ARITHMETIC, BANDWIDTH = "disk", "arithmetic", "memory bandwidth"
UNKNOWN = "not measured"


@dataclass(frozen=True)
class ModePlan:
    """What one way of running a model takes.

    Attributes:
        mode: "resident" or "streamed".
        fits: whether it works here, within the budget.
        memory_bytes: peak memory, of the devices when resident on them.
        smallest_bytes: the least memory with which it works at all.
        read_bytes_per_pass: from disk, for one pass over a prompt.
        seconds_per_pass: None where a rate that it rests on was not measured.
        read_bytes_per_token: from disk, for each generated token.
        seconds_per_token: as `seconds_per_pass`.
        binds: what limits a pass: "disk", "arithmetic", "memory bandwidth" or "not measured".
        token_binds: what limits a generated token.
        why: one sentence on memory and on what binds.
    """

    mode: str
    fits: bool
    memory_bytes: int
    smallest_bytes: int
    read_bytes_per_pass: int
    seconds_per_pass: float | None
    read_bytes_per_token: int
    seconds_per_token: float | None
    binds: str
    token_binds: str
    why: str


@dataclass(frozen=True)
class Decision:
    """Which mode was chosen, why (for a reader), and all that was weighed."""

    mode: str
    why: str
    plans: list[ModePlan]

    @property
    def chosen(self) -> ModePlan:
        """The plan of the chosen mode."""
        return next(plan for plan in self.plans if plan.mode == self.mode)


# --- sizes --------------------------------------------------------------------------------


def distinct_experts(config: GrokConfig, n_tokens: int) -> float:
    """Expected number of experts of a layer that `n_tokens` touch, were routing uniform."""
    unused = 1 - config.top_k / config.n_experts
    return config.n_experts * (1 - unused**n_tokens)


def weight_bytes(config: GrokConfig, path: str) -> int:
    """Bytes of a parameter as released: matrices int8, others float32; scales not counted."""
    count = 1
    for size in expected_shape(config, path):
        count *= size
    return count * (1 if is_matrix(path) else 4)


def expert_bytes(config: GrokConfig) -> int:
    """Bytes of one expert's three matrices."""
    return 3 * config.d_model * config.d_ff


def layer_bytes(config: GrokConfig) -> int:
    """Bytes of one decoder layer, all experts."""
    prefix = layer_path(0, "")
    paths = [path for path in tensor_paths(1) if path.startswith(prefix)]
    return sum(weight_bytes(config, path) for path in paths)


def model_bytes(config: GrokConfig) -> int:
    """Bytes of all weights."""
    return config.n_layers * layer_bytes(config) + _ends_bytes(config)


def _ends_bytes(config: GrokConfig) -> int:
    return weight_bytes(config, EMBEDDING) + 4 * config.d_model


def touched_layer_bytes(config: GrokConfig, n_tokens: int) -> int:
    """Bytes of a layer's weights that `n_tokens` pass through, experts as expected."""
    others = layer_bytes(config) - config.n_experts * expert_bytes(config)
    return others + round(distinct_experts(config, n_tokens) * expert_bytes(config))


def read_layer_bytes(config: GrokConfig, n_tokens: int) -> int:
    """Bytes that a streamed pass of `n_tokens` reads of each layer."""
    if n_tokens <= ON_DEMAND_TOKENS:
        return touched_layer_bytes(config, n_tokens)
    return layer_bytes(config)


def layer_operations(config: GrokConfig, n_tokens: int, n_keys: int | None = None) -> float:
    """Operations of one layer for `n_tokens` that look at `n_keys` (by default themselves)."""
    n_keys = n_tokens if n_keys is None else n_keys
    others = layer_bytes(config) - config.n_experts * expert_bytes(config)
    weights = others + config.top_k * expert_bytes(config)
    scores = 4 * n_keys * config.n_heads * config.d_head
    return float(n_tokens) * (2 * weights + scores)


def head_operations(config: GrokConfig, n_tokens: int) -> float:
    """Operations of the logits of `n_tokens`."""
    return 2.0 * n_tokens * config.d_model * config.vocab_size


# --- times --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Speeds:
    """Rates that one mode works at; None where not measured, `read` None: nothing is read."""

    read: float | None
    weights: float | None
    operations: float | None
    from_disk: bool


def _seconds(config: GrokConfig, n_tokens: int, speeds: _Speeds) -> tuple[float | None, str]:
    """Seconds of one pass of `n_tokens`, and what takes most of them."""
    rates = (speeds.read if speeds.from_disk else 1.0, speeds.weights, speeds.operations)
    if None in rates:
        return None, UNKNOWN
    read_rate, weight_rate, operation_rate = (float(rate or 0) for rate in rates)
    parts = [
        (
            config.n_layers,
            read_layer_bytes(config, n_tokens),
            touched_layer_bytes(config, n_tokens),
            layer_operations(config, n_tokens),
        ),
        (1, _ends_bytes(config), _ends_bytes(config), head_operations(config, n_tokens)),
    ]
    total, by_limit = 0.0, {DISK: 0.0, ARITHMETIC: 0.0, BANDWIDTH: 0.0}
    for count, n_read, n_touched, n_operations in parts:
        limits = {
            DISK: n_read / read_rate if speeds.from_disk else 0.0,
            ARITHMETIC: n_operations / operation_rate,
            BANDWIDTH: n_touched / weight_rate,
        }
        slowest = max(limits, key=lambda name: limits[name])
        total += count * limits[slowest]
        by_limit[slowest] += count * limits[slowest]
    return total, max(by_limit, key=lambda name: by_limit[name])


def plan(
    config: GrokConfig,
    rates: Rates,
    *,
    n_tokens: int = 64,
    memory_budget: int = DEFAULT_BUDGET,
) -> list[ModePlan]:
    """What each mode takes for a prompt of `n_tokens`, and for each token generated after it.

    Args:
        config: the model.
        rates: of the machine.
        n_tokens: of the prompt, or of all prompts that share one pass.
        memory_budget: bytes that the program may take when it streams.

    Raises:
        GrokError: a number of tokens or a budget that is not positive.
    """
    if n_tokens < 1:
        raise GrokError(f"The number of tokens is {n_tokens}; expected 1 or more.")
    if memory_budget < 1:
        raise GrokError(f"The memory budget is {memory_budget} bytes; expected a positive number.")
    return [
        _resident(config, rates, n_tokens),
        _streamed(config, rates, n_tokens, memory_budget),
    ]


def _resident(config: GrokConfig, rates: Rates, n_tokens: int) -> ModePlan:
    needed, there = memory_needed(config), rates.device_bytes
    seconds, binds = _seconds(config, n_tokens, _resident_speeds(config, rates, n_tokens))
    token, token_binds = _seconds(config, 1, _resident_speeds(config, rates, 1))
    where = "is free" if rates.on_cpu else "is on the devices"
    verdict = "fits" if needed <= there else "does not fit"
    return ModePlan(
        mode="resident",
        fits=needed <= there,
        memory_bytes=needed,
        smallest_bytes=needed,
        read_bytes_per_pass=0,
        seconds_per_pass=seconds,
        read_bytes_per_token=0,
        seconds_per_token=token,
        binds=binds,
        token_binds=token_binds,
        why=f"All weights at once take {size(needed)} and {size(there)} {where}: it {verdict}.",
    )


def _resident_speeds(config: GrokConfig, rates: Rates, n_tokens: int) -> _Speeds:
    """Of all devices that have work: an expert lies whole on one, so few tokens use few."""
    columns = math.gcd(rates.n_devices, config.n_experts)
    busy = min(columns, distinct_experts(config, n_tokens))
    weights, operations = rates.resident_bytes_per_s, rates.resident_flops
    return _Speeds(
        None,
        None if weights is None else weights * busy,
        None if operations is None else operations * busy * (rates.n_devices // columns),
        from_disk=False,
    )


def _streamed(config: GrokConfig, rates: Rates, n_tokens: int, budget: int) -> ModePlan:
    tokens = max(n_tokens, usual_tokens(config))  # what opening a model allows for
    smallest = smallest_budget(config, tokens)
    memory = streamed_bytes(config, max(budget, smallest), n_tokens)
    fits = smallest <= budget and memory <= rates.memory_bytes
    speeds = _Speeds(
        rates.read_bytes_per_s, rates.products_bytes_per_s, rates.flops, from_disk=True
    )
    seconds, binds = _seconds(config, n_tokens, speeds)
    token, token_binds = _seconds(config, 1, speeds)
    if budget < smallest:
        why = (
            f"The budget is {size(budget)}; streaming needs at least {size(smallest)} "
            f"for prompts of up to {tokens:,} tokens."
        )
    elif memory > rates.memory_bytes:
        why = f"Streaming takes {size(memory)} of memory and {size(rates.memory_bytes)} is free."
    else:
        why = f"One layer at a time is read from disk and takes {size(memory)} of memory"
        why += f"; {limit(binds, rates)} limits it." if binds != UNKNOWN else "."
    return ModePlan(
        mode="streamed",
        fits=fits,
        memory_bytes=memory,
        smallest_bytes=smallest,
        read_bytes_per_pass=_read_bytes(config, n_tokens),
        seconds_per_pass=seconds,
        read_bytes_per_token=_read_bytes(config, 1),
        seconds_per_token=token,
        binds=binds,
        token_binds=token_binds,
        why=why,
    )


def streamed_bytes(config: GrokConfig, budget: int, n_tokens: int) -> int:
    """Peak memory of the whole process when it streams, by its own reckoning.

    Raises:
        DeviceError: the budget is too small.
    """
    parts = sizes(config, budget, n_tokens)
    return PROCESS + parts.working + parts.n_buffers * (parts.piece_bytes + 2 * BLOCK)


def _read_bytes(config: GrokConfig, n_tokens: int) -> int:
    return config.n_layers * read_layer_bytes(config, n_tokens) + _ends_bytes(config)


# --- the choice -----------------------------------------------------------------------------


def choose(
    config: GrokConfig,
    rates: Rates,
    *,
    n_tokens: int = 64,
    memory_budget: int = DEFAULT_BUDGET,
) -> Decision:
    """Resident where all weights fit, streamed where they don't; with the reason in words.

    Raises:
        DeviceError: neither fits; the text names the least memory that works.
        GrokError: as `plan`.
    """
    plans = plan(config, rates, n_tokens=n_tokens, memory_budget=memory_budget)
    resident, streamed = plans
    needed = size(resident.memory_bytes)
    if resident.fits:
        why = f"The weights take {needed} and {room(rates)}, so all of them are held there."
        return Decision("resident", why, plans)
    if not streamed.fits:
        raise DeviceError(
            f"This model's weights take {needed} and {room(rates)}. {streamed.why} "
            f"Give a memory budget of {_least(streamed.smallest_bytes)} GB or more, on a machine "
            "that has as much free."
        )
    why = f"The weights take {needed} and {room(rates)}, so layers are streamed from disk"
    if streamed.seconds_per_pass is None:
        return Decision("streamed", f"{why}. {rates.read_from}".strip(), plans)
    why += (
        f": about {duration(streamed.seconds_per_pass)} for a prompt of {n_tokens:,} "
        f"token{'s' if n_tokens > 1 else ''} (an estimate), limited by "
        f"{limit(streamed.binds, rates)}."
    )
    return Decision("streamed", why, plans)


def _least(n_bytes: int) -> float:
    """GB rounded up, so that the number given is enough."""
    return math.ceil(n_bytes / 1e8) / 10


def room(rates: Rates) -> str:
    """What there is, as half a sentence."""
    if rates.on_cpu:
        return f"this machine has {size(rates.device_bytes)} free"
    return f"{rates.devices} hold {size(rates.device_bytes)}"


def limit(binds: str, rates: Rates) -> str:
    """What binds, with its measured rate."""
    if binds == DISK and rates.read_bytes_per_s:
        return f"the disk ({rates.read_bytes_per_s / 1e9:.1f} GB/s)"
    if binds == ARITHMETIC and rates.flops:
        return f"arithmetic ({rates.flops / 1e9:,.0f} GFLOP/s)"
    if binds == BANDWIDTH and rates.products_bytes_per_s:
        return f"memory bandwidth ({rates.products_bytes_per_s / 1e9:.1f} GB/s of weights)"
    return binds


def size(n_bytes: float) -> str:
    """Bytes for a reader: "318 GB", "4.9 GB", "12.6 MB"."""
    if n_bytes >= 1e8:
        return f"{n_bytes / 1e9:,.{0 if n_bytes >= 1e10 else 1}f} GB"
    return f"{n_bytes / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """A time for a reader, in the unit that suits it."""
    if seconds < 0.1:
        return "less than 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
